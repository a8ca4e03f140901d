"""The records of one group, read: what of them may be believed, and what counts where one is damaged.

What is written to them, and compared then, is in transactions.py; who decides on them, decide.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import system_clock
from controlplane.leadership.group_view import Group, Rank
from controlplane.model import bounds, records
from controlplane.store import Entry, Keys, Snapshot, Store

T = TypeVar("T")


def group_of(
    groups: Snapshot,
    site: Mapping[str, Entry],
    keys: Keys,
    service: str,
    before: Group | None = None,
    *,
    held: bool = False,
    one_revision: bool = True,
) -> Group:
    """The group in a snapshot of its own records (or of all groups'), with the site's pause and incarnation.
    What has the same revision as in `before` is not decoded again.

    `site` may be of another moment than `groups`; the compares of every transaction tell (R5, R8).

    A record that does not decode is in `damaged` and counts as what it was in `before`, with the revision
    that it has now: the next write of it puts a good one in its place, and only over what was seen. Of leader
    and epoch, which one take writes together, the other one must agree that there was no take in between:

    - leader: as before if the epoch is still the one it was led under; else as deleted, so that the lease is
      waited out before anyone campaigns;
    - epoch: the leader record's. Where both decode and do not agree, the one not as before is damaged;
    - incarnation: as before, or that of the epoch; never one from the future;
    - request, history: none.

    `held`: the caller leads, and its lease stands: no other can have taken in between, so leader and epoch
    are as before even where both are damaged. `one_revision`: as the store says it of itself; where snapshots
    have no revision to be ordered by, the newest write of the group's own records is the group's. It misses a
    deletion, which the compares of every transaction do not.

    Raises:
        InvalidInput: leader and epoch are both damaged, and nothing tells which epoch was the last.
    """
    entries, old = groups.entries, before or Group(service)
    damaged: dict[str, str] = {}

    def record(key: str, kind: type[T], revision: int, value: T | None) -> tuple[T | None, int]:
        entry = entries.get(key) or site.get(key)
        if entry is None:
            return None, 0
        if entry.revision == revision and value is not None and key not in old.damaged:
            return value, revision
        try:
            return _decode(entry, kind), entry.revision
        except InvalidInput as exc:
            damaged[key] = str(exc)
            return value, entry.revision

    leader, leader_revision = record(
        keys.leader(service), records.LeaderRecord, old.leader_revision, old.leader
    )
    epoch, epoch_revision = record(keys.epoch(service), records.EpochRecord, old.epoch_revision, old.epoch)
    leader, epoch = _vouched(keys, old, leader, epoch, damaged, held)
    electable, electable_revision = record(
        keys.electable(service), records.ElectableRecord, old.electable_revision, old.electable
    )
    request, request_revision = record(
        keys.request(service), records.RequestRecord, old.request_revision, old.request
    )
    incarnation, incarnation_revision = record(
        keys.incarnation, int, old.incarnation_revision, old.incarnation
    )
    if incarnation is None and keys.incarnation in damaged and epoch is not None:
        incarnation = epoch.incarnation
    pause = site.get(keys.pause)
    number = epoch.epoch if epoch else 0
    row, row_revision = record(
        keys.history_row(service, number), records.HistoryRow, old.row_revision, old.row
    )
    begun, _ = record(keys.history_row(service, number + 1), records.HistoryRow, 0, None)
    return Group(
        service=service,
        revision=groups.revision if one_revision else _newest(entries, keys.group(service)),
        leader=leader,
        leader_revision=leader_revision,
        epoch=epoch,
        epoch_revision=epoch_revision,
        electable=electable,
        electable_revision=electable_revision,
        request=None if keys.request(service) in damaged else request,
        request_revision=request_revision,
        paused=pause is not None,
        pause_revision=pause.revision if pause else 0,
        incarnation=incarnation,
        incarnation_revision=incarnation_revision,
        row=None if row is None or row.epoch != number else row,
        row_revision=row_revision,
        begun=begun,
        damaged=damaged,
    )


def _vouched(
    keys: Keys,
    old: Group,
    leader: records.LeaderRecord | None,
    epoch: records.EpochRecord | None,
    damaged: dict[str, str],
    held: bool,
) -> tuple[records.LeaderRecord | None, records.EpochRecord | None]:
    """What of the two may be believed, where one of them does not decode, or they do not agree: then the one
    that is as before. Raises InvalidInput.
    """
    of_leader, of_epoch = keys.leader(old.service), keys.epoch(old.service)
    if leader and epoch and not damaged.keys() & {of_leader, of_epoch} and _rank(leader) != _rank(epoch):
        other = of_epoch if old.epoch and _rank(leader) == _rank(old.epoch) else of_leader
        damaged[other] = (
            f"{of_epoch} has {epoch.incarnation}/{epoch.epoch} and {of_leader} "
            f"{leader.incarnation}/{leader.epoch}: they are written together, so one of them was not written "
            "by a keeper"
        )
        if old.epoch is None or _rank(old.epoch) not in (_rank(leader), _rank(epoch)):
            raise InvalidInput(damaged[other])
        leader = old.leader if other == of_leader else leader
    why = [damaged[key] for key in (of_leader, of_epoch) if key in damaged]
    if why and held:
        return old.leader, old.epoch
    if len(why) == 2:
        raise InvalidInput("; ".join(why))
    if of_epoch in damaged:
        if leader is None:
            raise InvalidInput(*why)
        return leader, records.EpochRecord(leader.incarnation, leader.epoch)
    if of_leader in damaged:
        return leader if leader and epoch and _rank(leader) == _rank(epoch) else None, epoch
    return leader, epoch


def _rank(record: records.LeaderRecord | records.EpochRecord) -> Rank:
    return record.incarnation, record.epoch


async def read(store: Store, keys: Keys, service: str, before: Group | None = None) -> Group:
    """The group as it is now. The parts are read beside each other; a compare that fails later tells when
    they did not fit together.

    Raises:
        Unavailable: no answer. InvalidInput: as `group_of`.
    """
    groups, pause, incarnation = await asyncio.gather(
        store.range(keys.group(service)), store.get(keys.pause), store.get(keys.incarnation)
    )
    site = {entry.key: entry for entry in (pause, incarnation) if entry}
    return group_of(groups, site, keys, service, before, one_revision=store.one_revision)


def _newest(entries: Mapping[str, Entry], prefix: str) -> int:
    return max((entry.revision for key, entry in entries.items() if key.startswith(prefix)), default=0)


def _decode(entry: Entry, kind: type[T]) -> T:
    try:
        found = records.decode_incarnation(entry.value) if kind is int else model.decode(kind, entry.value)
    except msgspec.DecodeError as exc:
        raise InvalidInput(
            f"{entry.key}: expected a {kind.__name__}, found what does not decode: {exc}"
        ) from exc
    incarnation = found if isinstance(found, int) else getattr(found, "incarnation", 0)
    if not bounds.believable(incarnation, system_clock.latest_wall_ns() // 1_000_000):
        raise InvalidInput(f"{entry.key}: incarnation {incarnation} is a time (UNIX ms) in the future")
    return cast(T, found)
