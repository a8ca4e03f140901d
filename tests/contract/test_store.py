"""What every back end of the store promises (controlplane/store/base.py): one suite over memory, every etcd
at hand, and Consul.

A difference between back ends is a test with a name at the end of the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from controlplane import store
from controlplane.errors import InvalidInput, LeaseLost, TooLarge, Unavailable
from controlplane.store import Committed, Compare, Delete, Lost, Put, limits, memory
from tests.support.stores import seen, values

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]


# --- keys and revisions -------------------------------------------------------------------------------------


async def test_a_key_that_was_never_written_is_none(one: store.Store, root: str) -> None:
    assert await one.get(root + "a") is None
    assert (await one.range(root)).entries == {}


@pytest.mark.parametrize("value", [b"", b"text", bytes(range(256))])
async def test_what_was_put_is_read_with_the_revision_of_its_commit(
    one: store.Store, root: str, value: bytes
) -> None:
    outcome = await one.put(root + "a", value)
    assert isinstance(outcome, Committed)
    assert await one.get(root + "a") == store.Entry(root + "a", value, outcome.revision)


async def test_another_client_reads_what_one_wrote(connect: Callable[[], store.Store], root: str) -> None:
    await connect().put(root + "a", b"1")
    entry = await connect().get(root + "a")
    assert entry is not None and entry.value == b"1"


async def test_every_write_changes_the_revision_even_when_the_value_is_the_same(
    one: store.Store, root: str
) -> None:
    first, second = await one.put(root + "a", b"1"), await one.put(root + "a", b"1")
    assert first != second


async def test_put_expecting_absence_creates_once(one: store.Store, root: str) -> None:
    assert isinstance(await one.put(root + "a", b"1", expect=0), Committed)
    assert await one.put(root + "a", b"2", expect=0) == Lost()
    entry = await one.get(root + "a")
    assert entry is not None and entry.value == b"1"


async def test_put_expecting_a_revision_wins_only_against_that_revision(one: store.Store, root: str) -> None:
    first = await one.put(root + "a", b"1")
    assert isinstance(first, Committed)
    second = await one.put(root + "a", b"2", expect=first.revision)
    assert isinstance(second, Committed)
    assert await one.put(root + "a", b"3", expect=first.revision) == Lost()
    assert await one.get(root + "a") == store.Entry(root + "a", b"2", second.revision)


async def test_of_many_creators_exactly_one_wins(connect: Callable[[], store.Store], root: str) -> None:
    clients = [connect(), connect()]
    outcomes = await asyncio.gather(
        *(clients[n % 2].put(root + "a", str(n).encode(), expect=0) for n in range(20))
    )
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Committed)]
    entry = await clients[0].get(root + "a")
    assert entry is not None and [int(entry.value)] == winners


async def test_a_key_deleted_and_made_again_is_not_the_old_one(one: store.Store, root: str) -> None:
    first = await one.put(root + "a", b"1")
    assert isinstance(first, Committed)
    await one.delete(root + "a")
    await one.put(root + "a", b"1")
    assert await one.put(root + "a", b"2", expect=first.revision) == Lost()


async def test_delete_of_what_is_not_there_is_committed_unless_a_revision_was_expected(
    one: store.Store, root: str
) -> None:
    assert isinstance(await one.delete(root + "a"), Committed)
    assert await one.delete(root + "a", expect=7) == Lost()
    written = await one.put(root + "a", b"1")
    assert isinstance(written, Committed)
    assert await one.delete(root + "a", expect=written.revision + 1) == Lost()
    assert isinstance(await one.delete(root + "a", expect=written.revision), Committed)
    assert await one.get(root + "a") is None


async def test_range_gives_all_keys_under_the_prefix_and_no_other(one: store.Store, root: str) -> None:
    for key in ("x/a", "x/b", "x", "xy", "y/a"):
        await one.put(root + key, key.encode())
    snapshot = await one.range(root + "x/")
    assert list(snapshot.entries) == [root + "x/a", root + "x/b"]
    assert all(entry.revision <= snapshot.revision for entry in snapshot.entries.values())


async def test_range_is_complete_beyond_one_page_of_the_store(one: store.Store, root: str) -> None:
    wanted = [f"{root}{n:05d}" for n in range(1100)]
    for start in range(0, len(wanted), limits.OPERATIONS_MAX):
        await one.txn([], [Put(key, b"x") for key in wanted[start : start + limits.OPERATIONS_MAX]])
    assert list((await one.range(root)).entries) == wanted


# --- transactions -------------------------------------------------------------------------------------------


async def test_a_transaction_writes_all_with_one_revision(one: store.Store, root: str) -> None:
    await one.put(root + "gone", b"1")
    outcome = await one.txn(
        [Compare(root + "a", 0)], [Put(root + "a", b"1"), Put(root + "b", b"2"), Delete(root + "gone")]
    )
    assert isinstance(outcome, Committed)
    snapshot = await one.range(root)
    assert values(snapshot) == {"a": b"1", "b": b"2"}
    assert {entry.revision for entry in snapshot.entries.values()} == {outcome.revision}


async def test_a_transaction_with_one_compare_that_fails_writes_nothing(one: store.Store, root: str) -> None:
    held = await one.put(root + "held", b"1")
    assert isinstance(held, Committed)
    compares = [Compare(root + "held", held.revision), Compare(root + "absent", 5)]
    assert await one.txn(compares, [Put(root + "a", b"1"), Delete(root + "held")]) == Lost()
    assert values(await one.range(root)) == {"held": b"1"}


async def test_a_transaction_may_only_compare(one: store.Store, root: str) -> None:
    assert isinstance(await one.txn([Compare(root + "a", 0)], []), Committed)
    assert await one.txn([Compare(root + "a", 1)], []) == Lost()


async def test_sixty_four_operations_fit_and_one_more_is_refused_before_it_is_sent(
    one: store.Store, root: str
) -> None:
    compares = [Compare(f"{root}{n}", 0) for n in range(32)]
    assert isinstance(await one.txn(compares, [Put(f"{root}{n}", b"x") for n in range(32)]), Committed)
    with pytest.raises(TooLarge, match="65 operations, wanted at most 64"):
        await one.txn([], [Put(f"{root}more{n}", b"x") for n in range(65)])
    assert len((await one.range(root)).entries) == 32


async def test_the_largest_value_fits_and_one_byte_more_is_refused(one: store.Store, root: str) -> None:
    assert isinstance(await one.put(root + "a", b"x" * limits.VALUES_BYTES_MAX), Committed)
    with pytest.raises(TooLarge):
        await one.put(root + "a", b"x" * (limits.VALUES_BYTES_MAX + 1))


async def test_a_key_that_some_store_refuses_is_refused_by_all(one: store.Store) -> None:
    for key in ("", "/hft/a"):
        with pytest.raises(InvalidInput):
            await one.put(key, b"1")


async def test_a_key_written_twice_in_one_transaction_is_refused(one: store.Store, root: str) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        await one.txn([], [Put(root + "a", b"1"), Delete(root + "a")])


# --- leases -------------------------------------------------------------------------------------------------


async def test_a_lease_says_what_was_granted_and_counts_its_deadline_from_before_the_request(
    one: store.Store,
) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    lease = await one.lease(2.0)
    after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert lease.ttl_s >= 2.0
    assert before_ns <= lease.deadline_boot_ns - lease.ttl_s * 1e9 <= after_ns
    await lease.revoke()


async def test_keys_of_a_lost_holder_vanish_within_the_bound_and_watchers_see_it(
    one: store.Store, root: str
) -> None:
    async with aclosing(one.watch(root)) as watch:
        lease = await one.lease(1.0)
        await one.put(root + "mine", b"1", lease=lease)
        await one.put(root + "other", b"1")
        await seen(watch, lambda snapshot: set(values(snapshot)) == {"mine", "other"})
        started_s = time.monotonic()
        await seen(watch, lambda snapshot: set(values(snapshot)) == {"other"})
        # 1 s on top for the machine: the store cannot be blamed for a busy core.
        assert time.monotonic() - started_s < lease.ttl_s + one.expiry_bound_s + 1.0
        assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= lease.deadline_boot_ns - 50_000_000


async def test_keep_alive_moves_the_deadline_and_keeps_the_keys(one: store.Store, root: str) -> None:
    lease = await one.lease(1.0)
    await one.put(root + "a", b"1", lease=lease)
    first_ns = lease.deadline_boot_ns
    while time.clock_gettime_ns(time.CLOCK_BOOTTIME) < first_ns + int((one.expiry_bound_s + 0.2) * 1e9):
        await lease.keep_alive()
        await asyncio.sleep(0.1)
    assert lease.deadline_boot_ns > first_ns
    assert await one.get(root + "a") is not None
    await lease.revoke()


async def test_revoke_deletes_the_keys_at_once_and_twice_is_fine(one: store.Store, root: str) -> None:
    lease = await one.lease(60.0)
    await one.put(root + "a", b"1", lease=lease)
    await one.txn([], [Put(root + "b", b"1", lease)])
    await lease.revoke()
    assert values(await one.range(root)) == {}
    await lease.revoke()


async def test_a_lease_that_ended_is_lost_for_its_holder(one: store.Store, root: str) -> None:
    lease = await one.lease(60.0)
    await lease.revoke()
    with pytest.raises(LeaseLost):
        await lease.keep_alive()
    with pytest.raises(LeaseLost):
        await one.put(root + "a", b"1", lease=lease)
    with pytest.raises(LeaseLost):
        await one.txn([Compare(root + "a", 0)], [Put(root + "a", b"1", lease)])
    assert await one.get(root + "a") is None


async def test_a_key_written_again_without_the_lease_outlives_it(one: store.Store, root: str) -> None:
    lease = await one.lease(60.0)
    await one.put(root + "a", b"1", lease=lease)
    await one.put(root + "a", b"2")
    await lease.revoke()
    assert values(await one.range(root)) == {"a": b"2"}


# --- the client ---------------------------------------------------------------------------------------------


async def test_health_names_kind_endpoints_version_and_latency(one: store.Store) -> None:
    health = await one.health()
    assert (
        health.healthy
        and health.kind == one.kind
        and health.endpoints
        and health.version
        and health.reason == ""
    )
    assert health.latency_ms is not None and 0 <= health.latency_ms < 1000


async def test_a_closed_client_is_unavailable_and_closing_twice_is_fine(
    connect: Callable[[], store.Store], root: str
) -> None:
    one = connect()
    await one.put(root + "a", b"1")
    await one.close()
    await one.close()
    with pytest.raises(Unavailable) as caught:
        await one.put(root + "a", b"2")
    assert not caught.value.ambiguous
    assert not (await one.health()).healthy


# --- differences --------------------------------------------------------------------------------------------


async def test_difference_a_real_store_grants_no_lease_below_a_second_and_memory_does(
    one: store.Store,
) -> None:
    """etcd rounds up; Consul has a least one, 1 s in these tests and 10 s by default."""
    lease = await one.lease(0.2)
    assert lease.ttl_s == (0.2 if one.kind == "memory" else 1.0)
    await lease.revoke()


async def test_difference_a_write_that_changes_nothing_raises_the_revision_of_no_store(
    one: store.Store, root: str
) -> None:
    """Deleting what is not there: both keep their revision, so a snapshot's revision says nothing about how
    many writes there were.
    """
    before = (await one.range(root)).revision
    await one.delete(root + "absent")
    assert (await one.range(root)).revision == before


async def test_difference_a_write_that_puts_nothing_has_no_revision_on_consul(
    one: store.Store, root: str
) -> None:
    """Its transactions answer with what they wrote, and a delete writes nothing."""
    written = await one.put(root + "a", b"1")
    assert isinstance(written, Committed) and written.revision is not None
    deleted = await one.delete(root + "a")
    assert isinstance(deleted, Committed) and (deleted.revision is None) == (one.kind == "consul")


async def test_difference_only_memory_can_be_told_to_lose_an_answer(root: str) -> None:
    """On etcd the same is done with real faults in tests/integration/test_etcd.py."""
    one = memory.MemoryStore()
    one.lose_next_answer()
    with pytest.raises(Unavailable) as caught:
        await one.put(root + "a", b"1")
    assert caught.value.ambiguous
    assert await one.get(root + "a") is not None
