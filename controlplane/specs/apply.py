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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane import model
from controlplane.config import revisions
from controlplane.errors import HftctlError, Unavailable
from controlplane.model import records
from controlplane.model.specs import Tombstone
from controlplane.operations import log as operation_log
from controlplane.specs.planning import Plan as Plan
from controlplane.specs.planning import Step, stored
from controlplane.specs.planning import plan as plan
from controlplane.store import Committed, Compare, Delete, Entry, Keys, Put, Store
from controlplane.store.limits import OPERATIONS_MAX, VALUES_BYTES_MAX

KIND = "apply"
"""Of its operations."""
WRITE_TRIES = 3
"""Of one transaction whose answers are lost; each try has the store client's own deadline."""
CONFIRM_TRIES = 3
"""Of one agent's confirmation, against those of the other hosts; the next look at the store tries again."""


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
    if plan.blocked:
        left = tuple(step.service for step in plan.steps)
        return Applied("refused", None, "; ".join(plan.blocked), not_applied=left)
    if not plan.steps:
        return Applied("succeeded", None, "nothing to do", revisions=dict(plan.kept))
    subject = _subject(plan.steps)
    record = records.OperationRecord(operation, KIND, subject, "running", actor, reason, now_ns)
    await operation_log.begin(store, keys, record)
    steps = _Steps(store, keys, operation, now_ns)
    done = await _write(store, keys, plan, steps, Author(actor, reason, operation, now_ns))
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


@dataclass(frozen=True, slots=True)
class Author:
    """Of one apply, in what it writes."""

    actor: str
    reason: str
    operation: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one step writes, all of it in one transaction."""

    step: Step
    put: Put
    """Of its spec."""
    compares: tuple[Compare, ...]
    then: tuple[Put | Delete, ...]
    row: Put | None = None
    """Of its new revision."""
    kept: tuple[Compare, ...] = ()
    """What it looked at and leaves as it is."""

    @property
    def operations(self) -> int:
        return len(self.compares) + len(self.then)

    @property
    def size(self) -> int:
        return sum(len(each.value) for each in self.then if isinstance(each, Put))


async def _write(store: Store, keys: Keys, plan: Plan, steps: _Steps, author: Author) -> Applied:
    in_store = dict(plan.kept)
    applied: list[str] = []
    for batch in batches(plan, keys, author):
        if steps.done:
            await steps.tell()
        started_ns = steps.now_ns()
        compares = [compare for part in batch for compare in part.compares]
        writes = [write for part in batch for write in part.then]
        if len(batch) == len(plan.steps) and len(compares) + len(writes) + len(plan.kept) <= OPERATIONS_MAX:
            # In one transaction with what stays as it is: the file is in force as a whole, or not at all.
            compares += [Compare(keys.spec(name), revision) for name, revision in plan.kept.items()]
        done = await _commit(store, keys, compares, writes, batch)
        if not done.written:
            left = tuple(step.service for step in plan.steps if step.service not in applied)
            conflicts = tuple(_conflicts(compares, plan, keys, done.now)) if done.now is not None else ()
            why = "; ".join(str(each) for each in conflicts) or done.reason
            outcome = "unknown" if done.unknown else "failed" if applied else "refused"
            steps.add([part.step for part in batch], outcome, started_ns, why)
            return Applied(outcome, steps.operation, why, tuple(applied), left, conflicts, in_store)
        in_store |= {p.step.service: done.written[p.put.key] for p in batch if p.step.spec is not None}
        applied += [part.step.service for part in batch]
        steps.add([part.step for part in batch], "succeeded", started_ns)
    return Applied("succeeded", steps.operation, applied=tuple(applied), revisions=in_store)


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of one transaction."""

    written: Mapping[str, int] = field(default_factory=dict)
    """Key of a spec -> revision; empty: it was not written, or that is unknown."""
    unknown: bool = False
    reason: str = ""
    now: Mapping[str, Entry] | None = None
    """What stands under `specs/` and under the other keys that were compared, where it could be read."""


