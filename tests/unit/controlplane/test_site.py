"""The view shows what the store holds, lists what it cannot read, and is never broken by one bad record."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import clock, model
from controlplane.errors import Refused, Unavailable
from controlplane.model import HostRecord, Mode, Process, Registration, ServiceSpec, records
from controlplane.operations import log
from controlplane.site import follower as followers
from controlplane.site import view as views
from controlplane.store import Keys, Snapshot
from controlplane.store.base import Entry
from controlplane.store.memory import Memory, MemoryStore

KEYS = Keys("lab")
OLD, NEW = Process("omsd-alpha-1", "boot", 10, 100), Process("omsd-alpha-1", "boot", 11, 200)


def snapshot(records: dict[str, bytes], revision: int = 7) -> Snapshot:
    return Snapshot(revision, {key: Entry(key, value, revision) for key, value in records.items()})


def registration(process: Process = OLD) -> Registration:
    return Registration(
        "omsd", process.instance, "alpha", process, {"replica": "ipc://x"}, "127.0.0.1", 0, 1, "0.1"
    )


def host(updated_ns: int = 1) -> HostRecord:
    return HostRecord("alpha", "127.0.0.1", "http://127.0.0.1:1", "", "boot", updated_ns)


def operation(id: str, state: str = "running", finished_ns: int | None = None) -> records.OperationRecord:
    return records.OperationRecord(id, "failover", "omsd", state, "me", "test", 1, finished_ns)


def row(epoch: int) -> records.HistoryRow:
    return records.HistoryRow(epoch, None, "omsd-alpha-1", "first", "keeper", "", None, 1)


SITE = {
    KEYS.spec("omsd"): model.encode(ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))),
    KEYS.registration("omsd", OLD.instance): model.encode(registration()),
    KEYS.host("alpha"): model.encode(host()),
    KEYS.leader("omsd"): model.encode(records.LeaderRecord(OLD, 5, 10, OLD.instance, "n1")),
    KEYS.history_row("omsd", 10): model.encode(row(10)),
    KEYS.history_row("omsd", 9): model.encode(row(9)),
    KEYS.operation("op1"): model.encode(operation("op1")),
    KEYS.pause: b'{"by":"me","reason":"lunch","since":1}',
    KEYS.incarnation: b"1700000000000",
    KEYS.controller(): model.encode(
        records.ControllerRecord("http://127.0.0.1:2", Process("controld", "b", 1, 1), 1)
    ),
    KEYS.audit_head("auditd"): b'{"seq":3}',
}


def test_every_kind_of_record_has_its_place() -> None:
    view = views.decode_snapshot(KEYS, snapshot(SITE))
    assert (view.site, view.revision, view.incarnation, view.controller_url) == (
        "lab",
        7,
        1700000000000,
        "http://127.0.0.1:2",
    )
    assert view.specs["omsd"].hosts == ("alpha", "beta") and view.spec_revisions == {"omsd": 7}
    assert view.registrations == {OLD.instance: registration()} and view.registered("omsd") == [
        registration()
    ]
    assert view.hosts == {"alpha": host()}
    assert view.leaders["omsd"].holder == OLD
    assert [each.epoch for each in view.history["omsd"]] == [9, 10]
    assert [each.id for each in view.operations] == ["op1"]
    assert msgspec.to_builtins(view.paused) == {"by": "me", "reason": "lunch", "since": 1}
    assert view.audit_heads == {"auditd": {"seq": 3}}
    assert not view.undecodable


def test_an_empty_store_is_an_empty_view() -> None:
    view = views.decode_snapshot(KEYS, Snapshot(1))
    assert (view.specs, view.paused, view.incarnation, view.controller_url) == ({}, None, None, None)


@given(st.dictionaries(st.sampled_from(sorted(SITE)), st.binary(max_size=40)))
def test_no_bytes_under_any_key_break_the_view_of_the_others(damage: dict[str, bytes]) -> None:
    view = views.decode_snapshot(KEYS, snapshot({**SITE, **damage}))
    assert set(view.undecodable) <= set(damage)
    assert len(view.decoded) + len(view.undecodable) == len(SITE)


def test_a_record_under_the_key_of_another_subject_is_not_believed() -> None:
    key = KEYS.registration("omsd", "omsd-beta-1")
    view = views.decode_snapshot(KEYS, snapshot({key: model.encode(registration())}))
    assert view.registrations == {}
    assert "omsd-alpha-1" in view.undecodable[key]


def test_keys_of_a_newer_version_are_left_alone() -> None:
    view = views.decode_snapshot(
        KEYS, snapshot({f"{KEYS.root}breakers/x/y": b"?", f"{KEYS.group('omsd')}quorum": b"?"})
    )
    assert not view.undecodable


def test_a_record_that_did_not_change_is_not_decoded_again() -> None:
    before = views.decode_snapshot(KEYS, snapshot(SITE))
    entries = {
        **snapshot(SITE).entries,
        KEYS.host("alpha"): Entry(KEYS.host("alpha"), model.encode(host(2)), 8),
    }
    after = views.decode_snapshot(KEYS, Snapshot(8, entries), before)
    assert after.specs["omsd"] is before.specs["omsd"]
    assert after.hosts["alpha"] == host(2)


def test_with_host_replaces_one_host_only() -> None:
    view = views.decode_snapshot(KEYS, snapshot(SITE))
    assert view.with_host(host(99)).hosts == {"alpha": host(99)}
    assert view.hosts == {"alpha": host()}


def test_a_follower_tells_each_change_and_knows_its_age() -> None:
    async def story() -> None:
        fake = clock.FakeClock()
        memory = Memory(fake)
        writer, reader = MemoryStore(memory), MemoryStore(memory)
        follower = followers.Follower(reader, KEYS, fake)
        running = asyncio.create_task(follower.run())
        changed = follower.changed
        await changed.wait()
        assert follower.view is not None and follower.age_s() == 0
        changed = follower.changed
        await writer.put(KEYS.leader("omsd"), SITE[KEYS.leader("omsd")])
        await changed.wait()
        assert follower.view.leaders["omsd"].holder == OLD
        assert follower.lease_remaining_ms(1.5) == {"omsd": 1500}
        reader.cut()
        fake.advance_s(1.0)
        assert follower.age_s() == 1.0
        assert follower.lease_remaining_ms(1.5) == {"omsd": 500}
        await reader.close()
        await running

    asyncio.run(story())


def test_changes_in_quick_succession_are_one_view() -> None:
    async def story() -> None:
        store = MemoryStore()
        follower, views = followers.Follower(store, KEYS), 0
        running = asyncio.create_task(follower.run())
        await follower.changed.wait()
        for updated_ns in range(2, 22):
            changed = follower.changed
            await store.put(KEYS.host("alpha"), model.encode(host(updated_ns)))
            await asyncio.sleep(0)
            views += changed.is_set()
        while follower.view is None or follower.view.hosts.get("alpha") != host(21):
            await follower.changed.wait()
        assert views < 10, (
            "the rest waits until the floor between two views has passed, and the last one has it all"
        )
        await store.close()
        await running

    asyncio.run(story())


# --- operations ---------------------------------------------------------------------------------------------


def test_an_operation_begins_once_even_when_the_answer_was_lost() -> None:
    async def story() -> None:
        store = MemoryStore()
        store.lose_next_answer()
        assert (await log.begin(store, KEYS, operation("op1"))).state == "running"
        with pytest.raises(Refused, match="taken"):
            await log.begin(store, KEYS, records.OperationRecord("op1", "x", "", "", "", "", 2))

    asyncio.run(story())


def test_of_two_ends_of_an_operation_the_first_stands_but_unknown_may_be_settled() -> None:
    async def story() -> None:
        store = MemoryStore()
        await log.begin(store, KEYS, operation("op1"))
        assert (await log.finish(store, KEYS, "op1", "unknown", 5)).state == "unknown"
        assert (await log.finish(store, KEYS, "op1", "succeeded", 6)).state == "succeeded"
        assert (await log.finish(store, KEYS, "op1", "failed", 7)).state == "succeeded"
        with pytest.raises(Refused, match="not in the store"):
            await log.finish(store, KEYS, "op2", "failed", 7)

    asyncio.run(story())


def test_an_operation_that_never_reached_the_store_is_not_begun() -> None:
    async def story() -> None:
        store = MemoryStore()
        store.cut()
        with pytest.raises(Unavailable) as caught:
            await log.begin(store, KEYS, operation("op1"))
        assert not caught.value.ambiguous

    asyncio.run(story())


def test_trimming_keeps_the_newest_finished_and_all_that_run() -> None:
    async def story() -> None:
        store = MemoryStore()
        for n in range(5):
            await log.begin(store, KEYS, operation(f"op{n}"))
        for n in range(4):
            await log.finish(store, KEYS, f"op{n}", "succeeded", 100 + n)
        assert await log.trim(store, KEYS, kept_max=1) == 3
        left = views.decode_snapshot(KEYS, await store.range(KEYS.root)).operations
        assert [each.id for each in left] == ["op3", "op4"]

    asyncio.run(story())
