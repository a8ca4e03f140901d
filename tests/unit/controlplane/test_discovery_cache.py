"""The cache that answers who serves: what it costs, what it says when things change, and what it survives."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from controlplane import clock, model, registry
from controlplane.errors import Unavailable
from controlplane.model.records import LeaderRecord
from controlplane.registry import discovery
from controlplane.registry.discovery import cache
from controlplane.site.follower import Follower
from controlplane.store.memory import Memory, MemoryStore
from tests.support.discovered import KEYS, OMSD, Site, chosen, registration


def test_before_the_site_is_known_and_of_a_service_that_nobody_serves_none_is_found() -> None:
    site = Site()
    assert site.discovery.resolve("bookd") is None and site.instances() == []
    site.put(registration(service="omsd"))
    assert site.discovery.resolve("bookd") is None and site.instances() == []


def test_names_that_nobody_serves_are_not_collected() -> None:
    site = Site()
    site.put(registration())
    near = site.discovery.by(discovery.LeastLoaded())
    for n in range(100):
        site.discovery.resolve(f"nosuch-{n}")
        near.resolve(f"nosuch-{n}")
    assert not site.discovery._all and not near._turns and not near._choosers


def test_what_comes_and_goes_is_in_the_next_answer() -> None:
    site = Site()
    site.put(registration(1), registration(2))
    assert chosen(site.discovery.resolve) == {"bookd-alpha-1": 6, "bookd-alpha-2": 6}
    site.put(registration(3))
    assert chosen(site.discovery.resolve) == {f"bookd-alpha-{n}": 4 for n in (1, 2, 3)}
    site.take_out(registration(1))
    assert chosen(site.discovery.resolve) == {f"bookd-alpha-{n}": 6 for n in (2, 3)}
    site.take_out(registration(2))
    site.take_out(registration(3))
    assert site.discovery.resolve("bookd") is None


def test_what_is_critical_or_in_maintenance_is_never_given_and_a_warning_is_unless_unwanted() -> None:
    site = Site()
    site.put(
        registration(1, health="critical"),
        registration(2, maintenance="new disk"),
        registration(3, health="warning"),
        registration(4),
    )
    assert set(chosen(site.discovery.resolve)) == {"bookd-alpha-3", "bookd-alpha-4"}
    passing = site.discovery.by(discovery.RoundRobin(), discovery.Only(passing=True))
    assert set(chosen(passing.resolve)) == {"bookd-alpha-4"}
    assert len(site.instances()) == 4, "all are known"
    site.put(registration(2))
    assert "bookd-alpha-2" in chosen(site.discovery.resolve)


def test_filters_choose_among_those_that_are_wanted() -> None:
    site = Site()
    site.put(
        registration(1, zone="r1", version="1"),
        registration(2, zone="r1", version="2", tags=("hft", "fast")),
        registration(3, zone="r2", version="2"),
    )
    wanted = discovery.Only(zone="r1", version="2", tags=("fast",))
    assert set(chosen(site.discovery.by(discovery.RoundRobin(), wanted).resolve)) == {"bookd-alpha-2"}


def test_the_leader_of_a_group_can_be_asked_for_and_is_another_one_after_a_take() -> None:
    site = Site()
    one, two = registration(1, "omsd"), registration(2, "omsd")
    site.put(OMSD, one, two, LeaderRecord(one.process, 5, 1, one.instance, "a"))
    leader = site.discovery.by(discovery.RoundRobin(), discovery.Only(role="leader"))
    found = leader.resolve("omsd")
    assert found is not None and (found.instance, found.epoch) == (one.instance, 1)
    site.put(LeaderRecord(two.process, 5, 2, two.instance, "b"))
    found = leader.resolve("omsd")
    assert found is not None and (found.instance, found.epoch) == (two.instance, 2)


def test_a_change_costs_its_own_service_and_a_renewal_none(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    one = registration(1, "omsd")
    site.put(OMSD, one, registration(1), LeaderRecord(one.process, 5, 1, one.instance, "a"))
    built = list[str]()
    of = cache.Discovery.of

    def counted(view: Any, service: str) -> tuple[registry.Serving, ...]:
        built.append(service)
        return of(view, service)

    monkeypatch.setattr(cache.Discovery, "of", staticmethod(counted))
    for service in ("omsd", "bookd"):
        site.discovery.resolve(service)
    built.clear()
    for n in range(1000):
        site.put(LeaderRecord(one.process, 5, 1, one.instance, f"n{n}"))
        site.discovery.resolve("omsd")
        site.discovery.resolve("bookd")
    assert built == [], "a leader that renews"
    site.put(registration(2))
    site.discovery.resolve("omsd")
    site.discovery.resolve("bookd")
    assert built == ["bookd"]


def test_a_thousand_changes_end_in_what_the_last_of_them_said() -> None:
    site, rng = Site(), random.Random(7)
    ways = [
        site.discovery.by(way)
        for way in (discovery.RoundRobin(), discovery.LeastLoaded(), discovery.Weighted(), discovery.Sticky())
    ]
    wanted = dict[str, bool]()
    for n in range(1000):
        each = registration(rng.randrange(20), pid=n + 1, maintenance=rng.choice(["", "", "away"]))
        if each.instance in wanted and rng.random() < 0.4:
            site.take_out(each)
            del wanted[each.instance]
        else:
            site.put(each)
            wanted[each.instance] = each.serves
        serve = {instance for instance, serves in wanted.items() if serves}
        for way in ways:
            found = way.resolve("bookd", "a key")
            assert (found.instance in serve) if found is not None else not serve
    assert set(site.instances()) == set(wanted)


# --- changes ------------------------------------------------------------------------------------------------


def test_a_callback_hears_of_its_services_with_all_that_are_registered_then() -> None:
    site, heard = Site(), list[tuple[str, int]]()
    site.put(registration(1))
    stop = site.discovery.on_change(lambda service, found: heard.append((service, len(found))), "bookd")
    site.put(registration(2))
    site.put(registration(1, "omsd"))
    site.take_out(registration(1))
    site.put(registration(2))  # written again, the same
    assert heard == [("bookd", 2), ("bookd", 1)]
    stop()
    stop()
    site.put(registration(3))
    assert len(heard) == 2


def test_a_callback_without_services_hears_of_all() -> None:
    site, heard = Site(), list[str]()
    site.discovery.on_change(lambda service, found: heard.append(service))
    site.put(registration(1), registration(1, "omsd"))
    site.put(OMSD)
    site.take_out(registration(1))
    assert heard == ["bookd", "omsd", "omsd", "bookd"]


@pytest.mark.parametrize("raised", [ZeroDivisionError("oops"), asyncio.CancelledError("oops")])
def test_a_callback_that_raises_is_named_and_harms_no_other(raised: BaseException) -> None:
    site, heard = Site(), list[str]()

    def broken(service: str, found: object) -> None:
        raise raised

    site.discovery.on_change(broken)
    site.discovery.on_change(lambda service, found: heard.append(service))
    site.put(registration(1))
    site.put(registration(2))
    assert heard == ["bookd", "bookd"]
    assert [kind for kind, _ in site.reports] == ["discovery.callback_failed"] * 2
    assert "broken" in str(site.reports[0][1]["callback"]) and "oops" in str(site.reports[0][1]["reason"])


def test_a_callback_that_ends_itself_or_begins_another_harms_no_other() -> None:
    site, heard = Site(), list[str]()
    stops = list[Callable[[], None]]()

    def once(service: str, found: object) -> None:
        heard.append("once")
        stops[0]()
        site.discovery.on_change(lambda service, found: heard.append("new"))

    stops.append(site.discovery.on_change(once))
    site.discovery.on_change(lambda service, found: heard.append("other"))
    site.put(registration(1))
    site.put(registration(2))
    assert heard == ["once", "other", "other", "new"]


# --- waiting ------------------------------------------------------------------------------------------------


def test_waiting_ends_when_enough_serve() -> None:
    async def story() -> None:
        site = Site()
        waits = asyncio.create_task(site.discovery.wait_for("bookd", timeout_s=60, count=2))
        await asyncio.sleep(0)
        site.put(registration(1))
        site.put(registration(2, health="critical"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waits.done()
        site.put(registration(2))
        assert [each.instance for each in await waits] == ["bookd-alpha-1", "bookd-alpha-2"]
        assert not site.discovery._calls, "and leaves no callback behind"

    asyncio.run(story())


def test_waiting_in_vain_says_what_was_found_instead() -> None:
    async def story() -> None:
        site = Site()
        site.put(registration(1, health="critical"), registration(2, maintenance="new disk"))
        with pytest.raises(Unavailable) as refused:
            await site.discovery.wait_for("bookd", timeout_s=0.01)
        assert str(refused.value) == (
            'service "bookd": not found within 0.01 s: registered: bookd-alpha-1 (critical), bookd-alpha-2 '
            "(in maintenance: new disk); wanted 1 that serve; the store was last heard 1.5 s ago"
        )
        assert not site.discovery._calls

    asyncio.run(story())


# --- damage -------------------------------------------------------------------------------------------------


def test_an_answer_that_does_not_fit_the_view_is_found_and_mended() -> None:
    site, heard = Site(), list[int]()
    site.put(registration(1), registration(2))
    site.discovery.on_change(lambda service, found: heard.append(len(found)), "bookd")
    assert len(chosen(site.discovery.resolve)) == 2 and site.discovery.recheck() == 0
    site.discovery._all["bookd"] = site.discovery._all["bookd"][:1]
    site.discovery._in_turn.forget(None)
    assert len(chosen(site.discovery.resolve)) == 1
    assert site.discovery.recheck() == 1 and site.discovery.stale == 1
    assert len(chosen(site.discovery.resolve)) == 2 and site.discovery.recheck() == 0


def test_threads_that_ask_while_the_site_changes_get_what_is_or_was_registered() -> None:
    site = Site()
    site.put(*(registration(n) for n in range(8)))
    ways = [
        site.discovery.by(way)
        for way in (discovery.RoundRobin(), discovery.LeastLoaded(), discovery.Weighted(), discovery.Sticky())
    ]
    failed, stop = list[BaseException](), threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                for way in ways:
                    found = way.resolve("bookd", "key")
                    if found is not None:
                        way.started(found)
                        way.finished(found, ok=True)
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(400):
        site.take_out(registration(n % 8))
        site.put(registration(n % 8, pid=n + 1))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    site.put(registration(1, maintenance="last"))
    assert all(len(way.resolve("bookd", str(n)).instance) for way in ways for n in range(9))  # type: ignore[union-attr]
    assert "bookd-alpha-1" not in {site.discovery.resolve("bookd").instance for _ in range(20)}  # type: ignore[union-attr]


# --- over a real follower -----------------------------------------------------------------------------------


def over_memory(
    story: Callable[[MemoryStore, MemoryStore, clock.FakeClock], Coroutine[Any, Any, None]],
) -> None:
    async def run() -> None:
        fake = clock.FakeClock()
        memory = Memory(fake)
        writer, reader = MemoryStore(memory), MemoryStore(memory)
        async with asyncio.timeout(30):
            await story(writer, reader, fake)

    asyncio.run(run())


def test_while_the_store_is_away_the_last_answer_stands_with_its_age() -> None:
    async def story(writer: MemoryStore, reader: MemoryStore, fake: clock.FakeClock) -> None:
        follower = Follower(reader, KEYS, fake)
        found = registry.Discovery(follower, fake)
        running = asyncio.create_task(follower.run())
        await writer.put(KEYS.registration("bookd", "bookd-alpha-1"), model.encode(registration()))
        await found.wait_for("bookd", timeout_s=20)
        reader.cut()
        fake.advance_s(30)
        await writer.delete(KEYS.registration("bookd", "bookd-alpha-1"))
        for _ in range(10):
            await asyncio.sleep(0)
        [still] = [found.resolve("bookd")]
        assert still is not None and still.instance == "bookd-alpha-1" and found.age_s() == 30
        reader.heal()
        while found.resolve("bookd") is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert found.age_s() < 1
        await reader.close()
        await running

    over_memory(story)


def test_rubbish_in_place_of_a_registration_harms_no_other() -> None:
    async def story(writer: MemoryStore, reader: MemoryStore, fake: clock.FakeClock) -> None:
        good = model.encode(registration(1))
        rubbish = [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"[]", b"{}", good.replace(b"alpha-1", b"alpha-9")]
        for n, value in enumerate(rubbish, 10):
            await writer.put(KEYS.registration("bookd", f"bookd-alpha-{n}"), value)
        await writer.put(f"{KEYS.services}bookd", good)
        await writer.put(f"{KEYS.services}bookd/a/b/c", good)
        await writer.put(KEYS.registration("bookd", "bookd-alpha-1"), good)
        follower = Follower(reader, KEYS, fake, only=(KEYS.services, KEYS.specs, KEYS.groups))
        found = registry.Discovery(follower, fake)
        running = asyncio.create_task(follower.run())
        assert [each.instance for each in await found.wait_for("bookd", timeout_s=20)] == ["bookd-alpha-1"]
        assert follower.view is not None and len(follower.view.undecodable) == len(rubbish)
        await writer.put(KEYS.registration("bookd", "bookd-alpha-1"), b"rubbish")
        await writer.put(KEYS.registration("bookd", "bookd-alpha-2"), model.encode(registration(2)))
        await found.wait_for("bookd", timeout_s=20, count=2)
        await reader.close()
        await running

    over_memory(story)
