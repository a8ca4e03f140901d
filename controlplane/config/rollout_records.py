"""The writes of a rollout: each is one compare-and-swap on its record, so that of two controllers, or of a
controller and an operator, one wins. A write whose answer was lost is settled by reading the record again.
"""

from __future__ import annotations

import dataclasses

import msgspec

from controlplane import model
from controlplane.errors import Refused, Unavailable
from controlplane.model import bounds
from controlplane.model.config import CurrentConfig, RolloutRecord
from controlplane.store import Committed, Compare, Delete, Keys, Put, Store

TRIES = 5


async def find_rollout(store: Store, keys: Keys, service: str) -> tuple[RolloutRecord, int] | None:
    entry = await store.get(keys.config_rollout(service))
    try:
        return None if entry is None else (model.decode(RolloutRecord, entry.value), entry.revision)
    except msgspec.DecodeError:
        return None


async def extend(store: Store, keys: Keys, record: RolloutRecord, at: int) -> int | None:
    key, value = keys.config_rollout(record.service), model.encode(record)
    try:
        outcome = await store.put(key, value, expect=at)
    except Unavailable as exc:
        if not exc.ambiguous:
            raise
        entry = await store.get(key)
        if entry is not None and entry.value == value:
            return entry.revision
        if entry is not None and entry.revision == at:
            raise
        return None
    return outcome.of_puts if isinstance(outcome, Committed) else None


async def promote(
    store: Store, keys: Keys, record: RolloutRecord, at: int, also: tuple[Compare, Put] | None = None
) -> bool:
    key = keys.config_current(record.service)
    entry = await store.get(key)
    if entry is None or model.decode(CurrentConfig, entry.value).revision != record.base:
        return False
    current = CurrentConfig(record.service, record.revision, record.operation)
    compares = [Compare(key, entry.revision), Compare(keys.config_rollout(record.service), at)]
    then: list[Put | Delete] = [Put(key, model.encode(current)), Delete(keys.config_rollout(record.service))]
    if also is not None:
        compares.append(also[0])
        then.append(also[1])
    return isinstance(await store.txn(compares, then), Committed)


async def revert(store: Store, keys: Keys, record: RolloutRecord, at: int) -> bool:
    return isinstance(await store.delete(keys.config_rollout(record.service), expect=at), Committed)


async def abort(store: Store, keys: Keys, service: str, reason: str, actor: str) -> RolloutRecord:
    """An operator takes it back: from this write on every agent goes back to the wanted revision, and the
    elected controller ends the operation. Returns the record, with its operation; of one that is being taken
    back already, as that stands.

    Raises:
        Refused: no rollout of the service is under way. Unavailable: not known to be written.
    """
    for _ in range(TRIES):
        found = await find_rollout(store, keys, service)
        if found is None:
            raise Refused(f"{service}: no rollout of its configuration is under way")
        record, at = found
        if record.stage == "revert":
            return record
        why = bounds.cut(f"taken back by {actor}: {reason}", 1000)
        back = dataclasses.replace(record, stage="revert", why=why)
        if await extend(store, keys, back, at) is not None:
            return back
    raise Unavailable(f"{service}: the rollout changed {TRIES} times while it was to be taken back")
