"""The one writer of specs in the store: `plan` says what would change, `apply` does it, `confirm_stop` ends a
tombstone.

Promises: nothing is written that differs from the plan an operator has seen. Every write compares the
revision that the plan was made on, so a change made by another writer in between is a conflict, named with
both sides. Specs that are as wanted are not rewritten: their instances see no new configuration. What a plan
holds goes in one transaction where it fits (a floor of 32 services does); a larger one goes in order, and the
answer says what was applied and what was not. Who applied what, and why, is an operation in the store.

Used by `hftctl up`, `hftctl apply` and `hftctl diff`; the agents (agents/last_specs.py) read what it wrote
and confirm what they have stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from controlplane import model
from controlplane.errors import HftctlError, Unavailable
from controlplane.model import ServiceSpec, records
from controlplane.model.observed import HostRecord
from controlplane.model.specs import Tombstone
from controlplane.operations import log as operation_log
from controlplane.specs import diff
from controlplane.store import Committed, Compare, Delete, Entry, Keys, Put, Store
from controlplane.store.limits import OPERATIONS_MAX, VALUES_BYTES_MAX

KIND = "apply"
"""Of its operations."""
WRITE_TRIES = 3
"""Of one transaction whose answers are lost; each try has the store client's own deadline."""
CONFIRM_TRIES = 3
"""Of one agent's confirmation, against those of the other hosts; the next look at the store tries again."""


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


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another writer has changed a service since the plan was made."""

    service: str
    planned_on: str
    found: str

    def __str__(self) -> str:
        return f"{self.service}: planned on {self.planned_on}, the store now has {self.found}"


@dataclass(frozen=True, slots=True)
class Applied:
    """How an apply ended."""

    outcome: str
    """succeeded; refused (a conflict, nothing was written); failed (some of it was written); unknown."""
    operation: str | None
    """None: there was nothing to do."""
    reason: str = ""
    applied: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Of each wanted service that is in the store as wanted: the configuration revision of its instances."""


# --- what would change --------------------------------------------------------------------------------------


async def plan(store: Store, keys: Keys, wanted: Sequence[ServiceSpec]) -> Plan:
    """Compare what the store has with what is wanted. Writes nothing.

    Raises:
        Unavailable: the store does not answer.
    """
    entries = (await store.range(keys.specs)).entries
    hosts = (await store.range(keys.hosts)).entries.values()
    by_service = {key.removeprefix(keys.specs): entry for key, entry in entries.items()}
    return compare(by_service, wanted, running_on(hosts))


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
    entries: Mapping[str, Entry], wanted: Sequence[ServiceSpec], running: Mapping[str, Collection[str]]
) -> Plan:
    """Pure: the plan from what stands under `specs/`, by service."""
    names = {spec.name for spec in wanted}
    before: list[ServiceSpec] = []
    steps: list[Step] = []
    removals: list[Step] = []
    replaced: list[diff.Change] = []
    kept: dict[str, int] = {}
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
            steps.append(Step(spec.name, spec, entry.revision if entry else 0, said))
    unreadable = {change.service for change in replaced}
    changes = [
        change
        for change in diff.diff(before, wanted)
        if not (change.service in unreadable and change.field == "")
    ]
    return Plan(tuple(wanted), (*replaced, *changes), (*steps, *removals), kept, tuple(before))


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


# --- doing it -----------------------------------------------------------------------------------------------


def new_operation() -> str:
    """An id for one apply."""
    return f"{KIND}-{os.urandom(5).hex()}"


async def apply(
    store: Store, keys: Keys, plan: Plan, *, operation: str, actor: str, reason: str, now_ns: int
) -> Applied:
    """Carry out `plan` as operation `operation`, and say what was and what was not applied.

    The answer is a value for everything that can happen once the operation stands in the store; a lost answer
    to a write is settled by reading, and is `unknown` only when reading fails too.

    Raises:
        Unavailable: the operation could not be recorded; nothing was applied. Refused: its id is taken.
    """
    if not plan.steps:
        return Applied("succeeded", None, "nothing to do", revisions=dict(plan.kept))
    subject = _subject(plan.steps)
    record = records.OperationRecord(operation, KIND, subject, "running", actor, reason, now_ns)
    await operation_log.begin(store, keys, record)
    steps = _Steps(store, keys, operation, now_ns)
    done = await _write(store, keys, plan, steps, Tombstone(actor, reason, _iso(now_ns)))
    # How it ended is told by the answer; a record that stays "running" says only that the store went away.
    with contextlib.suppress(HftctlError):
        await operation_log.finish(
            store, keys, operation, done.outcome, steps.now_ns(), outcome=done.reason, steps=steps.done
        )
        await operation_log.trim(store, keys)
    return done


class _Steps:
    """What was written, transaction by transaction, for who looks on and for the record."""

    def __init__(self, store: Store, keys: Keys, operation: str, began_ns: int) -> None:
        self.done: list[records.OperationStep] = []
        self.operation = operation
        self._store, self._keys = store, keys
        self._began_ns, self._began_mono_ns = began_ns, time.monotonic_ns()

    def now_ns(self) -> int:
        return self._began_ns + time.monotonic_ns() - self._began_mono_ns

    def add(self, steps: Sequence[Step], state: str, started_ns: int, detail: str = "") -> None:
        name = f"specs of {_subject(steps)}"
        self.done.append(records.OperationStep(name, state, started_ns, self.now_ns(), detail))

    async def tell(self) -> None:
        with contextlib.suppress(HftctlError):
            await operation_log.progress(self._store, self._keys, self.operation, self.done)


