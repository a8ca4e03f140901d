"""The view shows what the store holds, lists what it cannot read, and is never broken by one bad record."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import clock, model
from controlplane.errors import Refused, Unavailable
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.observed import HostRecord
from controlplane.model.records import Registration
from controlplane.operations import log as operation_log
from controlplane.settings import LeadershipSettings
from controlplane.site import follower as followers
from controlplane.site import nouns
from controlplane.store import Entry, Keys, Snapshot
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
    view = nouns.view_of(KEYS, snapshot(SITE))
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
    view = nouns.view_of(KEYS, Snapshot(1))
    assert (view.specs, view.paused, view.incarnation, view.controller_url) == ({}, None, None, None)


@given(st.dictionaries(st.sampled_from(sorted(SITE)), st.binary(max_size=40)))
def test_no_bytes_under_any_key_break_the_view_of_the_others(damage: dict[str, bytes]) -> None:
    view = nouns.view_of(KEYS, snapshot({**SITE, **damage}))
    assert set(view.undecodable) <= set(damage)
    shown = [
        *(view.specs, view.registrations, view.hosts, view.leaders, view.audit_heads, view.operations),
        *view.history.values(),
        *([each] for each in (view.paused, view.incarnation, view.controller) if each is not None),
    ]
    assert sum(len(each) for each in shown) + len(view.undecodable) == len(SITE)


def test_a_record_under_the_key_of_another_subject_is_not_believed() -> None:
    key = KEYS.registration("omsd", "omsd-beta-1")
    view = nouns.view_of(KEYS, snapshot({key: model.encode(registration())}))
    assert view.registrations == {}
    assert "omsd-alpha-1" in view.undecodable[key]


def test_keys_of_a_newer_version_are_left_alone() -> None:
    view = nouns.view_of(
        KEYS, snapshot({f"{KEYS.root}breakers/x/y": b"?", f"{KEYS.group('omsd')}quorum": b"?"})
    )
    assert not view.undecodable


def noun_of(records: dict[str, bytes]) -> nouns.Noun:
    noun = nouns.Noun(KEYS)
    noun.take(snapshot(records))
    return noun


def changed(*entries: Entry, deleted: str = "") -> Snapshot:
    """The next snapshot of a watch that has SITE: these entries and no others may be looked at."""
    keys = {entry.key for entry in entries} | ({deleted} if deleted else set())
    return Snapshot(8, {entry.key: entry for entry in entries}, frozenset(keys))


def test_only_what_changed_is_decoded_and_a_view_from_before_stays_as_it_was() -> None:
    noun = noun_of(SITE)
    before = nouns.view(KEYS, [noun])
    key = KEYS.host("alpha")
    assert noun.take(changed(Entry(key, model.encode(host(2)), 8))) == {"hosts": {"alpha"}}
    after = nouns.view(KEYS, [noun])
    assert after.specs is before.specs and after.hosts["alpha"] == host(2) and after.revision == 8
    assert before.hosts["alpha"] == host(1) and before.revision == 7


def test_a_deleted_record_is_gone_and_named() -> None:
    noun = noun_of(SITE)
    for key in SITE:
        assert noun.take(changed(deleted=key))
    view = nouns.view(KEYS, [noun])
    assert view == nouns.view_of(KEYS, Snapshot(8))
    assert dict(view.registrations) == {} and view.registered("omsd") == []


def test_a_renewal_is_no_news_of_who_leads() -> None:
    noun = noun_of(SITE)
    key = KEYS.leader("omsd")
    renewed = Entry(key, model.encode(records.LeaderRecord(OLD, 5, 10, OLD.instance, "n2")), 8)
    assert noun.take(changed(renewed)) == {"leader": {"omsd"}}
    taken = Entry(key, model.encode(records.LeaderRecord(NEW, 5, 11, OLD.instance, "n3")), 9)
    assert noun.take(changed(taken)) == {"leader": {"omsd"}, "led": {"omsd"}}


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
@pytest.mark.parametrize("key", sorted(SITE))
def test_a_damaged_record_is_named_and_what_it_was_stays_until_it_is_mended(key: str, damage: bytes) -> None:
    noun = noun_of(SITE)
    before = nouns.view(KEYS, [noun])
    noun.take(changed(Entry(key, damage, 8)))
    view = nouns.view(KEYS, [noun])
    assert set(view.undecodable) == {key}
    assert dataclasses.replace(view, undecodable={}, spec_faults={}) == dataclasses.replace(
        before, revision=8
    )
    assert set(view.spec_faults) == ({"omsd"} if key == KEYS.spec("omsd") else set())
    noun.take(changed(Entry(key, SITE[key], 9)))
    assert not nouns.view(KEYS, [noun]).undecodable


@given(st.lists(st.tuples(st.sampled_from(sorted(SITE)), st.sampled_from(["put", "delete", "damage"]))))
def test_changes_one_by_one_end_in_the_same_view_as_one_list(moves: list[tuple[str, str]]) -> None:
    noun, revision = nouns.Noun(KEYS), 0
    held, good, damaged = dict[str, Entry](), dict[str, Entry](), set[str]()
    noun.take(Snapshot(0, {}, frozenset()))
    for key, move in moves:
        revision += 1
        held[key] = Entry(key, SITE[key] if move == "put" else b"?", revision)
        damaged.add(key)
        if move != "damage":
            damaged.discard(key)
            good[key] = held[key]
        if move == "delete":
            del held[key], good[key]
        noun.take(Snapshot(revision, held, frozenset({key})))
    view = nouns.view(KEYS, [noun])
    assert set(view.undecodable) == damaged
    assert dataclasses.replace(view, undecodable={}, spec_faults={}) == nouns.view_of(
        KEYS, Snapshot(revision, good)
    )


def test_with_host_replaces_one_host_only() -> None:
    view = nouns.view_of(KEYS, snapshot(SITE))
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
        assert follower.lease_remaining_ms() == {"omsd": 1500}
        changed = follower.changed
        await writer.put(KEYS.host("alpha"), SITE[KEYS.host("alpha")])
        await changed.wait()
        assert follower.silent_ms() == {"alpha": 0}, "by no clock but this one, whatever the record says"
        reader.cut()
        fake.advance_s(1.0)
        assert follower.age_s() == 1.0
        assert follower.lease_remaining_ms() == {"omsd": 500}
        assert follower.silent_ms() == {"alpha": 1000}
        await reader.close()
        await running

    asyncio.run(story())


def test_a_lease_is_counted_by_the_profile_in_force() -> None:
    async def story() -> None:
        fake = clock.FakeClock()
        store = MemoryStore(Memory(fake))
        await store.put(KEYS.leader("omsd"), SITE[KEYS.leader("omsd")])
        follower = followers.Follower(store, KEYS, fake, LeadershipSettings("fast"))
        running = asyncio.create_task(follower.run())
        await follower.changed.wait()
        assert follower.lease_remaining_ms() == {"omsd": 600}
        await store.close()
        await running

    asyncio.run(story())


def test_a_reader_hears_only_of_the_kinds_that_it_asked_for() -> None:
    async def story() -> None:
        store = MemoryStore()
        follower = followers.Follower(store, KEYS)
        news = follower.news("specs", "led")
        running = asyncio.create_task(follower.run())
        await store.put(KEYS.leader("omsd"), SITE[KEYS.leader("omsd")])
        assert await news.next() == {"led": {"omsd"}}
        heard = asyncio.create_task(news.next())
        renewed = records.LeaderRecord(OLD, 5, 10, OLD.instance, "n2")
        await store.put(KEYS.leader("omsd"), model.encode(renewed))
        await store.put(KEYS.host("alpha"), SITE[KEYS.host("alpha")])
        while follower.view is None or not follower.view.hosts or follower.view.leaders["omsd"] != renewed:
            await follower.changed.wait()
        assert not heard.done()
        await store.put(KEYS.spec("omsd"), SITE[KEYS.spec("omsd")])
        assert await heard == {"specs": {"omsd"}}
        await store.close()
        await running

    asyncio.run(story())


def test_a_follower_of_some_prefixes_has_a_view_of_those_alone() -> None:
    async def story() -> None:
        store = MemoryStore()
        for key, value in SITE.items():
            await store.put(key, value)
        only = (KEYS.services, KEYS.specs)
        follower = followers.Follower(store, KEYS, only=only)
        running = asyncio.create_task(follower.run())
        await follower.first_view()
        assert follower.view is not None and set(follower.nouns) == set(only)
        assert follower.view.specs and follower.view.registered("omsd")
        assert not follower.view.leaders and not follower.view.hosts
        await store.close()
        await running

    asyncio.run(story())


def test_one_that_is_called_hears_at_once_of_the_kinds_that_it_asked_for_and_sees_the_new_view() -> None:
    async def story() -> None:
        store, heard = MemoryStore(), list[tuple[nouns.Changes, bool]]()
        follower = followers.Follower(store, KEYS)

        def told(changes: nouns.Changes) -> None:
            heard.append((changes, follower.view is not None and "omsd" in follower.view.specs))

        follower.tell(told, "specs", "led")
        running = asyncio.create_task(follower.run())
        await store.put(KEYS.host("alpha"), SITE[KEYS.host("alpha")])
        await follower.first_view()
        assert heard == []
        await store.put(KEYS.spec("omsd"), SITE[KEYS.spec("omsd")])
        while not heard:
            await follower.changed.wait()
        assert heard == [({"specs": {"omsd"}}, True)]
        await store.close()
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
        assert (await operation_log.begin(store, KEYS, operation("op1"))).state == "running"
        with pytest.raises(Refused, match="taken"):
            await operation_log.begin(store, KEYS, records.OperationRecord("op1", "x", "", "", "", "", 2))

    asyncio.run(story())


def test_of_two_ends_of_an_operation_the_first_stands_but_unknown_may_be_settled() -> None:
    async def story() -> None:
        store = MemoryStore()
        await operation_log.begin(store, KEYS, operation("op1"))
        assert (await operation_log.finish(store, KEYS, "op1", "unknown", 5)).state == "unknown"
        assert (await operation_log.finish(store, KEYS, "op1", "succeeded", 6)).state == "succeeded"
        assert (await operation_log.finish(store, KEYS, "op1", "failed", 7)).state == "succeeded"
        with pytest.raises(Refused, match="not in the store"):
            await operation_log.finish(store, KEYS, "op2", "failed", 7)

    asyncio.run(story())


def test_an_operation_that_never_reached_the_store_is_not_begun() -> None:
    async def story() -> None:
        store = MemoryStore()
        store.cut()
        with pytest.raises(Unavailable) as caught:
            await operation_log.begin(store, KEYS, operation("op1"))
        assert not caught.value.ambiguous

    asyncio.run(story())


def test_trimming_keeps_the_newest_finished_and_all_that_run() -> None:
    async def story() -> None:
        store = MemoryStore()
        for n in range(5):
            await operation_log.begin(store, KEYS, operation(f"op{n}"))
        for n in range(4):
            await operation_log.finish(store, KEYS, f"op{n}", "succeeded", 100 + n)
        assert await operation_log.trim(store, KEYS, kept_max=1) == 3
        left = nouns.view_of(KEYS, await store.range(KEYS.root)).operations
        assert [each.id for each in left] == ["op3", "op4"]

    asyncio.run(story())


def test_a_reason_quotes_the_record_in_part() -> None:
    spec = b'{"name": "omsd", "daemon": "omsd", "hosts": ["alpha"], "mode": "%s"}' % (b"x" * 10_000)
    view = nouns.view_of(KEYS, snapshot({KEYS.spec("omsd"): spec}))
    assert len(view.undecodable[KEYS.spec("omsd")]) == nouns.REASON_MAX
