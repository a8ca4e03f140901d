"""Which instances run a new revision first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from controlplane.errors import InvalidInput
from controlplane.model import Mode, ServiceSpec
from controlplane.model.observed import InstanceStatus
from controlplane.site.view import SiteView


def choose(view: SiteView, service: str, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """As asked; else, of a group, all but its leader; else the first by name. Of a single instance that one,
    which is then canary and all.

    Raises:
        InvalidInput: the service is not in the site, or one that was asked for is not of it.
    """
    spec = view.specs.get(service)
    if spec is None:
        there = ", ".join(sorted(view.specs)) or "none"
        raise InvalidInput(f'service "{service}" is not in site {view.site} (there are {there})')
    members = [slot.instance for slot in spec.slots()]
    for name in asked:
        if name not in members:
            raise InvalidInput(f'canary "{name}" is not an instance of {service} ({", ".join(members)})')
    if asked:
        return tuple(name for name in members if name in asked)
    leads = _leader(view, spec)
    standbys = tuple(name for name in members if name != leads) if leads in members else ()
    return standbys or (min(members),)


def _leader(view: SiteView, spec: ServiceSpec) -> str | None:
    """Who leads, or led last."""
    leader = view.leaders.get(spec.name) if spec.mode is Mode.ACTIVE_STANDBY else None
    if leader is None:
        return None
    return leader.holder.instance if leader.holder is not None else leader.home


def heard_of(view: SiteView, instances: Iterable[str]) -> dict[str, InstanceStatus]:
    """Those of them that some host's record has."""
    wanted = set(instances)
    return {each.id: each for record in view.hosts.values() for each in record.instances if each.id in wanted}


def crashes_of(heard: Mapping[str, InstanceStatus], instances: Iterable[str]) -> dict[str, int]:
    """For RolloutRecord.crashes."""
    return {name: heard[name].crashes for name in instances if name in heard}
