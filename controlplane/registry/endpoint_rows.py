"""What `hftctl endpoints` shows of a service: what discovery has, an instance a row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.errors import InvalidInput
from controlplane.registry.discovery import Serving
from controlplane.site import document
from controlplane.site.view import SiteView

HEALTHS = ("passing", "warning", "critical")


def of_service(
    view: SiteView, service: str, found: Iterable[Serving], status: document.StatusDocument | None
) -> list[dict[str, Any]]:
    """`status`: of the same site, None where it is not known. Raises InvalidInput: no such service."""
    found = tuple(found)
    if not found and service not in view.specs:
        there = ", ".join(sorted({*view.specs, *view.registrations.services()})) or "none"
        raise InvalidInput(f'service "{service}" is not in site {view.site} (there are {there})')
    known = [row for row in status.services if row.name == service] if status is not None else []
    return rows(found, {each.id: each for row in known for each in row.instances})


def rows(found: Iterable[Serving], known: Mapping[str, document.InstanceRow]) -> list[dict[str, Any]]:
    """`known`: what the agents say, by instance; of one that is not ours they say nothing. The health is the
    worse of what the registry has and what its agent says, which is the first to know.
    """
    return [_row(each, known.get(each.instance)) for each in found]


def _row(found: Serving, known: document.InstanceRow | None) -> dict[str, Any]:
    of = found.registration
    worse = known is not None and _rank(known.health) > _rank(of.health)
    return {
        "instance": found.instance,
        "host": of.host,
        "role": found.role or None,
        "health": known.health if known is not None and worse else of.health,
        "endpoints": dict(found.endpoints),
        "maintenance": of.maintenance,
        "reason": known.reason if known is not None and worse else "",
        "epoch": found.epoch,
        "address": of.address,
        "port": of.port,
        "zone": of.zone,
        "weight": of.weight,
        "version": of.version,
        "tags": list(of.tags),
        "meta": dict(of.meta),
        "registry": of.health,
    }


def _rank(health: str) -> int:
    return HEALTHS.index(health) if health in HEALTHS else len(HEALTHS)
