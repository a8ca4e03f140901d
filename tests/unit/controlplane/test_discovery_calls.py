"""Calls of what discovery has given: counted, and left out for a time where they fail."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.errors import Unavailable
from controlplane.registry import discovery
from tests.support.discovered import Site, chosen, registration


def test_an_instance_whose_calls_fail_is_left_out_by_every_balancing_and_comes_back() -> None:
    site = Site()
    site.put(registration(1), registration(2))
    near = site.discovery.by(discovery.SameHostFirst("alpha"))
    assert len(chosen(near.resolve)) == 2
    bad = site.discovery.serving("bookd")[0]
    site.discovery.called(bad, ok=False)
    site.discovery.called(bad, ok=False)
    assert set(chosen(near.resolve)) == set(chosen(site.discovery.resolve)) == {"bookd-alpha-2"}
    assert site.discovery.ejected("bookd") == {"bookd-alpha-1": 10.0}
    assert site.reports[-1][0] == "discovery.ejected" and site.reports[-1][1]["instance"] == "bookd-alpha-1"
    site.clock.advance_s(9)
    assert site.discovery.lift() == 1.0 and len(chosen(near.resolve)) == 1
    site.clock.advance_s(1)
    assert site.discovery.lift() is None
    assert len(chosen(near.resolve)) == 2 and not site.discovery.ejected("bookd")


def test_its_successor_is_not_left_out() -> None:
    site = Site()
    site.put(registration(1), registration(2))
    for _ in range(2):
        site.discovery.called(site.discovery.serving("bookd")[0], ok=False)
    site.put(registration(1, pid=11))
    assert len(chosen(site.discovery.resolve)) == 2 and not site.discovery.ejected("bookd")


def test_what_is_held_against_processes_does_not_grow_with_their_restarts() -> None:
    site = Site()
    for pid in range(10, 60):
        site.put(registration(1, pid=pid), registration(2))
        for _ in range(2):
            site.discovery.called(site.discovery.serving("bookd")[0], ok=False)
        site.discovery.resolve("bookd")
    assert len(site.discovery._ejections._records["bookd"]) == 1


def test_around_a_call_it_is_counted_and_its_end_is_heard() -> None:
    site = Site()
    site.put(registration(1), registration(2))
    least = site.discovery.by(discovery.LeastLoaded())
    with least.calling("bookd") as first, least.calling("bookd") as second:
        assert first.instance != second.instance
    for _ in range(2):
        with pytest.raises(OSError), least.calling("bookd") as third:
            if third.instance == "bookd-alpha-1":
                raise OSError("refused")
            with least.calling("bookd") as third:
                assert third.instance == "bookd-alpha-1"
                raise OSError("refused")
    assert "bookd-alpha-1" in site.discovery.ejected("bookd")
    assert not any(least._choosers["bookd"].calls.values()), "none is left under way"  # type: ignore[attr-defined]


def test_a_call_that_was_cancelled_says_nothing_of_its_instance() -> None:
    site = Site()
    site.put(registration(1), registration(2))
    for _ in range(10):
        with (
            pytest.raises(asyncio.CancelledError),
            site.discovery.by(discovery.RoundRobin()).calling("bookd"),
        ):
            raise asyncio.CancelledError
    assert not site.discovery.ejected("bookd")


def test_a_call_of_a_service_that_nobody_serves_is_refused_with_the_age() -> None:
    site = Site()
    way = site.discovery.by(discovery.RoundRobin())
    with (
        pytest.raises(Unavailable, match=r'"bookd": no instance serves; .* 1\.5 s ago'),
        way.calling("bookd"),
    ):
        raise AssertionError("nothing is called")


def test_an_ejection_ends_in_time_while_discovery_runs() -> None:
    async def story() -> None:
        site = Site()
        site.put(registration(1), registration(2))
        running = asyncio.create_task(site.discovery.run())
        await asyncio.sleep(0)
        assert len(chosen(site.discovery.resolve)) == 2
        for _ in range(2):
            site.discovery.called(site.discovery.serving("bookd")[0], ok=False)
        assert len(chosen(site.discovery.resolve)) == 1
        site.clock.advance_s(9.99)  # the loop waits for the rest of the time in its own
        site.discovery._wake()
        while site.discovery._lifted_ns < site.clock.boot_ns():  # noqa: ASYNC110
            await asyncio.sleep(0)
        site.clock.advance_s(0.01)
        async with asyncio.timeout(20):
            while len(chosen(site.discovery.resolve)) != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
