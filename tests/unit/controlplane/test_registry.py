"""The registry on leased keys, round by round on the memory store: what it writes, what it reports, and what
it does with one registration that the store refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from controlplane import clock, model
from controlplane.errors import Denied, InvalidSettings, Unavailable
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry import LeasedRegistry
from controlplane.registry.leased import KEEP_S
from controlplane.site import nouns
from controlplane.store import Committed, Compare, Delete, Keys, Lost, Put, memory
from controlplane.store.limits import VALUES_BYTES_MAX

pytestmark = pytest.mark.anyio

KEYS = Keys("lab")
BOOT = "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f"


def process(instance: str, pid: int = 10) -> Process:
    return Process(instance, BOOT, pid, 100)


def registration(instance: str = "bookd-alpha-1", pid: int = 10, **changed: object) -> Registration:
    service = instance.partition("-")[0]
    made = Registration(service, instance, "alpha", process(instance, pid), {}, "10.0.0.1", 9100, 1, "0.1.0")
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def key(each: Registration) -> str:
    return KEYS.registration(each.service, each.instance)


class Watched(memory.MemoryStore):
    """Counts what is asked of it."""

    def __init__(self, time: clock.FakeClock) -> None:
        super().__init__(clock=time)
        self.asked_for: list[str] = []
        self.denied: set[str] = set()

    async def get(self, key: str) -> object:  # type: ignore[override]
        self.asked_for.append("get")
        return await super().get(key)

    async def txn(self, compares: list[Compare], then: list[Put | Delete]) -> Committed | Lost:  # type: ignore[override]
        self.asked_for.append("txn" if not then else type(then[0]).__name__)
        if any(operation.key in self.denied for operation in then):
            raise Denied("permission denied")
        return await super().txn(compares, then)


class Bench:
    def __init__(self) -> None:
        self.clock = clock.FakeClock()
        self.store = Watched(self.clock)
        self.reported: list[tuple[str, Mapping[str, object]]] = []
        self.registry = self.another()

    def another(self) -> LeasedRegistry:
        return LeasedRegistry(
            self.store, KEYS, self.clock, report=lambda kind, fields: self.reported.append((kind, fields))
        )

    def kinds(self) -> list[str]:
        kinds = [kind for kind, _ in self.reported]
        self.reported.clear()
        return kinds

    async def shown(self) -> dict[str, Registration]:
        entries = (await self.store.range(KEYS.services)).entries
        return {
            name.rpartition("/")[2]: model.decode(Registration, entry.value)
            for name, entry in entries.items()
        }

    async def a_keep_alive_later(self) -> float:
        self.clock.advance_s(KEEP_S)
        return await self.registry.reconcile()


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_instance_is_registered_under_its_lease_and_gone_with_it(bench: Bench) -> None:
    one = registration()
    bench.registry.register(one)
    await bench.registry.reconcile()
    view = nouns.view_of(KEYS, await bench.store.range(KEYS.root))
    assert view.registered(one.service) == [one]
    for lease_id in list(bench.store.memory._grants):
        bench.store.memory.end_lease(lease_id)
    assert (await bench.store.range(KEYS.root)).entries == {}
    await bench.a_keep_alive_later()
    assert bench.registry.held() == {}, "its keys ended with it"
    assert "registration.failed" in bench.kinds()


async def test_what_is_said_again_is_not_written_again(bench: Bench) -> None:
    one = registration()
    bench.registry.register(one)
    assert await bench.registry.reconcile() == pytest.approx(KEEP_S)
    revision = bench.store.memory.revision
    bench.registry.register(one)
    bench.registry.update(dataclasses.replace(one))
    await bench.registry.reconcile()
    assert bench.store.memory.revision == revision and bench.registry.held() == {one.instance: one}


async def test_a_keep_alive_costs_one_question_however_many_are_registered(bench: Bench) -> None:
    for n in range(10):
        bench.registry.register(registration(f"bookd-alpha-{n}"))
    await bench.registry.reconcile()
    bench.store.asked_for.clear()
    await bench.a_keep_alive_later()
    assert bench.store.asked_for == ["txn"]


async def test_more_registrations_than_one_transaction_compares_are_all_looked_after(bench: Bench) -> None:
    rows = [registration(f"bookd-alpha-{n:03}") for n in range(130)]
    for each in rows:
        bench.registry.register(each)
    await bench.registry.reconcile()
    await bench.store.delete(key(rows[100]))
    bench.store.asked_for.clear()
    await bench.a_keep_alive_later()
    assert bench.store.asked_for.count("txn") == 3 and len(await bench.shown()) == 130
    assert bench.kinds()[-2:] == ["registration.lost", "registered"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (registration("bookd-alpha-1", version="x" * (VALUES_BYTES_MAX + 1)), "values of"),
        (registration("bookd-" + "a" * 600), "bytes, wanted at most"),
    ],
    ids=["too large", "key too long"],
)
async def test_one_registration_that_the_store_refuses_is_named_once_and_stops_no_other(
    bench: Bench, bad: Registration, why: str
) -> None:
    good = registration("bookd-alpha-2")
    bench.registry.register(bad)
    bench.registry.register(good)
    for _ in range(5):
        await bench.a_keep_alive_later()
    assert list(bench.registry.held()) == [good.instance] == list(await bench.shown())
    refused = [fields for kind, fields in bench.reported if kind == "registration.refused"]
    assert len(refused) == 1 and refused[0]["key"] == key(bad) and why in str(refused[0]["reason"])


async def test_a_refused_registration_is_put_once_the_store_takes_it(bench: Bench) -> None:
    one, other = registration("bookd-alpha-1"), registration("bookd-alpha-2")
    bench.store.denied.add(key(one))
    bench.registry.register(one)
    bench.registry.register(other)
    await bench.registry.reconcile()
    assert list(bench.registry.held()) == [other.instance]
    bench.store.denied.clear()
    await bench.a_keep_alive_later()
    assert list(bench.registry.held()) == [one.instance, other.instance]


async def test_a_delete_that_the_store_refuses_holds_up_nothing_and_is_tried_again(bench: Bench) -> None:
    one, other = registration("bookd-alpha-1"), registration("bookd-alpha-2")
    bench.registry.register(one)
    await bench.registry.reconcile()
    bench.store.denied.add(key(one))
    bench.registry.deregister(one.service, one.instance)
    bench.registry.register(other)
    await bench.registry.reconcile()
    assert list(await bench.shown()) == [one.instance, other.instance]
    bench.store.denied.clear()
    await bench.a_keep_alive_later()
    assert list(await bench.shown()) == [other.instance]


async def test_a_store_that_is_away_is_reported_once_and_once_when_it_is_back(bench: Bench) -> None:
    bench.registry.register(registration())
    await bench.registry.reconcile()
    bench.kinds()
    bench.store.cut()
    for _ in range(3):
        await bench.a_keep_alive_later()
    assert bench.kinds() == ["registration.failed"]
    bench.store.heal()  # nine seconds: the lease still lives
    await bench.registry.reconcile()
    assert bench.kinds() == ["registration.recovered"]


async def test_an_outage_is_reported_once_though_the_words_of_each_try_differ(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter(range(3))

    async def lease(ttl_s: float) -> memory.MemoryLease:
        raise Unavailable(f"no connection (waited {next(tries)} ms)")

    monkeypatch.setattr(bench.store, "lease", lease)
    bench.registry.register(registration())
    for _ in range(3):
        await bench.registry.reconcile()
    assert bench.kinds() == ["registration.failed"]


async def test_a_store_that_loses_every_lease_is_not_asked_without_a_pause(bench: Bench) -> None:
    bench.registry.register(registration())
    await bench.registry.reconcile()
    waits = []
    for _ in range(3):
        for lease_id in list(bench.store.memory._grants):
            bench.store.memory.end_lease(lease_id)
        bench.clock.advance_s(KEEP_S)
        waits.append(await bench.registry.reconcile())
        waits.append(await bench.registry.reconcile())
    assert waits[0] == 0.0, "a new lease at once"
    assert list(bench.registry.held()), "and the registration under it"


async def test_a_lost_answer_is_no_lost_registration(bench: Bench) -> None:
    one = registration()
    bench.registry.register(one)
    bench.store.lose_next_answer()
    await bench.registry.reconcile()
    assert bench.registry.held() == {}, "it may stand, but that is not known"
    await bench.registry.reconcile()
    assert bench.registry.held() == {one.instance: one}


async def test_a_registration_whose_answer_was_lost_is_taken_out_all_the_same(bench: Bench) -> None:
    one = registration()
    bench.registry.register(one)
    bench.store.lose_next_answer()
    await bench.registry.reconcile()
    assert await bench.shown()
    bench.registry.deregister(one.service, one.instance, one.process)
    await bench.registry.reconcile()
    assert await bench.shown() == {}


async def test_an_update_does_not_bring_back_a_process_that_has_ended(bench: Bench) -> None:
    one = registration()
    bench.registry.register(one)
    bench.registry.deregister(one.service, one.instance, one.process)
    bench.registry.update(dataclasses.replace(one, port=9200))
    await bench.registry.reconcile()
    assert await bench.shown() == {}
    bench.registry.register(registration(pid=11))
    bench.registry.update(dataclasses.replace(one, port=9200))
    await bench.registry.reconcile()
    assert (await bench.shown())[one.instance].process.pid == 11


async def test_the_death_of_an_old_process_does_not_take_out_the_new_one(bench: Bench) -> None:
    old, new = registration(pid=10), registration(pid=11)
    bench.registry.register(old)
    await bench.registry.reconcile()
    bench.registry.register(new)
    bench.registry.deregister(old.service, old.instance, old.process)
    await bench.registry.reconcile()
    assert await bench.shown() == {new.instance: new}


async def test_a_process_that_dies_before_it_was_written_takes_the_one_before_it_with_it(
    bench: Bench,
) -> None:
    old, new = registration(pid=10), registration(pid=11)
    bench.registry.register(old)
    await bench.registry.reconcile()
    bench.registry.register(new)
    bench.registry.deregister(new.service, new.instance, new.process)
    await bench.registry.reconcile()
    assert await bench.shown() == {}


async def test_nothing_is_registered_any_more_once_closed(bench: Bench) -> None:
    bench.registry.register(registration())
    await bench.registry.reconcile()
    await bench.registry.close()
    bench.registry.register(registration("bookd-alpha-2"))
    await bench.registry.reconcile()
    assert await bench.shown() == {} and bench.registry.held() == {}


async def test_closing_without_a_store_says_so(bench: Bench) -> None:
    bench.registry.register(registration())
    await bench.registry.reconcile()
    bench.store.cut()
    with pytest.raises(Unavailable):
        await bench.registry.close()


@pytest.mark.parametrize("keep_s", [0.0, 6.0])
def test_a_lease_that_one_lost_keep_alive_would_end_is_refused(bench: Bench, keep_s: float) -> None:
    with pytest.raises(InvalidSettings, match="keep-alive interval"):
        LeasedRegistry(bench.store, KEYS, bench.clock, ttl_s=10.0, keep_s=keep_s)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (None, "hft/lab/services/bookd/bookd-alpha-1"),
        ("hft/hand", "hft/hand/services/bookd/bookd-alpha-1"),
        ("/hft/hand/", "hft/hand/services/bookd/bookd-alpha-1"),
        ("", "services/bookd/bookd-alpha-1"),
        ("/", "services/bookd/bookd-alpha-1"),
    ],
)
async def test_the_prefix_of_the_keys_is_a_setting(bench: Bench, prefix: str | None, expected: str) -> None:
    registry = LeasedRegistry(bench.store, Keys("lab", prefix), bench.clock)
    registry.register(registration())
    await registry.reconcile()
    assert list((await bench.store.range("")).entries) == [expected]
