"""What would make the store's specs the wanted ones, and each changed service's configuration with them.

`plan` reads and writes nothing; apply.py carries a plan out. What becomes of settings that were changed in
the store too is settings_merge.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane import model
from controlplane.config import revisions
from controlplane.model import ServiceSpec, records
from controlplane.model.config import RolloutRecord
from controlplane.model.observed import HostRecord
from controlplane.model.specs import DaemonKind, Tombstone
from controlplane.specs import diff, settings_check, settings_merge
from controlplane.specs.read import installed_kinds
from controlplane.specs.settings_merge import SettingsConflict, SettingsStep, Settled
from controlplane.store import Entry, Keys, Store


@dataclass(frozen=True, slots=True)
class Step:
    """One write of a plan."""

    service: str
    spec: ServiceSpec | None
    """None: the service is removed."""
    revision: int
    """Of what the store had under its key when the plan was made; 0: nothing."""
    found: str
    """The same, for an operator: "a spec of bookd on alpha", "nothing"."""
    hosts: tuple[str, ...] = ()
    """Of a removed service: those that have to confirm the stop."""
    settings: SettingsStep | None = None
    """What is written of its configuration beside the spec; None: nothing, as it has no records."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would make the store's specs the wanted ones."""

    wanted: tuple[ServiceSpec, ...]
    changes: tuple[diff.Change, ...]
    """What an operator says yes to."""
    steps: tuple[Step, ...] = ()
    """In the order in which they are written: new and changed services first, removed ones last."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Services that are as wanted, with their revisions."""
    before: tuple[ServiceSpec, ...] = ()
    """What the store had."""
    notes: tuple[str, ...] = ()
    """Lines about what is written and does not change what runs: a setting of the file of which the store's
    stays, or what another release derives."""
    conflicts: tuple[SettingsConflict, ...] = ()
    """Nothing is written while there are any."""
    rollouts: tuple[RolloutRecord, ...] = ()
    """Under way, of services whose settings would change: nothing is written either."""

    @property
    def blocked(self) -> tuple[str, ...]:
        """Why it cannot be applied, line by line; empty: it can."""
        lines = [str(each) for each in self.conflicts]
        if lines:
            lines.append("settle it: the same again with --settings file, or with --settings store")
        return (*lines, *(revisions.under_way(each) for each in self.rollouts))


# --- what would change --------------------------------------------------------------------------------------


async def plan(
    store: Store,
    keys: Keys,
    wanted: Sequence[ServiceSpec],
    settings: str = "",
    kinds: Callable[[], Mapping[str, DaemonKind]] = installed_kinds,
) -> Plan:
    """Compare what the store has with what is wanted. Writes nothing. `settings`: whose side a setting takes
    that was changed in the file and in the store, `file` or `store`; empty: it is a conflict of the plan.

    Raises:
        Unavailable: the store does not answer. Refused: the file's settings and the store's, merged, are
        not what the daemon allows.
    """
    entries = (await store.range(keys.specs)).entries
    hosts = (await store.range(keys.hosts)).entries.values()
    by_service = {key.removeprefix(keys.specs): entry for key, entry in entries.items()}
    configs: Mapping[str, Entry] = {}
    if any(stored(by_service.get(spec.name))[0] != spec for spec in wanted):
        configs = (await store.range(keys.config)).entries
    settled = {
        spec.name: _settled(keys, by_service.get(spec.name), configs, spec, settings, kinds)
        for spec in wanted
    }
    return compare(by_service, wanted, running_on(hosts), settled)


def _settled(
    keys: Keys,
    entry: Entry | None,
    configs: Mapping[str, Entry],
    wanted: ServiceSpec,
    side: str,
    kinds: Callable[[], Mapping[str, DaemonKind]],
) -> Settled:
    """What becomes of the settings of one service."""
    was = stored(entry)[0]
    if was == wanted:
        return Settled(wanted.settings, wanted.settings)
    own = {key: each for key, each in configs.items() if key.startswith(keys.config_of(wanted.name))}
    stands = revisions.standing(keys, wanted.name, entry, own)

    def check(document: Mapping[str, Any]) -> None:
        kind = kinds().get(wanted.daemon)
        if kind is not None:
            settings_check.check(kind, document, wanted.name)

    base: Mapping[str, Any] | None = None
    if isinstance(was, ServiceSpec) and was.daemon == wanted.daemon:
        base = was.settings
    elif was is None and entry is not None:
        base = {}  # it does not decode: whatever the store's document says may be an operator's word
    return settings_merge.settle(stands, base, wanted, side, check)


