"""What the follower believes is compared with the store: a damaged cache and a watch that dropped a change
are mended and counted, and what is only on its way is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from controlplane import model, registry
from controlplane.errors import Unavailable
from controlplane.site import anti_entropy
from controlplane.site.follower import Follower
from controlplane.store.memory import MemoryStore
from tests.support.discovered import KEYS, OMSD, registration
from tests.support.dropping import Dropping
from tests.unit.controlplane.test_site import SITE

KEY = KEYS.registration("bookd", "bookd-alpha-1")


class DroppingStore(MemoryStore):
    """The store's twin whose watches drop what is in `dropped`."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: set[str] = set()

    def watch(self, prefix: str) -> Any:
        return Dropping(super().watch(prefix), self.dropped)


class Story:
    def __init__(self, store: MemoryStore) -> None:
        self.store, self.writer = store, store.client()
        self.follower = Follower(store, KEYS)
        self.discovery = registry.Discovery(self.follower)
        self.reports: list[tuple[str, Mapping[str, object]]] = []
        self.entropy = anti_entropy.AntiEntropy(
            self.follower,
            self.writer,
            KEYS,
            registrations=lambda: registry.watch(self.writer, KEYS),
            also=self.discovery.recheck,
            report=lambda kind, fields: self.reports.append((kind, fields)),
            every_s=0.01,
            settle_s=0.01,
        )

    async def until(self, good: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not good():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def run(story: Callable[[Story], Awaitable[None]], store: MemoryStore | None = None) -> Story:
    async def whole() -> Story:
        made = Story(store or MemoryStore())
        for key, value in SITE.items():
            await made.writer.put(key, value)
        await made.writer.put(KEY, model.encode(registration()))
        running = asyncio.create_task(made.follower.run())
        await made.follower.first_view()
        await story(made)
        await made.store.close()
        await running
        return made

    return asyncio.run(whole())


def test_a_view_that_is_the_store_s_is_left_alone() -> None:
    async def story(made: Story) -> None:
        assert made.discovery.resolve("bookd") is not None
        view = made.follower.view
        assert await made.entropy.compare() == 0 and made.entropy.compared == 1
        assert made.follower.view is view

    made = run(story)
    assert made.reports == [] and made.entropy.repaired == {}


@pytest.mark.parametrize("key", sorted(SITE))
def test_a_record_that_a_damaged_cache_has_lost_comes_back(key: str) -> None:
    async def story(made: Story) -> None:
        noun = next(noun for prefix, noun in made.follower.nouns.items() if key.startswith(prefix))
        before = dict(noun.records())
        for held in (noun.tables, noun._rows):
            held.clear()
        assert await made.entropy.compare() == len(before)
        assert dict(noun.records()) == before
        assert await made.entropy.compare() == 0

    run(story)


def test_a_damaged_registration_is_mended_counted_and_told() -> None:
    async def story(made: Story) -> None:
        heard = list[int]()
        made.discovery.on_change(lambda service, found: heard.append(found[0].registration.port), "bookd")
        for part in made.follower.nouns[KEYS.services].tables["services"]["bookd"].values():
            part["bookd-alpha-1"] = registration(port=666)
        made.discovery.forget()
        found = made.discovery.resolve("bookd")
        assert found is not None and found.registration.port == 666
        assert await made.entropy.compare() == 1
        found = made.discovery.resolve("bookd")
        assert found is not None and found.registration.port == 1
        assert heard == [], "it had heard of nothing else"

    made = run(story)
    assert made.entropy.repaired == {"services": 1}
    [(kind, fields)] = made.reports
    assert kind == "cache.repaired" and fields["records"] == 1 and fields["keys"] == KEY


def test_what_a_watch_dropped_is_found_be_it_new_changed_or_gone() -> None:
    store = DroppingStore()
    other, gone = KEYS.registration("bookd", "bookd-alpha-2"), KEYS.registration("omsd", "omsd-alpha-1")

    async def story(made: Story) -> None:
        store.dropped |= {KEY, other, gone, KEYS.spec("omsd")}
        await made.writer.put(KEY, model.encode(registration(port=2)))
        await made.writer.put(other, model.encode(registration(2)))
        await made.writer.delete(gone)
        await made.writer.delete(KEYS.spec("omsd"))
        await made.writer.put(KEYS.registration("bookd", "bookd-alpha-3"), model.encode(registration(3)))
        await made.until(lambda: len(made.discovery.serving("bookd")) == 2)
        assert made.discovery.serving("omsd"), "it has not heard"
        assert await made.entropy.compare() == 4
        assert [each.registration.port for each in made.discovery.serving("bookd")] == [2, 1, 1]
        assert not made.discovery.serving("omsd")
        assert made.follower.view is not None and not made.follower.view.specs

    made = run(story, store)
    assert made.entropy.repaired == {"services": 3, "specs": 1}


def test_a_change_between_the_two_looks_is_no_difference() -> None:
    """The watch is late, not wrong: it shows the change before the second look."""
    store = DroppingStore()

    async def story(made: Story) -> None:
        store.dropped.add(KEY)
        await made.writer.put(KEY, model.encode(registration(port=2)))
        comparing = asyncio.create_task(made.entropy.compare())
        made.entropy._settle_s = 0.3
        await asyncio.sleep(0.05)
        store.dropped.clear()
        await made.writer.put(KEY, model.encode(registration(port=3)))
        assert await comparing == 0

    assert run(story, store).entropy.repaired == {}


def test_a_record_that_moves_is_left_to_its_watch_and_one_that_stands_still_is_mended() -> None:
    store = DroppingStore()

    async def story(made: Story) -> None:
        def port() -> int:
            return made.discovery.serving("bookd")[0].registration.port

        store.dropped.add(KEY)
        await made.writer.put(KEY, model.encode(registration(port=2)))
        made.entropy._settle_s = 0.5
        comparing = asyncio.create_task(made.entropy.compare())
        await asyncio.sleep(0.1)  # the first look: 1 is believed, 2 is stored
        store.dropped.clear()
        await made.writer.put(KEY, model.encode(registration(port=3)))
        await made.until(lambda: port() == 3)
        store.dropped.add(KEY)
        await made.writer.put(KEY, model.encode(registration(port=4)))
        assert await comparing == 0 and port() == 3, "it was 1, it is 3: its watch is at work"
        assert await made.entropy.compare() == 1 and port() == 4

    run(story, store)


def test_a_record_that_does_not_decode_is_no_difference() -> None:
    async def story(made: Story) -> None:
        await made.writer.put(KEY, b"rubbish")
        await made.until(lambda: made.follower.view and made.follower.view.undecodable)
        assert await made.entropy.compare() == 0
        assert len(made.discovery.serving("bookd")) == 1, "the last good one stays"

    run(story)


def test_answers_that_do_not_fit_the_view_are_mended_too() -> None:
    async def story(made: Story) -> None:
        assert made.discovery.serving("bookd")
        made.discovery._all["bookd"] = ()
        assert await made.entropy.compare() == 1
        assert made.discovery.serving("bookd")

    assert run(story).entropy.repaired == {"answers": 1}


def test_it_goes_on_by_itself_also_after_the_store_was_away() -> None:
    store = DroppingStore()

    async def story(made: Story) -> None:
        comparing = asyncio.create_task(made.entropy.run())
        made.writer.cut()
        with pytest.raises(Unavailable):
            await made.writer.range("")
        await asyncio.sleep(0.05)
        made.writer.heal()
        await made.until(lambda: made.entropy.compared)
        store.dropped.add(KEYS.spec("new"))
        await made.writer.put(KEYS.spec("new"), model.encode(OMSD).replace(b'"omsd"', b'"new"', 1))
        await made.until(lambda: made.entropy.repaired == {"specs": 1})
        comparing.cancel()
        await asyncio.gather(comparing, return_exceptions=True)

    run(story, store)


def test_the_intervals_are_spread() -> None:
    slept = list[float]()

    async def story(made: Story) -> None:
        shares = iter((0.0, 0.5, 0.999))
        made.entropy._random = lambda: next(shares)
        made.entropy._every_s = 60

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch, pytest.raises(asyncio.CancelledError):
            patch.setattr(anti_entropy, "asyncio", _Asyncio(sleep))
            patch.setattr(made.entropy, "compare", _nothing)
            await made.entropy.run()

    run(story)
    assert [round(each) for each in slept] == [30, 60, 90]


class _Asyncio:
    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.sleep = sleep


async def _nothing() -> int:
    return 0
