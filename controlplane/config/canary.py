"""Which instances run a new revision first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from controlplane.errors import InvalidInput
from controlplane.model import Mode, ServiceSpec
from controlplane.model.observed import InstanceStatus
from controlplane.model.records import LeaderRecord
from controlplane.site.view import SiteView


def choose(
    spec: ServiceSpec, leader: LeaderRecord | None = None, asked: Sequence[str] = ()
) -> tuple[str, ...]:
    """As asked; else, of a group, all but its leader; else the first by name. Of a single instance that one,
    which is then canary and all. `leader`: of a group.

    Raises InvalidInput: one that was asked for is not an instance of the service, or it has none.
    """
    members = [slot.instance for slot in spec.slots()]
    if not members:
        raise InvalidInput(f"rollout: {spec.name} has no instance")
    for name in asked:
        if name not in members:
            raise InvalidInput(
                f"rollout: found {name[:60]!r}, wanted instances of {spec.name} ({', '.join(members)})"
            )
    if asked:
        return tuple(name for name in members if name in asked)
    leads = _leads(leader) if spec.mode is Mode.ACTIVE_STANDBY else None
    standbys = tuple(name for name in members if name != leads) if leads in members else ()
    return standbys or (min(members),)


def _leads(leader: LeaderRecord | None) -> str | None:
    """Who leads, or led last."""
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
