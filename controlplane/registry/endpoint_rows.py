"""What `hftctl endpoints` shows of a service: what discovery has, an instance a row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane import registry
from controlplane.site import document

HEALTHS = ("passing", "warning", "critical")


def rows(
    found: Iterable[registry.Serving], known: Mapping[str, document.InstanceRow]
) -> list[dict[str, Any]]:
    """`known`: what the agents say, by instance; of one that is not ours they say nothing. The health is the
    worse of what the registry has and what its agent says, which is the first to know.
    """
    return [_row(each, known.get(each.instance)) for each in found]


def _row(found: registry.Serving, known: document.InstanceRow | None) -> dict[str, Any]:
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
