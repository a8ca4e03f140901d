"""Put a backup back: what is under the site's prefix becomes what the file says, and no old token counts.

The incarnation is deleted first and written last, as the larger of now and the highest that was ever seen
plus one, so that every token of before is below every one of after (R19). A store without an incarnation
gives nobody a lead; the key `restoring`, which comes and goes in the same two transactions, keeps `hftctl up`
and hft-floord from starting anything on a part of a site, and the services' specs are written at the very
end. Each write compares the revision of `restoring`: one whose answer was lost and that arrives late, or that
of another restore, changes nothing. So a restore that stops anywhere is run again, from the same file or
another one, and nothing has started meanwhile.

What is not put back as it was: `electable` is emptied, as who was up to date then is not known to be now (the
last leader's own instance may lead, R14); a request that was pending is cancelled, and an operation that was
running is `unknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from controlplane import model
from controlplane.backup import file
from controlplane.backup.taking import LIST_S, floor_of, incarnation_of, leased
from controlplane.errors import HftctlError, InUse, InvalidInput, Refused, Unavailable
from controlplane.model import bounds, records
from controlplane.model.specs import Tombstone
from controlplane.operations.log import RUNNING
from controlplane.store import Committed, Compare, Delete, Entry, Keys, Put, Snapshot, Store, limits

KIND = "restore"
"""Of its operation."""
LOOKS_S = 2.5
"""Between two looks: an agent writes its host's record each second, a keeper its leader's thrice."""
BATCH_BYTES_MAX = 256 * 1024
"""Of values in one transaction: in base64 they are below the 512 KiB that Consul takes as it comes."""
TRIES = 5
TRY_AGAIN_S = 0.5
"""Of a write that was not answered; it is the same write each time."""
TRY_S = 10.0
"""Of one transaction: 64 values on a slow disk."""


@dataclass(frozen=True, slots=True)
class Restored:
    records: int
    removed: int
    """Keys of before that are not in the backup."""
    incarnation: int
    operation: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of the file has to be known before the first write."""

    keys: set[str]
    """In the store, with the prefix."""
    specs: list[Put] = field(default_factory=list)
    highest: int = 0
    """Incarnation."""


def _tombstones(keys: Keys, there: Snapshot, plan: _Plan, tombstone: Tombstone) -> Iterator[Put]:
    """Tombstones of the services that the store had and the backup has not: without one each host would go on
    with what it has on its own disk.
    """
    for key, entry in there.entries.items():
        if not key.startswith(keys.specs) or key in plan.keys:
            continue
        with contextlib.suppress(msgspec.DecodeError):
            hosts = records.decode_spec(entry.value).hosts
            yield Put(key, model.encode(dataclasses.replace(tombstone, hosts=hosts)))


def _iso(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_ns / 1e9))


def _step(name: str, began_ns: int | None) -> records.OperationStep:
    now_ns = time.time_ns()
    return records.OperationStep(name, "succeeded", began_ns or now_ns, now_ns)


async def running(store: Store, keys: Keys) -> list[str]:
    """Signs that the site runs: hosts whose agents write their records, groups whose leaders renew theirs.
    What stands still is left over.
    """
    before = (await store.range(keys.root)).entries
    alive = [key for key in before if _sign(keys, key)]
    if not alive:
        return []
    await asyncio.sleep(LOOKS_S)
    after = (await store.range(keys.root)).entries
    changed = [key for key in after if _sign(keys, key) and (key not in before or before[key] != after[key])]
    return sorted(
        f"host {key.removeprefix(keys.hosts)}"
        if key.startswith(keys.hosts)
        else f"the leader of {key.removeprefix(keys.groups).partition('/')[0]}"
        for key in changed
    )


def _sign(keys: Keys, key: str) -> bool:
    return key.startswith(keys.hosts) or (key.startswith(keys.groups) and key.endswith("/leader"))


