"""The transactions of leadership, each with all its compares: take, hand over, renew, write_electable,
settle, record_active.

What they promise: either everything in a transaction happens or nothing; a take raises the epoch, names the
holder, settles a pending request (R15) and writes its history row in one go. After a failed compare or a
lost answer the caller gets the group as it is now (`Reread`) and decides again; nothing here is sent twice.
A take whose answer was lost is recognised by its nonce, and its winner renews before it leads (R6). What to
write is decided in decide.py; the caller is agents/keeper/member.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane import model
from controlplane.errors import Unavailable
from controlplane.leadership import decide, group_records
from controlplane.leadership.group_view import Cause, Group
from controlplane.model import Process, records
from controlplane.store import Committed, Compare, Delete, Keys, Put, Store

HISTORY_MAX = 500
"""Rows a group keeps: one an epoch; the take that adds one deletes the one so far back."""

SYSTEM = "system"
"""Actor of what no operator asked for."""


@dataclass(frozen=True, slots=True)
class Done:
    """Applied, and the answer arrived."""

    group: Group


@dataclass(frozen=True, slots=True)
class Reread:
    """A compare did not hold, or the answer was lost: the group as it was read after that."""

    group: Group
    mine: bool
    """The leader record carries this attempt's nonce: it was applied all the same."""


async def take(
    store: Store,
    keys: Keys,
    group: Group,
    to: Process,
    nonce: str,
    cause: Cause,
    started_ns: int,
    now_ns: int,
    lease_ms: int,
) -> Done | Reread:
    """Raise the epoch and name `to`: a campaign of one's own, or a hand-over that names a successor (R5, R8:
    the same compares). `lease_ms` is the writer's.

    `started_ns` and `now_ns` are wall clock, for the history. Compares leader (the revision that was timed),
    epoch, electable, request, pause, incarnation.

    Raises:
        Unavailable: no answer, and none to the re-read either; it may still be applied.
    """
    compares = takeover_compares(keys, group)
    after, puts = taken(keys, group, to, nonce, cause, started_ns, now_ns, lease_ms)
    stale_row = after.epoch_number - HISTORY_MAX
    deletes = [Delete(keys.history_row(group.service, stale_row))] if stale_row > 0 else []
    return await _write(store, keys, group, after, compares, [*puts, *deletes], nonce)


async def release(
    store: Store, keys: Keys, group: Group, nonce: str, cause: Cause, started_ns: int
) -> Done | Reread:
    """Name no successor: holder none, home and epoch kept (R8). After a death the history row of the next
    epoch is begun for the member that takes it.
    """
    if group.leader is None:
        raise ValueError(f"group {group.service}: there is no leader record to release")
    holder = group.leader.holder
    after = replace(group, leader=replace(group.leader, holder=None, nonce=nonce, forced=False))
    if group.pending:  # no keeper is left to act on it
        after = replace(after, request=decide.settled(group.pending, group.leader.home, None))
    if cause is not Cause.RELEASED:
        after = replace(
            after,
            begun=_row(
                group, holder.instance if holder else group.leader.home, None, cause, started_ns, None
            ),
        )
    return await _write(
        store, keys, group, after, takeover_compares(keys, group), _puts(keys, group, after), nonce
    )


async def renew(store: Store, keys: Keys, group: Group, nonce: str, lease_ms: int) -> Done | Reread:
    """Rewrite the leader record with a new nonce. Compares leader and incarnation. `lease_ms`: as long as a
    follower has to wait from here on.

    The caller stamps its clock BEFORE the call (R3).
    """
    if group.leader is None:
        raise ValueError(f"group {group.service}: there is no leader record to renew")
    after = replace(group, leader=replace(group.leader, nonce=nonce, lease_ms=lease_ms))
    return await _write(
        store, keys, group, after, renewal_compares(keys, group), _puts(keys, group, after), nonce
    )


async def write_electable(
    store: Store, keys: Keys, group: Group, processes: Sequence[Process], nonce: str, lease_ms: int
) -> Done | Reread:
    """Say who may campaign. Rewrites the leader record too: it is a renewal, and nobody whose lease timer is
    over campaigns as it is added.
    """
    if group.leader is None:
        raise ValueError(f"group {group.service}: only a leader says who is electable")
    electable = records.ElectableRecord(tuple(processes), group.leader.epoch)
    after = replace(group, electable=electable, leader=replace(group.leader, nonce=nonce, lease_ms=lease_ms))
    compares = [
        *renewal_compares(keys, group),
        Compare(keys.epoch(group.service), group.epoch_revision),
        Compare(keys.electable(group.service), group.electable_revision),
    ]
    return await _write(store, keys, group, after, compares, _puts(keys, group, after), nonce)


async def settle(store: Store, keys: Keys, group: Group, state: str, outcome: str) -> Done | Reread:
    """End a pending request that no take will settle. Compares the request, and the leader: only who leads
    may refuse.
    """
    if group.pending is None:
        raise ValueError(f"group {group.service}: no request is pending")
    after = replace(group, request=replace(group.pending, state=state, outcome=outcome))
    compares = [
        Compare(keys.request(group.service), group.request_revision),
        Compare(keys.leader(group.service), group.leader_revision),
        Compare(keys.incarnation, group.incarnation_revision),
    ]
    return await _write(store, keys, group, after, compares, _puts(keys, group, after), "")


