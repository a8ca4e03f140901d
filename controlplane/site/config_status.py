"""What a status says of configuration: the revision that each instance is to have in force, who is late, and
the site's kill switch. Pure, save that `ConfigLag` remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from controlplane.model import ServiceSpec
from controlplane.model.config import FIRST_REVISION, KILL_SWITCH, PlainKey, ServiceConfig
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.site import document, look

LATE_MS = 5000
"""A daemon takes changed settings within milliseconds."""
RESTART_LATE_MS = 45_000
"""One that has to be restarted for them waits for its standbys (HOLD_MAX_S of the supervisor), stops and
starts."""


class Site(Protocol):
    @property
    def specs(self) -> Mapping[str, ServiceSpec]: ...
    @property
    def hosts(self) -> Mapping[str, HostRecord]: ...
    @property
    def configs(self) -> Mapping[str, ServiceConfig]:
        """By service."""

    @property
    def plain(self) -> Mapping[str, PlainKey]: ...


def of_service(view: Site, service: str) -> tuple[int, str]:
    """The revision that is wanted, and the operation of the rollout that is under way; empty: none is."""
    config = view.configs.get(service, ServiceConfig())
    wanted = config.current.revision if config.current is not None else FIRST_REVISION
    return wanted, config.rollout.operation if config.rollout is not None else ""


def wanted(view: Site, service: str, instance: str) -> int:
    return view.configs.get(service, ServiceConfig()).wanted_revision(instance)


class ConfigLag:
    """For how long each instance has not had in force what it is to have, by the asker's clock: hosts' clocks
    differ. One that goes from revision to revision is not late.
    """

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, int]] = {}
        """Instance -> the revision that it has, and since when that is not the wanted one (boot ns)."""

    def __repr__(self) -> str:
        return f"<ConfigLag of {', '.join(sorted(self._since)) or 'nobody'}>"

    def look(self, view: Site, now_boot_ns: int) -> Mapping[str, int]:
        """Milliseconds, of those that differ now."""
        before, self._since = self._since, {}
        for each in _behind(view):
            revision, since_ns = before.get(each.id, (0, 0))
            self._since[each.id] = (
                each.config_revision,
                (since_ns if revision == each.config_revision else now_boot_ns),
            )
        return {name: (now_boot_ns - since_ns) // 1_000_000 for name, (_, since_ns) in self._since.items()}


def _behind(view: Site) -> Iterator[InstanceStatus]:
    """What an agent of an earlier release calls so is the revision of the spec, and no revision of a spec is
    said.
    """
    for record in view.hosts.values():
        for each in record.instances:
            known = each.pid is not None and each.spec_revision and each.service in view.specs
            if known and each.config_revision != wanted(view, each.service, each.id):
                yield each


def late(
    view: Site, services: Sequence[document.ServiceRow], lag_ms: Mapping[str, int]
) -> Iterator[tuple[document.InstanceRow, str]]:
    """The desired instances that have not had the wanted revision for too long, and what to say of each. What
    a rollout has in its hands is the rollout's.
    """
    for service in services:
        if service.rollout:
            continue
        for row in service.instances[: service.desired]:
            behind_ms = lag_ms.get(row.id, 0)
            if behind_ms <= (RESTART_LATE_MS if _restarts(view, service.name, row) else LATE_MS):
                continue
            why = f"refused: {row.config_refused}" if row.config_refused else "it has not taken it"
            yield (
                row,
                (
                    f"{row.id}: revision {row.config_wanted} of its configuration is wanted, and for "
                    f"{behind_ms / 1000:.0f} s {row.config_revision} has stayed in force: {why}: `hftctl "
                    f"config history {service.name}`, `hftctl logs {row.id}`"
                ),
            )


def _restarts(view: Site, service: str, row: document.InstanceRow) -> bool:
    """Going from what it has to what is wanted takes a restart."""
    spec, revisions = view.specs.get(service), view.configs.get(service, ServiceConfig()).revisions
    there, to = revisions.get(row.config_revision), revisions.get(row.config_wanted)
    if spec is None or there is None or to is None:
        return False
    names = there.document.keys() | to.document.keys()
    changed = {name for name in names if there.document.get(name) != to.document.get(name)}
    return bool(changed) if spec.restart is None else not changed.isdisjoint(spec.restart)


def kill_switch(view: Site, now_wall_ns: int) -> document.AlarmState | None:
    """The alarm while it is on; None: it is not."""
    record = view.plain.get(KILL_SWITCH)
    if record is None or record.value is False:
        return None
    text = (
        "the kill switch is on: every order manager refuses new orders and replaces, cancels pass; set by "
        f"{record.actor or 'a client that left no name'} at {look.iso(record.set_ns or now_wall_ns)}: "
        f"{record.reason or 'no reason given'}"
    )
    if record.ttl_s is not None:
        text += f"; it ends by itself {record.ttl_s:g} s after that"
    text += "; `hftctl config set /kill_switch false --reason WHY` takes it back"
    since = look.iso(record.set_ns or now_wall_ns)
    return document.AlarmState(look.KILL_SWITCH, "warning", look.SITE, text, since)