async def _write(store: Store, keys: Keys, plan: Plan, steps: _Steps, tombstone: Tombstone) -> Applied:
    revisions = dict(plan.kept)
    applied: list[str] = []
    for batch in batches(plan, keys, tombstone):
        if steps.done:
            await steps.tell()
        started_ns = steps.now_ns()
        compares = [Compare(keys.spec(step.service), step.revision) for step, _ in batch]
        if len(batch) == len(plan.steps) and len(batch) * 2 + len(plan.kept) <= OPERATIONS_MAX:
            # In one transaction with what stays as it is: the file is in force as a whole, or not at all.
            compares += [Compare(keys.spec(name), revision) for name, revision in plan.kept.items()]
        done = await _commit(store, keys, compares, [put for _, put in batch])
        if not done.written:
            left = tuple(step.service for step in plan.steps if step.service not in applied)
            conflicts = tuple(_conflicts(compares, plan, keys, done.now)) if done.now is not None else ()
            why = "; ".join(str(each) for each in conflicts) or done.reason
            outcome = "unknown" if done.unknown else "failed" if applied else "refused"
            steps.add([step for step, _ in batch], outcome, started_ns, why)
            return Applied(
                outcome,
                steps.operation,
                why,
                tuple(applied),
                left,
                conflicts,
                revisions,
            )
        revisions |= {s.service: done.written[put.key] for s, put in batch if s.spec is not None}
        applied += [step.service for step, _ in batch]
        steps.add([step for step, _ in batch], "succeeded", started_ns)
    return Applied("succeeded", steps.operation, applied=tuple(applied), revisions=revisions)


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one transaction."""

    written: Mapping[str, int] = field(default_factory=dict)
    """Key -> revision; empty: it was not written, or that is unknown."""
    unknown: bool = False
    reason: str = ""
    now: Mapping[str, Entry] | None = None
    """What stands under `specs/` instead, where that could be read."""


async def _commit(store: Store, keys: Keys, compares: Sequence[Compare], puts: Sequence[Put]) -> _Done:
    """One transaction; where it is lost, or its answer is, reading tells what became of it.

    A write whose answer was lost, and which is not there, may still arrive: it is tried again, as the
    compares let it happen only once, and is unknown in the end.
    """
    reason = ""
    lost_before = False
    for _ in range(WRITE_TRIES):
        lost_answer = False
        try:
            outcome = await store.txn(compares, puts)
            if isinstance(outcome, Committed):
                return _Done({put.key: outcome.of_puts for put in puts})
        except HftctlError as exc:
            reason = f"the store did not take the write: {exc}"
            lost_answer = isinstance(exc, Unavailable) and exc.ambiguous
            if not lost_answer:
                return _Done(reason=reason, unknown=lost_before)
            lost_before = True
        try:
            now = (await store.range(keys.specs)).entries
        except HftctlError as exc:
            return _Done(unknown=lost_answer, reason=f"{reason or 'a conflict'}; it could not be read: {exc}")
        if all(put.key in now and now[put.key].value == put.value for put in puts):
            # Ours, after all, or the same by another writer: either way it is as wanted.
            return _Done({put.key: now[put.key].revision for put in puts})
        if not lost_answer or any(_revision(now, each.key) != each.revision for each in compares):
            return _Done(reason=reason or "it was changed meanwhile", now=now)
    return _Done(unknown=True, reason=reason)


def _revision(entries: Mapping[str, Entry], key: str) -> int:
    entry = entries.get(key)
    return entry.revision if entry is not None else 0


def batches(plan: Plan, keys: Keys, tombstone: Tombstone) -> Iterator[list[tuple[Step, Put]]]:
    """The steps with what each writes, in groups that fit into one transaction of every back end."""
    batch: list[tuple[Step, Put]] = []
    size = 0
    for step in plan.steps:
        record = step.spec if step.spec is not None else dataclasses.replace(tombstone, hosts=step.hosts)
        put = Put(keys.spec(step.service), model.encode(record))
        if batch and ((len(batch) + 1) * 2 > OPERATIONS_MAX or size + len(put.value) > VALUES_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append((step, put))
        size += len(put.value)
    if batch:
        yield batch


def _conflicts(
    compares: Sequence[Compare], plan: Plan, keys: Keys, now: Mapping[str, Entry]
) -> Iterator[Conflict]:
    planned = {step.service: step.found for step in plan.steps}
    for compare in compares:
        if _revision(now, compare.key) != compare.revision:
            service = compare.key.removeprefix(keys.specs)
            on = planned.get(service, f"its spec as wanted (revision {compare.revision})")
            yield Conflict(service, on, stored(now.get(compare.key))[1])


def _subject(steps: Sequence[Step]) -> str:
    """What the operation is about, in a line of `hftctl op list`."""
    names = [f"{'' if step.spec is not None else '-'}{step.service}" for step in steps]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _iso(wall_ns: int) -> str:
    return (
        datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


# --- the end of a tombstone ---------------------------------------------------------------------------------


async def confirm_stop(store: Store, keys: Keys, service: str, host: str) -> None:
    """Say for `host` that no instance of a removed service is left there; the last host ends the tombstone.

    Idempotent, and safe beside every other host and an apply that names the service again: each write
    compares the revision that it was decided on. Does nothing where no tombstone stands or the host has
    confirmed already.

    Raises:
        Unavailable: the store does not answer; confirm again later.
    """
    key = keys.spec(service)
    for _ in range(CONFIRM_TRIES):
        entry = await store.get(key)
        found = stored(entry)[0]
        if entry is None or not isinstance(found, Tombstone):
            return
        left = tuple(name for name in found.hosts if name != host)
        if left == found.hosts and left:
            return
        step: Put | Delete = (
            Put(key, model.encode(dataclasses.replace(found, hosts=left))) if left else Delete(key)
        )
        if isinstance(await store.txn([Compare(key, entry.revision)], [step]), Committed):
            return
