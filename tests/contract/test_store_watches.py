"""What every back end promises of a watch (controlplane/store/base.py): the newest state, whole, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from controlplane import store
from controlplane.store import Committed, Delete, Put
from tests.support.stores import seen, values

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

SOON_S = 10.0
"""More than anything here may take on a busy machine; nothing waits so long when it works."""


# --- watches ------------------------------------------------------------------------------------------------


async def test_a_watch_begins_with_what_is_there(one: store.Store, root: str) -> None:
    await one.put(root + "a", b"1")
    async with aclosing(one.watch(root)) as watch:
        assert values(await seen(watch, lambda _: True)) == {"a": b"1"}
        assert watch.confirmed_boot_ns > 0


async def test_a_watch_of_nothing_begins_with_an_empty_snapshot(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as watch:
        assert values(await seen(watch, lambda _: True)) == {}


async def test_a_watch_sees_writes_and_deletes_of_another_client(
    connect: Callable[[], store.Store], root: str
) -> None:
    one, other = connect(), connect()
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        await other.put(root + "a", b"1")
        await seen(watch, lambda snapshot: values(snapshot) == {"a": b"1"})
        await other.put(root + "a", b"2")
        await seen(watch, lambda snapshot: values(snapshot) == {"a": b"2"})
        await other.delete(root + "a")
        await seen(watch, lambda snapshot: values(snapshot) == {})


async def test_a_watched_entry_has_the_revision_to_compare_with(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        await one.put(root + "a", b"1")
        snapshot = await seen(watch, lambda snapshot: bool(snapshot.entries))
        assert isinstance(
            await one.put(root + "a", b"2", expect=snapshot.entries[root + "a"].revision), Committed
        )


async def test_a_transaction_is_never_seen_in_part(one: store.Store, root: str) -> None:
    async def write() -> None:
        for n in range(100):
            await one.txn([], [Put(root + "a", str(n).encode()), Put(root + "b", str(n).encode())])

    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        writing = asyncio.create_task(write())
        last = await seen(watch, lambda snapshot: _equal(snapshot) == b"99")
        await writing
        assert last.entries[root + "a"].revision == last.entries[root + "b"].revision


def _equal(snapshot: store.Snapshot) -> bytes:
    found = values(snapshot)
    assert found.get("a") == found.get("b")
    return found.get("a", b"")


async def test_a_watch_does_not_wake_for_keys_outside_its_prefix(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root + "x/")) as watch:
        await anext(watch)
        await one.put(root + "xy", b"1")
        await one.put(root + "x/a", b"2")
        assert values(await seen(watch, lambda _: True)) == {"a": b"2"}


async def test_a_slow_reader_gets_the_newest_state_not_a_queue(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        for n in range(300):
            await one.put(root + "a", str(n).encode())
        snapshots = 0
        async with asyncio.timeout(SOON_S):
            while True:
                snapshots += 1
                if values(await anext(watch)) == {"a": b"299"}:
                    break
        assert snapshots < 150


async def test_snapshots_never_go_back(one: store.Store, root: str) -> None:
    async def write() -> None:
        for n in range(200):
            await one.put(root + "a", str(n).encode())

    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        writing = asyncio.create_task(write())
        revision, number = 0, -1
        while number < 199:
            async with asyncio.timeout(SOON_S):
                snapshot = await anext(watch)
            assert snapshot.revision > revision and int(values(snapshot)["a"]) > number
            revision, number = snapshot.revision, int(values(snapshot)["a"])
        await writing


def changed(snapshot: store.Snapshot, root: str) -> set[str]:
    assert snapshot.changed is not None
    return {key.removeprefix(root) for key in snapshot.changed}


async def test_a_snapshot_names_the_keys_changed_since_the_one_before(one: store.Store, root: str) -> None:
    await one.put(root + "a", b"1")
    await one.put(root + "b", b"1")
    assert (await one.range(root)).changed is None
    async with aclosing(one.watch(root)) as watch:
        assert changed(await anext(watch), root) == {"a", "b"}, "all in the first"
        await one.put(root + "b", b"2")
        assert changed(await seen(watch, lambda _: True), root) == {"b"}
        await one.txn([], [Put(root + "c", b"1"), Delete(root + "a")])
        assert changed(await seen(watch, lambda _: True), root) == {"a", "c"}, "the deleted one, too"
        await one.put(root + "c", b"1")
        last = await seen(watch, lambda _: True)
        assert changed(last, root) == {"c"}, "the same value is a new revision"
        assert values(last) == {"b": b"2", "c": b"1"}


async def test_coalesced_changes_are_named_together(one: store.Store, root: str) -> None:
    """What is made of the named keys alone is the whole state, however the changes are grouped."""
    held: dict[str, bytes] = {}
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        for n in range(50):
            await one.put(root + f"{n % 7}", str(n).encode())
            if n % 3 == 0:
                await one.delete(root + f"{(n + 3) % 7}")
        await one.put(root + "end", b"1")
        while "end" not in held:
            snapshot = await seen(watch, lambda _: True)
            for key in changed(snapshot, root):
                if (entry := snapshot.entries.get(root + key)) is None:
                    held.pop(key, None)
                else:
                    held[key] = entry.value
            assert held == values(snapshot)
        assert held == values(await one.range(root))


async def test_a_snapshot_stays_as_it_is_until_the_reader_asks_for_the_next(
    one: store.Store, root: str
) -> None:
    async with aclosing(one.watch(root)) as watch, aclosing(one.watch(root)) as other:
        first = await anext(watch)
        await anext(other)
        await one.put(root + "a", b"1")
        await seen(other, lambda snapshot: bool(snapshot.entries))
        assert values(first) == {}
        with pytest.raises(TypeError):
            first.entries[root + "a"] = None  # type: ignore[index]
        assert values(await seen(watch, lambda _: True)) == {"a": b"1"}


async def test_a_watch_at_a_revision_shows_every_write_up_to_it(one: store.Store, root: str) -> None:
    """What `one_revision` says: a keeper believes its watches after a take when they have come that far. On
    Consul it reads instead: a prefix's index says nothing of another prefix, or of a write.
    """
    if not one.one_revision:
        assert one.kind == "consul"
        return
    async with aclosing(one.watch(root + "x/")) as watch, aclosing(one.watch(root + "y/")) as other:
        await anext(watch)
        await anext(other)
        for n in range(20):
            written = await one.put(root + "x/a", str(n).encode())
            assert isinstance(written, Committed)
            later = await one.put(root + "y/a", str(n).encode())
            assert isinstance(later, Committed) and later.revision > written.revision
            snapshot = await seen(watch, lambda snapshot, to=written: snapshot.revision >= to.revision)
            assert snapshot.entries[root + "x/a"].value == str(n).encode()
            assert (await seen(other, lambda snapshot, to=later: snapshot.revision >= to.revision)).entries


async def test_a_timeout_around_a_watch_loses_nothing(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(watch)
        await one.put(root + "a", b"1")
        assert values(await seen(watch, lambda _: True)) == {"a": b"1"}


async def test_a_quiet_watch_goes_on_confirming_that_it_is_up_to_date(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as watch:
        await anext(watch)
        before = watch.confirmed_boot_ns
        waiting = asyncio.create_task(anext(watch))
        async with asyncio.timeout(SOON_S):
            while watch.confirmed_boot_ns <= before:  # noqa: ASYNC110 (a number of the store, nobody sets an event)
                await asyncio.sleep(0.02)
        waiting.cancel()


async def test_two_watches_of_one_client_both_see_a_change(one: store.Store, root: str) -> None:
    async with aclosing(one.watch(root)) as first, aclosing(one.watch(root)) as second:
        await anext(first), await anext(second)
        await one.put(root + "a", b"1")
        assert (
            values(await seen(first, lambda _: True))
            == values(await seen(second, lambda _: True))
            == {"a": b"1"}
        )


async def test_closing_the_store_ends_its_watches(connect: Callable[[], store.Store], root: str) -> None:
    one = connect()
    watch = one.watch(root)
    await anext(watch)
    waiting = asyncio.create_task(anext(watch))
    await asyncio.sleep(0)
    await one.close()
    with pytest.raises(StopAsyncIteration):
        async with asyncio.timeout(SOON_S):
            await waiting
