"""A damaged record of a group harms nothing but itself: what counts in its place, what may not be believed,
and that the next write puts a good one there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.leadership import group_records, transactions
from controlplane.leadership.group_view import Cause, Group
from controlplane.leadership.transactions import Done
from controlplane.model import Process, bounds, records
from controlplane.store import Keys
from controlplane.store.memory import MemoryStore

LEASE_MS = 1_500
KEYS = Keys("test")
ALPHA = Process("omsd-alpha-1", "boot", 10, 100)
BETA = Process("omsd-beta-1", "boot", 20, 100)
RUBBISH = [b"", b"{", b"\xff", b"[" * 100_000, b"null", b'{"epoch": -1}']
IN_TWO_DAYS = 0
Case = Callable[[MemoryStore, Group], Awaitable[None]]


def run(case: Case) -> None:
    """On a group that ALPHA leads in epoch 1."""

    async def with_store() -> None:
        store = MemoryStore()
        await store.put(KEYS.incarnation, b"1000")
        group = await group_records.read(store, KEYS, "omsd")
        done = await transactions.take(store, KEYS, group, ALPHA, "t", Cause.FIRST, 5, 6, LEASE_MS)
        assert isinstance(done, Done)
        done = await transactions.write_electable(store, KEYS, done.group, [BETA], "e", LEASE_MS)
        assert isinstance(done, Done)
        await case(store, done.group)

    asyncio.run(with_store())


async def read(store: MemoryStore, before: Group | None = None) -> Group:
    return await group_records.read(store, KEYS, "omsd", before)


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize(
    "key", [KEYS.leader("omsd"), KEYS.epoch("omsd"), KEYS.electable("omsd"), KEYS.incarnation]
)
def test_one_damaged_record_counts_as_what_it_was(key: str, rubbish: bytes) -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        written = await store.put(key, rubbish)
        group = await read(store, before)
        assert set(group.damaged) == {key} and key in group.damaged[key]
        assert (group.leader, group.epoch, group.electable, group.incarnation) == (
            before.leader, before.epoch, before.electable, before.incarnation,
        )  # fmt: skip
        assert written.revision in (
            group.leader_revision, group.epoch_revision, group.electable_revision, group.incarnation_revision,
        )  # fmt: skip

    run(case)


def test_the_leader_s_next_renewal_mends_its_record() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        await store.put(KEYS.leader("omsd"), b"?")
        done = await transactions.renew(store, KEYS, await read(store, before), "n", LEASE_MS)
        assert isinstance(done, Done)
        found = await read(store)
        assert (
            not found.damaged and found.leader and (found.leader.holder, found.leader.nonce) == (ALPHA, "n")
        )

    run(case)


def test_a_renewal_that_rubbish_overtakes_is_lost_and_the_next_mends_it() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        await store.put(KEYS.leader("omsd"), b"?")
        lost = await transactions.renew(store, KEYS, before, "n1", LEASE_MS)
        assert not isinstance(lost, Done) and not lost.mine
        assert lost.group.leader == before.leader and set(lost.group.damaged) == {KEYS.leader("omsd")}
        assert isinstance(await transactions.renew(store, KEYS, lost.group, "n2", LEASE_MS), Done)

    run(case)


def test_a_keeper_that_missed_a_take_does_not_renew_over_it() -> None:
    """The leader record is damaged after BETA took: the epoch tells ALPHA's keeper that it leads no more."""

    async def case(store: MemoryStore, before: Group) -> None:
        taken = await transactions.take(store, KEYS, before, BETA, "b", Cause.PROCESS_LOST, 7, 8, LEASE_MS)
        assert isinstance(taken, Done)
        await store.put(KEYS.leader("omsd"), b"?")
        group = await read(store, before)
        assert group.leader is None and group.epoch_number == 2

    run(case)


def test_without_the_last_good_one_a_leader_record_counts_as_deleted_and_an_epoch_as_the_leader_s() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        good = (await store.get(KEYS.leader("omsd"))).value
        await store.put(KEYS.leader("omsd"), b"?")
        group = await read(store)
        assert group.leader is None and group.epoch == before.epoch and group.leader_revision
        await store.put(KEYS.leader("omsd"), good)
        await store.put(KEYS.epoch("omsd"), b"?")
        assert (await read(store)).epoch == before.epoch
        done = await transactions.take(
            store, KEYS, await read(store), BETA, "b", Cause.STOPPED, 7, 8, LEASE_MS
        )
        assert isinstance(done, Done) and done.group.epoch_number == 2
        assert not (await read(store)).damaged

    run(case)