async def record_active(store: Store, keys: Keys, group: Group, active_ns: int) -> Done | Reread:
    """Complete the history row of the present epoch. `active_ns` is wall clock."""
    if group.row is None:
        raise ValueError(f"group {group.service}: epoch {group.epoch_number} has no history row")
    after = replace(group, row=replace(group.row, active_ns=active_ns))
    compares = [
        Compare(keys.history_row(group.service, group.row.epoch), group.row_revision),
        Compare(keys.incarnation, group.incarnation_revision),
    ]
    return await _write(store, keys, group, after, compares, _puts(keys, group, after), "")


def takeover_compares(keys: Keys, group: Group) -> list[Compare]:
    """R5, R8: everything that a change of leader must not have missed."""
    return [
        Compare(keys.leader(group.service), group.leader_revision),
        Compare(keys.epoch(group.service), group.epoch_revision),
        Compare(keys.electable(group.service), group.electable_revision),
        Compare(keys.request(group.service), group.request_revision),
        Compare(keys.pause, group.pause_revision),
        Compare(keys.incarnation, group.incarnation_revision),
    ]


def renewal_compares(keys: Keys, group: Group) -> list[Compare]:
    return [
        Compare(keys.leader(group.service), group.leader_revision),
        Compare(keys.incarnation, group.incarnation_revision),
    ]


def taken(
    keys: Keys,
    group: Group,
    to: Process,
    nonce: str,
    cause: Cause,
    started_ns: int,
    now_ns: int,
    lease_ms: int,
) -> tuple[Group, list[Put]]:
    """The group after a take, and what it writes."""
    if group.incarnation is None:
        raise ValueError(f"group {group.service}: the store has no incarnation, nothing may be taken")
    number = group.epoch_number + 1
    before = group.holder.instance if group.holder else group.leader.home if group.leader else None
    leader = records.LeaderRecord(to, group.incarnation, number, to.instance, nonce, lease_ms=lease_ms)
    row = _row(group, before, to.instance, cause, started_ns, now_ns)
    after = replace(
        group, leader=leader, epoch=records.EpochRecord(group.incarnation, number), row=row, begun=None
    )
    if group.pending:  # R15
        after = replace(after, request=decide.settled(group.pending, before, to))
    return after, _puts(keys, group, after)


def _row(
    group: Group, before: str | None, to: str | None, cause: Cause, started_ns: int, taken_ns: int | None
) -> records.HistoryRow:
    number, begun, request = group.epoch_number + 1, group.begun, group.pending
    if begun and begun.taken_ns is None:  # the keeper that released it knew why and since when
        return replace(begun, to_instance=to, taken_ns=taken_ns)
    if cause is Cause.FAILOVER and request:
        return records.HistoryRow(
            number,
            before,
            to,
            cause,
            request.actor,
            request.reason,
            request.operation,
            request.created_ns,
            taken_ns,
        )
    reasons = {
        Cause.FIRST: "nobody led before",
        Cause.PROCESS_LOST: f"the process of {before} died",
        Cause.STOPPED: f"{before} was stopped by its agent",
        Cause.LEASE_EXPIRED: f"the lease of {before} was not renewed",
        Cause.FAILOVER: "the leader was killed for a failover that was cancelled",
        Cause.RELEASED: f"{before} had given the lead back",
    }
    return records.HistoryRow(number, before, to, cause, SYSTEM, reasons[cause], None, started_ns, taken_ns)


def _puts(keys: Keys, before: Group, after: Group) -> list[Put]:
    """What differs between two views of the group; a renewal differs by its nonce."""
    service = after.service
    pairs: list[tuple[str, object, object]] = [
        (keys.leader(service), before.leader, after.leader),
        (keys.epoch(service), before.epoch, after.epoch),
        (keys.electable(service), before.electable, after.electable),
        (keys.request(service), before.request, after.request),
        (keys.history_row(service, after.epoch_number), before.row, after.row),
        (keys.history_row(service, after.epoch_number + 1), before.begun, after.begun),
    ]
    return [Put(key, model.encode(new)) for key, old, new in pairs if new is not None and new != old]


def _committed(before: Sequence[Put | Delete], keys: Keys, after: Group, revision: int) -> Group:
    written = {operation.key for operation in before if isinstance(operation, Put)}
    service = after.service

    def at(key: str, held: int) -> int:
        return revision if key in written else held

    return replace(
        after,
        revision=revision,
        leader_revision=at(keys.leader(service), after.leader_revision),
        epoch_revision=at(keys.epoch(service), after.epoch_revision),
        electable_revision=at(keys.electable(service), after.electable_revision),
        request_revision=at(keys.request(service), after.request_revision),
        row_revision=at(keys.history_row(service, after.epoch_number), after.row_revision),
    )


async def _write(
    store: Store,
    keys: Keys,
    before: Group,
    after: Group,
    compares: Sequence[Compare],
    then: Sequence[Put | Delete],
    nonce: str,
) -> Done | Reread:
    try:
        outcome = await store.txn(compares, then)
    except Unavailable as exc:
        if not exc.ambiguous:
            raise
        outcome = None
    if isinstance(outcome, Committed):
        revision = before.revision if outcome.revision is None else outcome.revision
        return Done(_committed(then, keys, after, revision))
    found = await group_records.read(store, keys, after.service, before)
    return Reread(found, mine=bool(nonce) and found.leader is not None and found.leader.nonce == nonce)