async def half_way(store: Store, keys: Keys) -> str:
    """What to say of a restore of this site that has not come to its end; empty: there is none."""
    entry = await store.get(keys.restoring)
    if entry is None:
        return ""
    try:
        found = model.decode(records.RestoringRecord, entry.value)
    except msgspec.DecodeError:
        return f'site "{keys.site}": a restore has not come to its end; hftctl restore FILE again'
    since = _iso(found.started_ns)
    return (
        f'site "{keys.site}": the restore of {found.file} that {found.actor} began on {found.host} at '
        f"{since} has not come to its end: the store has a part of the site, and nothing starts on it; "
        f"hftctl restore {found.file} again"
    )


async def restore(
    store: Store,
    keys: Keys,
    backup: file.Backup,
    *,
    actor: str,
    reason: str,
    seen: Iterable[int] = (),
    force: bool = False,
) -> Restored:
    """Make the site be what the backup says.

    `store` is the caller's own client for this: its deadlines are set to what long writes take. `seen`:
    incarnations that the caller knows of (of keepers' disks). `force`: though the site runs, or is another
    floor's.

    Raises:
        InvalidInput: the file says what no backup says, or is of another site. InUse: the site runs, or is
        another floor's. Of both, nothing was changed. Refused: another restore has taken over.
        Unavailable, Denied: the store; after the first write the site is half restored, and this is to be
        run again.
    """
    now_ms = time.time_ns() // 1_000_000
    plan = _plan(backup, keys, now_ms)
    store.try_within(LIST_S)
    there = await store.range(keys.root)
    if not force:
        _require_same(backup, keys, there)
        if signs := await running(store, keys):
            more = " and more" if len(signs) > 4 else ""
            raise InUse(
                f'site "{keys.site}": it runs in this store ({", ".join(signs[:4])}{more}), and a restore '
                "takes every lead away and replaces all that it has: hftctl down first, or --force"
            )
    store.try_within(TRY_S)
    highest = max(plan.highest, _highest(keys, there.entries.values(), now_ms), *_believed(seen, now_ms), 0)
    operation = f"{KIND}-{os.urandom(5).hex()}"
    started_ns = time.time_ns()
    marker = records.RestoringRecord(
        operation,
        bounds.cut(str(backup.path), 512),
        actor,
        bounds.cut(socket.gethostname(), 64),
        started_ns,
        highest,
    )
    writes = _Writes(store, keys, await _begin(store, keys, marker))
    steps = [_step("takes the incarnation away", started_ns)]
    old = [key for key, entry in there.entries.items() if _replaced(keys, key, entry)]
    # Specs first: what is half restored has none until its last writes.
    removed = sorted(
        (key for key in old if key not in plan.keys or key.startswith(keys.specs)),
        key=lambda key: (not key.startswith(keys.specs), key),
    )
    for delete in removed:
        await writes.add(Delete(delete))
    for record in backup.records():
        put = _put(keys, record, now_ms)
        if put is not None and not put.key.startswith(keys.specs):
            await writes.add(put)
    steps.append(
        _step(f"replaces what the store had by {backup.trailer.records} keys", steps[-1].finished_ns)
    )
    incarnation = max(time.time_ns() // 1_000_000, highest + 1)
    steps.append(_step(f"services, and incarnation {incarnation}", steps[-1].finished_ns))
    done = records.OperationRecord(
        operation,
        KIND,
        bounds.cut(backup.path.name, 256),
        "succeeded",
        actor,
        bounds.cut(reason),
        started_ns,
        time.time_ns(),
        steps=tuple(steps),
    )
    last: list[Put | Delete] = [
        Put(keys.operation(operation), model.encode(done)),
        Put(keys.incarnation, str(incarnation).encode()),
        Delete(keys.restoring),
    ]
    ended = list(
        _tombstones(keys, there, plan, Tombstone(actor, bounds.cut(reason or KIND), _iso(started_ns)))
    )
    await writes.finish([*plan.specs, *ended], last)
    gone = sum(key not in plan.keys for key in removed)
    return Restored(backup.trailer.records, gone, incarnation, operation)


# --- the file, before anything is written -------------------------------------------------------------------


def _plan(backup: file.Backup, keys: Keys, now_ms: int) -> _Plan:
    """Go through all of it once. Raises InvalidInput naming the key that is none of a backup."""
    plan = _Plan(set())
    highest = 0
    for record in backup.records():
        key = f"{keys.root}{record.key}"
        if not record.key or leased(keys, key) or key == keys.restoring:
            raise InvalidInput(f"{backup.path}: found {record.key!r}, which no backup holds")
        if key in plan.keys:
            raise InvalidInput(f"{backup.path}: found {record.key!r} twice")
        try:
            put = _put(keys, record, now_ms)
            limits.check([], [Put(key, record.value if put is None else put.value)])
        except HftctlError as exc:
            raise InvalidInput(f"{backup.path}: {exc}") from exc
        plan.keys.add(key)
        if put is not None and key.startswith(keys.specs):
            plan.specs.append(put)
        highest = max(highest, *_incarnations(keys, Entry(key, record.value, 0), now_ms), 0)
    return dataclasses.replace(plan, highest=highest)


def _put(keys: Keys, record: file.Record, now_ms: int) -> Put | None:
    """What is written for a record; None: nothing, or something else at the end."""
    key, value = f"{keys.root}{record.key}", record.value
    if key == keys.incarnation:
        return None
    leaf = key.rpartition("/")[2]
    if key.startswith(keys.groups) and leaf in ("electable", "request") and record.key.count("/") == 2:
        value = _emptied(value) if leaf == "electable" else _cancelled(value)
    elif key.startswith(keys.operations):
        value = _settled(value, now_ms)
    return Put(key, value)


def _emptied(value: bytes) -> bytes:
    try:
        found = model.decode(records.ElectableRecord, value)
    except msgspec.DecodeError:
        return value
    return model.encode(dataclasses.replace(found, processes=()))


def _cancelled(value: bytes) -> bytes:
    try:
        found = model.decode(records.RequestRecord, value)
    except msgspec.DecodeError:
        return value
    if found.state != "pending":
        return value
    return model.encode(dataclasses.replace(found, state="cancelled", outcome="restored from a backup"))


def _settled(value: bytes, now_ms: int) -> bytes:
    try:
        found = model.decode(records.OperationRecord, value)
    except msgspec.DecodeError:
        return value
    if found.state != RUNNING:
        return value
    why = "it was running when the backup was taken"
    return model.encode(
        dataclasses.replace(found, state="unknown", finished_ns=now_ms * 1_000_000, outcome=why)
    )


# --- incarnations -------------------------------------------------------------------------------------------


def _highest(keys: Keys, entries: Iterable[Entry], now_ms: int) -> int:
    return max((each for entry in entries for each in _incarnations(keys, entry, now_ms)), default=0)


def _incarnations(keys: Keys, entry: Entry, now_ms: int) -> Iterator[int]:
    """Those that a record names, as far as they are to be believed."""
    found: int | None = None
    leaf = entry.key.rpartition("/")[2]
    try:
        if entry.key == keys.incarnation:
            found = incarnation_of(entry)
        elif entry.key == keys.restoring:
            found = model.decode(records.RestoringRecord, entry.value).highest
        elif entry.key.startswith(keys.groups) and leaf == "epoch":
            found = model.decode(records.EpochRecord, entry.value).incarnation
        elif entry.key.startswith(keys.groups) and leaf == "leader":
            found = model.decode(records.LeaderRecord, entry.value).incarnation
    except msgspec.DecodeError:
        return
    if found is not None:
        yield from _believed([found], now_ms)


def _believed(incarnations: Iterable[int], now_ms: int) -> Iterator[int]:
    return (each for each in incarnations if bounds.believable(each, now_ms))


# --- the store ----------------------------------------------------------------------------------------------


def _require_same(backup: file.Backup, keys: Keys, there: Snapshot) -> None:
    """Raises InvalidInput, InUse."""
    header = backup.header
    if header.site != keys.site:
        raise InvalidInput(
            f'{backup.path}: a backup of site "{header.site}", and this is site "{keys.site}"; --force puts '
            "it back all the same"
        )
    floor = floor_of(there.entries.get(keys.site_record))
    if floor and header.floor and floor != header.floor:
        raise InUse(
            f'site "{keys.site}": this store has it of the floor {floor[:8]}, and {backup.path} is of the '
            f"floor {header.floor[:8]}; --force replaces it"
        )


def _replaced(keys: Keys, key: str, entry: Entry) -> bool:
    """Whether a key of before is the backup's to replace or remove: what lives by a lease is its writer's."""
    return not (entry.leased or leased(keys, key) or key in (keys.restoring, keys.incarnation))


async def _begin(store: Store, keys: Keys, marker: records.RestoringRecord) -> int:
    """The first write; from here on nothing starts. The revision of `restoring`. Raises Refused: another
    restore began in the same moment.
    """
    value = model.encode(marker)
    for attempt in range(TRIES):
        entry = await store.get(keys.restoring)
        if entry is not None and entry.value == value:
            return entry.revision  # ours, whose answer was lost
        compares = [Compare(keys.restoring, entry.revision if entry else 0)]
        try:
            done = await store.txn(compares, [Delete(keys.incarnation), Put(keys.restoring, value)])
        except Unavailable:
            if attempt == TRIES - 1:
                raise
            await asyncio.sleep(TRY_AGAIN_S)
            continue
        if isinstance(done, Committed):
            return done.of_puts
    raise Refused(f'site "{keys.site}": another restore of it has begun; nothing was put back by this one')


class _Writes:
    """Gathers writes to transactions, each while the restore is still this one."""

    def __init__(self, store: Store, keys: Keys, revision: int) -> None:
        self._store, self._keys = store, keys
        self._compare = Compare(keys.restoring, revision)
        self._batch: list[Put | Delete] = []
        self._bytes = 0

    async def add(self, write: Put | Delete) -> None:
        size = len(write.value) if isinstance(write, Put) else 0
        full = len(self._batch) + 2 > limits.OPERATIONS_MAX or self._bytes + size > BATCH_BYTES_MAX
        if self._batch and full:
            await self._flush()
        self._batch.append(write)
        self._bytes += size

    async def finish(self, specs: Sequence[Put], last: Sequence[Put | Delete]) -> None:
        """The services and the end of it: in one transaction where they fit into one."""
        await self._flush()
        size = sum(len(put.value) for put in specs)
        if len(specs) + len(last) + 1 > limits.OPERATIONS_MAX or size > BATCH_BYTES_MAX:
            for put in specs:
                await self.add(put)
            await self._flush()
            specs = ()
        await self._commit([*specs, *last], ends=True)

    async def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if batch:
            await self._commit(batch)

    async def _commit(self, writes: Sequence[Put | Delete], *, ends: bool = False) -> None:
        for attempt in range(TRIES):
            try:
                done = await self._store.txn([self._compare], writes)
            except Unavailable:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            if isinstance(done, Committed) or (ends and attempt and await self._ended(writes)):
                return
            raise Refused(
                f'site "{self._keys.site}": another restore of it has taken over from this one, which has '
                "stopped half-way"
            )

    async def _ended(self, writes: Sequence[Put | Delete]) -> bool:
        """Whether the last write was made by a try whose answer was lost."""
        wrote = {write.key: write.value for write in writes if isinstance(write, Put)}
        entry = await self._store.get(self._keys.incarnation)
        return entry is not None and entry.value == wrote[self._keys.incarnation]
