"""Operations: what an operator or the system set out to do, and how it ended, under `ops/`.

`begin` writes a new record once; `finish` closes it once, by compare-and-swap: of two that finish, the first
one's outcome stands. A write whose answer was lost is recognised by reading, never repeated blindly.
"""

from __future__ import annotations

import dataclasses

import msgspec

from controlplane import model
from controlplane.errors import Refused, Unavailable
from controlplane.model import records
from controlplane.store import Committed, Entry, Keys, Store

RUNNING = "running"
FINISHED = frozenset({"succeeded", "refused", "failed", "unknown", "cancelled"})

KEPT_MAX = 200
"""Finished operations in the store; the audit log and the events keep more. 200 records are 60 KiB in every
view of the site."""

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


async def finish(
    store: Store, keys: Keys, operation: str, state: str, finished_ns: int
) -> records.OperationRecord:
    """Close the operation and return it as it stands: with an earlier outcome if there was one. `unknown` may
    still be settled later.

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
        closed = dataclasses.replace(standing, state=state, finished_ns=finished_ns)
        if isinstance(await store.put(key, model.encode(closed), expect=entry.revision), Committed):
            return closed
    raise Unavailable(f"operation {operation}: the record changed {TRIES} times while it was to be closed")


async def find(store: Store, keys: Keys, operation: str) -> records.OperationRecord | None:
    entry = await store.get(keys.operation(operation))
    return None if entry is None else _decode(entry)


async def trim(store: Store, keys: Keys, kept_max: int = KEPT_MAX) -> int:
    """Delete the oldest finished operations beyond `kept_max`; returns how many. One that changes meanwhile
    is left for the next time.
    """
    finished = []
    for entry in (await store.range(keys.operations)).entries.values():
        record = _decode(entry)
        if record is not None and record.finished_ns is not None:
            finished.append((record.finished_ns, entry))
    finished.sort(key=lambda row: row[0], reverse=True)
    deleted = 0
    for _, entry in finished[kept_max:]:
        deleted += isinstance(await store.delete(entry.key, expect=entry.revision), Committed)
    return deleted


def _decode(entry: Entry) -> records.OperationRecord | None:
    """None: it does not decode; every view of the site names it."""
    try:
        return model.decode(records.OperationRecord, entry.value)
    except msgspec.DecodeError:
        return None
