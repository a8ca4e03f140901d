"""The log of operations: what an operator or the system set out to do, its steps, and how it ended, under
`ops/`.

`begin` writes a new record once; `progress` says how far it is; `finish` closes it once, by compare-and-swap:
of two that finish, the first one's outcome stands. Nothing else ends an operation: one whose process died
stays `running`, as nobody knows what became of it. A write whose answer was lost is recognised by reading,
never repeated blindly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from controlplane import model
from controlplane.errors import Refused, Unavailable
from controlplane.model import bounds, records
from controlplane.store import Committed, Entry, Keys, Store

RUNNING = "running"
FINISHED = frozenset({"succeeded", "refused", "failed", "unknown", "cancelled"})

KEPT_MAX = 200
"""Finished operations in the store; the elected controller moves older ones to its disk (archive.py). 200
records are 60 KiB in every view of the site, some 200 with all their steps."""
HELD_MAX = 1000
"""Of a store that no controller has looked after for as many: from then on the oldest are deleted."""

OUTCOME_MAX, NAME_MAX = 1000, 200
"""Characters."""

TRIES = 3


async def begin(store: Store, keys: Keys, record: records.OperationRecord) -> records.OperationRecord:
    """Write a new operation in state running.

    Raises:
        Refused: the id is taken by another operation. Unavailable: no answer, and it is not known to be
        written.
    """
    record = dataclasses.replace(record, state=RUNNING, finished_ns=None)
    try:
        outcome = await store.put(keys.operation(record.id), model.encode(record), expect=0)
    except Unavailable as exc:
        if not exc.ambiguous or await find(store, keys, record.id) != record:
            raise
        return record
    if isinstance(outcome, Committed):
        return record
    if (standing := await find(store, keys, record.id)) == record:
        return record  # our own write, after all
    raise Refused(
        f"operation {record.id}: the id is taken ({standing.kind if standing else 'deleted meanwhile'})"
    )


async def progress(store: Store, keys: Keys, operation: str, steps: Sequence[records.OperationStep]) -> None:
    """Say how far a running operation is. For who looks on: what cannot be written is left out, and one that
    has ended stays as it ended. Raises Unavailable.
    """
    entry = await store.get(keys.operation(operation))
    standing = None if entry is None else _decode(entry)
    if entry is None or standing is None or standing.state != RUNNING:
        return
    told = dataclasses.replace(standing, steps=_bounded(steps))
    await store.put(entry.key, model.encode(told), expect=entry.revision)


async def finish(
    store: Store,
    keys: Keys,
    operation: str,
    state: str,
    finished_ns: int,
    *,
    outcome: str = "",
    steps: Sequence[records.OperationStep] | None = None,
) -> records.OperationRecord:
    """Close the operation and return it as it stands: with an earlier outcome if there was one. `unknown` may
    still be settled later. `outcome`: why, when it did not succeed. `steps` None: as they were said last.

    Raises:
        Refused: there is no such operation. Unavailable: no answer, or the key changed under every try.
    """
    if state not in FINISHED:
        raise ValueError(
            f'operation {operation}: "{state}" is not an end (it can be {", ".join(sorted(FINISHED))})'
        )
    key = keys.operation(operation)
    for _ in range(TRIES):
        entry = await store.get(key)
        if entry is None:
            raise Refused(f"operation {operation}: not in the store")
        standing = _decode(entry)
        if standing is None:
            raise Refused(f"operation {operation}: its record in the store does not decode")
        if standing.state not in (RUNNING, "unknown"):
            return standing
        closed = dataclasses.replace(
            standing,
            state=state,
            finished_ns=finished_ns,
            outcome=bounds.cut(outcome, OUTCOME_MAX),
            steps=standing.steps if steps is None else _bounded(steps),
        )
        if isinstance(await store.put(key, model.encode(closed), expect=entry.revision), Committed):
            return closed
    raise Unavailable(f"operation {operation}: the record changed {TRIES} times while it was to be closed")


async def find(store: Store, keys: Keys, operation: str) -> records.OperationRecord | None:
    entry = await store.get(keys.operation(operation))
    return None if entry is None else _decode(entry)


async def surplus(store: Store, keys: Keys, kept_max: int) -> list[tuple[records.OperationRecord, Entry]]:
    """The oldest finished operations beyond `kept_max`, oldest first."""
    finished = []
    for entry in (await store.range(keys.operations)).entries.values():
        record = _decode(entry)
        if record is not None and record.finished_ns is not None:
            finished.append((record, entry))
    finished.sort(key=lambda row: (row[0].finished_ns or 0, row[0].id))
    return finished[: max(0, len(finished) - kept_max)]


async def trim(store: Store, keys: Keys, kept_max: int = HELD_MAX) -> int:
    """Delete the oldest finished operations beyond `kept_max`; returns how many. One that changes meanwhile
    is left for the next time.
    """
    deleted = 0
    for _, entry in await surplus(store, keys, kept_max):
        deleted += isinstance(await store.delete(entry.key, expect=entry.revision), Committed)
    return deleted


def _bounded(steps: Sequence[records.OperationStep]) -> tuple[records.OperationStep, ...]:
    return tuple(
        dataclasses.replace(
            step, name=bounds.cut(step.name, NAME_MAX), detail=bounds.cut(step.detail, OUTCOME_MAX)
        )
        for step in steps[: records.STEPS_MAX]
    )


def _decode(entry: Entry) -> records.OperationRecord | None:
    """None: it does not decode; every view of the site names it."""
    try:
        return model.decode(records.OperationRecord, entry.value)
    except msgspec.DecodeError:
        return None