async def _commit(
    store: Store,
    keys: Keys,
    compares: Sequence[Compare],
    writes: Sequence[Put | Delete],
    parts: Sequence[Part],
) -> _Done:
    """One transaction; where it is lost, or its answer is, reading tells what became of it.

    A write whose answer was lost, and which is not there, may still arrive: it is tried again, as the
    compares let it happen only once, and is unknown in the end.
    """
    reason = ""
    lost_before = False
    for _ in range(WRITE_TRIES):
        lost_answer = False
        try:
            outcome = await store.txn(compares, writes)
            if isinstance(outcome, Committed):
                return _Done({part.put.key: outcome.of_puts for part in parts})
        except HftctlError as exc:
            reason = f"the store did not take the write: {exc}"
            lost_answer = isinstance(exc, Unavailable) and exc.ambiguous
            if not lost_answer:
                return _Done(reason=reason, unknown=lost_before)
            lost_before = True
        try:
            now = await _now(store, keys, compares)
        except HftctlError as exc:
            return _Done(unknown=lost_answer, reason=f"{reason or 'a conflict'}; it could not be read: {exc}")
        if all(_as_wanted(part, now) for part in parts):
            # Ours, after all, or the same by another writer: either way it is as wanted.
            return _Done({part.put.key: now[part.put.key].revision for part in parts})
        if not lost_answer or any(_revision(now, each.key) != each.revision for each in compares):
            return _Done(reason=reason or "it was changed meanwhile", now=now)
    return _Done(unknown=True, reason=reason)


def _as_wanted(part: Part, now: Mapping[str, Entry]) -> bool:
    spec = now.get(part.put.key)
    if spec is None or spec.value != part.put.value:
        return False
    if any(_revision(now, each.key) != each.revision for each in part.kept):
        return False
    row = now.get(part.row.key) if part.row is not None else None
    return part.row is None or (row is not None and revisions.same_document(row, part.row))


async def _now(store: Store, keys: Keys, compares: Sequence[Compare]) -> dict[str, Entry]:
    """All specs, and of the other keys those that were compared."""
    now = dict((await store.range(keys.specs)).entries)
    for compare in compares:
        if not compare.key.startswith(keys.specs):
            entry = await store.get(compare.key)
            if entry is not None:
                now[entry.key] = entry
    return now


def _revision(entries: Mapping[str, Entry], key: str) -> int:
    entry = entries.get(key)
    return entry.revision if entry is not None else 0


def batches(plan: Plan, keys: Keys, author: Author) -> Iterator[list[Part]]:
    """The steps with what each writes, in groups that fit into one transaction of every back end."""
    batch: list[Part] = []
    operations, size = 0, 0
    for step in plan.steps:
        part = _part(step, keys, author)
        if batch and (operations + part.operations > OPERATIONS_MAX or size + part.size > VALUES_BYTES_MAX):
            yield batch
            batch, operations, size = [], 0, 0
        batch.append(part)
        operations, size = operations + part.operations, size + part.size
    if batch:
        yield batch


def _part(step: Step, keys: Keys, author: Author) -> Part:
    compares = {keys.spec(step.service): step.revision}
    if step.spec is None:
        # Its revisions stay, as history; what is wanted, and a rollout, end with it.
        record = Tombstone(author.actor, author.reason, _iso(author.at_ns), step.hosts)
        put = Put(keys.spec(step.service), model.encode(record))
        ends = (Delete(keys.config_current(step.service)), Delete(keys.config_rollout(step.service)))
        return Part(step, put, _compares(compares), (put, *ends))
    put = Put(keys.spec(step.service), model.encode(step.spec))
    then: tuple[Put | Delete, ...] = (put,)
    row: Put | None = None
    kept: tuple[Compare, ...] = ()
    if step.settings is not None:
        stands, document = step.settings.stands, step.settings.document
        compares |= {key: at for key, at in stands.at.items() if key not in compares}
        if document is not None:
            new = revisions.New(
                document,
                revisions.SERVICES_FILE,
                author.actor,
                author.reason,
                author.at_ns,
                author.operation,
            )
            made = revisions.writes(keys, stands, new)
            compares |= {each.key: each.revision for each in made.compares if each.key not in compares}
            then, row = (*then, *made.then), made.row
        else:
            current = keys.config_current(step.service)
            kept = (Compare(current, stands.at[current]),)
    return Part(step, put, _compares(compares), then, row, kept)


def _compares(found: Mapping[str, int]) -> tuple[Compare, ...]:
    return tuple(Compare(key, revision) for key, revision in found.items())


def _conflicts(
    compares: Sequence[Compare], plan: Plan, keys: Keys, now: Mapping[str, Entry]
) -> Iterator[Conflict]:
    planned = {step.service: step.found for step in plan.steps}
    changed: set[str] = set()
    for compare in compares:
        if _revision(now, compare.key) == compare.revision:
            continue
        if compare.key.startswith(keys.specs):
            service = compare.key.removeprefix(keys.specs)
            on = planned.get(service, f"its spec as wanted (revision {compare.revision})")
            yield Conflict(service, on, stored(now.get(compare.key))[1])
        else:
            service = compare.key.removeprefix(keys.config).partition("/")[0]
            if service not in changed:
                yield Conflict(service, "the configuration that it had", "another one, or a rollout of one")
            changed.add(service)


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