def test_both_damaged_are_refused_by_name() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        await store.put(KEYS.leader("omsd"), b"?")
        await store.put(KEYS.epoch("omsd"), b"?")
        with pytest.raises(InvalidInput, match=r"groups/omsd/leader: .*groups/omsd/epoch: "):
            await read(store, before)
        shown = await store.range(KEYS.group("omsd"))
        held = group_records.group_of(shown, {}, KEYS, "omsd", before, held=True)
        assert (held.leader, held.epoch) == (before.leader, before.epoch), "who holds the lease knows"

    run(case)


@pytest.mark.parametrize("epoch", [0, 9, bounds.EPOCH_MAX])
def test_an_epoch_that_no_take_wrote_is_damaged(epoch: int) -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        await store.put(KEYS.epoch("omsd"), model.encode(records.EpochRecord(1000, epoch)))
        group = await read(store, before)
        assert group.epoch == before.epoch and "written together" in group.damaged[KEYS.epoch("omsd")]
        assert (await read(store, group)).damaged == group.damaged
        with pytest.raises(InvalidInput, match="written together"):
            await read(store)

    run(case)


def test_a_leader_record_of_another_epoch_that_no_take_wrote_is_damaged() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        forged = records.LeaderRecord(BETA, 1000, 7, BETA.instance, "n")
        await store.put(KEYS.leader("omsd"), model.encode(forged))
        group = await read(store, before)
        assert group.leader == before.leader and set(group.damaged) == {KEYS.leader("omsd")}

    run(case)


@pytest.mark.parametrize("ahead", [IN_TWO_DAYS, bounds.INCARNATION_MAX, 1 << 62, (1 << 64) - 1, 1 << 70])
def test_an_incarnation_from_the_future_is_not_learnt(ahead: int) -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        incarnation = ahead or time.time_ns() // 1_000_000 + 2 * bounds.FUTURE_MS
        await store.put(KEYS.incarnation, str(incarnation).encode())
        assert (await read(store, before)).incarnation == 1000
        assert (await read(store)).incarnation == 1000, "that of the epoch"
        await store.put(KEYS.epoch("omsd"), b'{"incarnation": %d, "epoch": 1}' % incarnation)
        group = await read(store, before)
        assert (group.incarnation, group.epoch) == (1000, before.epoch)

    run(case)


def test_a_damaged_request_is_none_and_the_next_one_takes_its_place() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        written = await store.put(KEYS.request("omsd"), b"?")
        group = await read(store, before)
        assert group.pending is None and group.request_revision == written.revision

    run(case)


def test_damaged_history_stops_no_take() -> None:
    async def case(store: MemoryStore, before: Group) -> None:
        for epoch in (1, 2):
            await store.put(KEYS.history_row("omsd", epoch), b"?")
        group = await read(store, before)
        done = await transactions.take(store, KEYS, group, BETA, "b", Cause.STOPPED, 7, 8, LEASE_MS)
        assert isinstance(done, Done) and done.group.epoch_number == 2

    run(case)


class Unordered(MemoryStore):
    """As Consul: what two snapshots say of their revisions is not to be compared."""

    one_revision = False


def test_where_snapshots_have_no_order_a_group_is_as_new_as_its_newest_record() -> None:
    async def case() -> None:
        store = Unordered()
        await store.put(KEYS.incarnation, b"1000")
        group = await group_records.read(store, KEYS, "omsd")
        assert group.revision == 0, "nothing of it was written"
        done = await transactions.take(store, KEYS, group, ALPHA, "t", Cause.FIRST, 5, 6, LEASE_MS)
        assert isinstance(done, Done)
        taken = done.group
        for n in range(5):  # of other groups, and of the site: no news of this one
            await store.put(KEYS.leader("riskd"), str(n).encode())
            await store.put(KEYS.pause, str(n).encode())
        again = await group_records.read(store, KEYS, "omsd", taken)
        assert again.revision == taken.revision and again.leader == taken.leader
        shown = group_records.group_of(
            await store.range(KEYS.groups), {}, KEYS, "omsd", taken, one_revision=False
        )
        assert shown.revision == taken.revision, "over all groups, too"
        done = await transactions.renew(store, KEYS, taken, "n", LEASE_MS)
        assert isinstance(done, Done) and done.group.revision > taken.revision
        seen = await group_records.read(store, KEYS, "omsd", done.group)
        assert seen.revision == done.group.revision

    asyncio.run(case())
