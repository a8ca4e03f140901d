"""The record of a rollout that is under way: found, taken on, promoted, taken back.

revisions.py has written it together with its revision (`stage`). Each write here compares the record as it
was found, so that a controller, the one after it and an operator learn of each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from controlplane import model
from controlplane.config import revisions
from controlplane.errors import Refused, Unavailable
from controlplane.model import bounds
from controlplane.model.config import CurrentConfig, RolloutRecord
from controlplane.store import Committed, Compare, Delete, Keys, Lost, Put, Store

ABORT_TRIES = 5
"""Against the controller, which writes the record once a stage."""


async def find(store: Store, keys: Keys, service: str) -> tuple[RolloutRecord, int] | None:
    """The record, and the store's revision of it; None: none is under way. Raises Unavailable."""
    entry = await store.get(keys.config_rollout(service))
    record = revisions.decoded(RolloutRecord, entry)
    return (record, entry.revision) if entry is not None and record is not None else None


async def extend(store: Store, keys: Keys, record: RolloutRecord, at: int) -> int | None:
    """Put the record's next state. `at`: the store's revision of the one before. The new one's, or None: it
    was changed by another, or is over.

    Raises:
        Unavailable: no answer, and it is not known to be written.
    """
    key, value = keys.config_rollout(record.service), model.encode(record)
    try:
        outcome = await store.put(key, value, expect=at)
    except Unavailable as exc:
        if not exc.ambiguous:
            raise
        entry = await revisions.after(lambda: store.get(key), exc)
        if entry is not None and entry.value == value:
            return entry.revision
        if entry is not None and entry.revision == at:
            raise
        return None
    return outcome.of_puts if isinstance(outcome, Committed) else None


async def promote(
    store: Store, keys: Keys, record: RolloutRecord, at: int, also: tuple[Compare, Put] | None = None
) -> bool:
    """One transaction: the rollout's revision is the wanted one, the rollout is over, and `also` is written.
    False: something of it was changed by another, or it is over already and not by this promotion.

    Raises:
        Unavailable: no answer, and it is not known to be written. Refused: what is wanted is not the
        rollout's base any more.
    """
    key = keys.config_current(record.service)
    entry = await store.get(key)
    standing: CurrentConfig | None = revisions.decoded(CurrentConfig, entry)
    if standing is not None and standing.revision == record.revision:
        return await find(store, keys, record.service) is None
    if entry is None or standing is None or standing.revision != record.base:
        found = "nothing" if standing is None else f"revision {standing.revision}"
        raise Refused(
            f"{record.service}: found {found} as the wanted one, wanted {record.base}, the rollout's base"
        )
    value = model.encode(CurrentConfig(record.service, record.revision, revisions.new_nonce()))
    compares = [Compare(key, entry.revision), Compare(keys.config_rollout(record.service), at)]
    then: list[Put | Delete] = [Put(key, value), Delete(keys.config_rollout(record.service))]
    if also is not None:
        compares.append(also[0])
        then.append(also[1])
    return await _settled(store, compares, then, key, value)


async def revert(store: Store, keys: Keys, record: RolloutRecord, at: int) -> bool:
    """Delete the rollout's record: every instance is to run the base again. False: it was changed by another.
    True as well when none stands. Raises Unavailable: no answer, and it is not known to be deleted.
    """
    key = keys.config_rollout(record.service)
    failed: Unavailable | None = None
    try:
        if isinstance(await store.delete(key, expect=at), Committed):
            return True
    except Unavailable as exc:
        failed = exc
        if not exc.ambiguous:
            raise
    standing = await revisions.after(lambda: store.get(key), failed)
    if failed is not None and standing is not None and standing.revision == at:
        raise failed
    return standing is None


async def abort(store: Store, keys: Keys, service: str, reason: str, actor: str) -> RolloutRecord:
    """An operator takes a rollout back: from this write on every agent goes back to the wanted revision, and
    the elected controller ends the operation. Returns the record, which names it; of a rollout that is being
    taken back already, as that stands.

    Raises:
        Refused: none is under way. Unavailable: not known to be written.
    """
    for _ in range(ABORT_TRIES):
        found = await find(store, keys, service)
        if found is None:
            raise Refused(f"{service}: no rollout of its configuration is under way")
        record, at = found
        if record.stage == "revert":
            return record
        why = bounds.cut(f"taken back by {actor}: {reason}", 1000)
        back = dataclasses.replace(record, stage="revert", why=why, cancelled=True)
        if await extend(store, keys, back, at) is not None:
            return back
    raise Unavailable(f"{service}: the rollout changed {ABORT_TRIES} times while it was to be taken back")


async def _settled(
    store: Store, compares: Sequence[Compare], then: Sequence[Put | Delete], key: str, value: bytes
) -> bool:
    """Commit it; where the answer is lost, what stands under `key` tells."""
    try:
        return not isinstance(await store.txn(compares, then), Lost)
    except Unavailable as exc:
        if not exc.ambiguous:
            raise
        entry = await revisions.after(lambda: store.get(key), exc)
        if entry is not None and entry.value == value:
            return True
        raise
