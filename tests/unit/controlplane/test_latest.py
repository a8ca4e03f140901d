"""The mailbox of a watch: a delivery costs what changed, names it, and a fresh list is a difference."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.store import Entry, Snapshot
from controlplane.store.latest import Latest
from controlplane.store.memory import Memory, MemoryStore


def listing(revision: int, **held: int) -> Snapshot:
    return Snapshot(revision, {key: Entry(key, b"", at) for key, at in held.items()})


def read(latest: Latest) -> tuple[int, dict[str, int], set[str]]:
    snapshot = asyncio.run(latest.next())
    held = {key: entry.revision for key, entry in snapshot.entries.items()}
    return snapshot.revision, held, set(snapshot.changed or ())


def silent(latest: Latest) -> bool:
    return not latest._unread


def test_a_fresh_list_after_a_break_names_the_difference() -> None:
    latest = Latest()
    latest.replace(listing(3, a=1, b=2, c=3))
    assert read(latest) == (3, {"a": 1, "b": 2, "c": 3}, {"a", "b", "c"})
    latest.replace(listing(9, a=1, b=8, d=9))
    assert read(latest) == (9, {"a": 1, "b": 8, "d": 9}, {"b", "c", "d"})


def test_a_fresh_list_that_says_nothing_new_is_not_delivered_but_moves_the_revision() -> None:
    latest = Latest()
    latest.replace(listing(3, a=1))
    read(latest)
    latest.replace(listing(5, a=1))
    assert silent(latest) and latest.revision == 5


def test_a_list_overtakes_what_was_pending() -> None:
    latest = Latest()
    latest.replace(listing(3, a=1))
    read(latest)
    latest.put(Entry("b", b"", 4))
    latest.delete("a")
    latest.touch(4)
    latest.replace(listing(5, a=1, c=5))
    assert read(latest) == (5, {"a": 1, "c": 5}, {"c"})


def test_a_store_that_was_set_back_is_a_difference_too() -> None:
    latest = Latest()
    latest.replace(listing(9, a=9, b=8))
    read(latest)
    latest.replace(listing(2, a=2))
    assert read(latest) == (2, {"a": 2}, {"a", "b"})


def test_an_empty_prefix_is_delivered_once() -> None:
    latest = Latest()
    latest.replace(listing(1))
    assert read(latest) == (1, {}, set())
    latest.replace(listing(2))
    assert silent(latest)


def test_what_was_put_and_deleted_in_between_is_no_change() -> None:
    latest = Latest()
    latest.replace(listing(1))
    read(latest)
    latest.put(Entry("a", b"", 2))
    latest.delete("a")
    latest.touch(3)
    assert read(latest) == (3, {}, set())


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "list", "read"]), st.sampled_from("abcd"), st.booleans()),
        max_size=40,
    )
)
def test_the_named_keys_always_lead_from_one_snapshot_to_the_next(
    moves: list[tuple[str, str, bool]],
) -> None:
    latest, truth, held, revision = Latest(), dict[str, Entry](), dict[str, Entry](), 1
    latest.replace(Snapshot(revision, {}))

    def look() -> None:
        if silent(latest):
            return
        snapshot = asyncio.run(latest.next())
        for key in snapshot.changed or ():
            assert held.get(key) != snapshot.entries.get(key), "only what differs is named"
            if key in snapshot.entries:
                held[key] = snapshot.entries[key]
            else:
                del held[key]
        assert held == dict(snapshot.entries) == truth

    for move, key, reading in moves:
        revision += 1
        if move == "put":
            truth[key] = Entry(key, b"", revision)
            latest.put(truth[key])
            latest.touch(revision)
        elif move == "delete":
            truth.pop(key, None)
            latest.delete(key)
            latest.touch(revision)
        elif move == "list":
            latest.replace(Snapshot(revision, dict(truth)))
        if reading or move == "read":
            look()
    look()
    assert held == truth


def test_a_client_that_was_cut_off_hears_what_it_missed_and_no_more() -> None:
    async def story() -> None:
        memory = Memory()
        writer, reader = MemoryStore(memory), MemoryStore(memory)
        await writer.put("a", b"1")
        await writer.put("b", b"1")
        watch = reader.watch("")
        await anext(watch)
        reader.cut()
        await writer.put("a", b"2")
        await writer.delete("b")
        await writer.put("c", b"1")
        await writer.delete("c")
        reader.heal()
        snapshot = await anext(watch)
        assert snapshot.changed == {"a", "b"} and snapshot.entries["a"].value == b"2"
        await reader.close()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    asyncio.run(story())