def running_on(entries: Collection[Entry]) -> dict[str, set[str]]:
    """Service -> hosts whose agents report an instance of it; what does not decode counts for none."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        with contextlib.suppress(msgspec.DecodeError):
            record = model.decode(HostRecord, entry.value)
            for instance in record.instances:
                found.setdefault(instance.service, set()).add(record.host)
    return found


def compare(
    entries: Mapping[str, Entry],
    wanted: Sequence[ServiceSpec],
    running: Mapping[str, Collection[str]],
    settled: Mapping[str, Settled],
) -> Plan:
    """Pure: the plan from what stands under `specs/`, by service. `settled`: of each wanted one."""
    names = {spec.name for spec in wanted}
    before: list[ServiceSpec] = []
    steps: list[Step] = []
    removals: list[Step] = []
    replaced: list[diff.Change] = []
    kept: dict[str, int] = {}
    derived: list[str] = []
    found = {service: stored(entry) for service, entry in entries.items()}
    for service, (spec, said) in found.items():
        if isinstance(spec, ServiceSpec):
            before.append(spec)
        elif spec is None and service in names:
            replaced.append(diff.Change(service, "spec", said, "as in the file"))
        elif spec is None:
            replaced.append(diff.Change(service, "", service, None))
        if service in names or isinstance(spec, Tombstone):
            continue
        hosts = {*running.get(service, ()), *(spec.hosts if spec is not None else ())}
        removals.append(Step(service, None, entries[service].revision, said, tuple(sorted(hosts))))
    for service in sorted(running.keys() - entries.keys() - names):
        # The spec was deleted by another writer, which stops nothing; leaving it out of the file does.
        replaced.append(diff.Change(service, "", service, None))
        hosts_of = ", ".join(sorted(running[service]))
        said = f"no spec, and it runs on {hosts_of}"
        removals.append(Step(service, None, 0, said, tuple(sorted(running[service]))))
    for spec in wanted:
        there, said = found.get(spec.name, (None, "nothing"))
        entry = entries.get(spec.name)
        if entry is not None and there == spec:
            kept[spec.name] = entry.revision
        else:
            step = settled[spec.name].step
            if isinstance(there, ServiceSpec) and diff.same_but_derived(there, spec):
                derived.append(f"= {spec.name}: as it is, but for what follows from its daemon's schema")
            steps.append(Step(spec.name, spec, entry.revision if entry else 0, said, settings=step))
    unreadable = {change.service for change in replaced}
    # What an operator says yes to is what will run, which is not in every case what the file says.
    runs = [_with(spec, settled[spec.name].before) if spec.name in settled else spec for spec in before]
    shall_run = [_with(spec, settled[spec.name].after) for spec in wanted]
    changes = [
        change
        for change in diff.diff(runs, shall_run)
        if not (change.service in unreadable and change.field == "")
    ]
    all_settled = settled.values()
    return Plan(
        tuple(wanted),
        (*replaced, *changes),
        (*steps, *removals),
        kept,
        tuple(before),
        (*derived, *(note for each in all_settled for note in each.notes)),
        tuple(conflict for each in all_settled for conflict in each.conflicts),
        tuple(each.rollout for each in all_settled if each.rollout is not None),
    )


def _with(spec: ServiceSpec, settings: Mapping[str, Any]) -> ServiceSpec:
    return dataclasses.replace(spec, settings=settings)


def stored(entry: Entry | None) -> tuple[ServiceSpec | Tombstone | None, str]:
    """What stands under a key, and the same for an operator; None: absent, or it does not decode."""
    if entry is None:
        return None, "nothing"
    try:
        found = records.decode_spec(entry.value)
    except msgspec.DecodeError as exc:
        return None, f"a record that does not decode ({exc})"
    if isinstance(found, ServiceSpec) and found.name != entry.key.rpartition("/")[2]:
        return None, f"a spec of another service ({found.name})"
    if isinstance(found, Tombstone):
        return found, f"a tombstone (removed by {found.by} at {found.at}: {found.reason})"
    return found, f"a spec of {found.daemon} on {', '.join(found.hosts)} (revision {entry.revision})"
