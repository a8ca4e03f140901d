"""The writer of specs: what is planned is what is written, a change of somebody else's is a conflict, a
removed service leaves a tombstone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from controlplane import model
from controlplane.errors import Unavailable
from controlplane.model import Mode, ServiceSpec, records
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.model.specs import Tombstone
from controlplane.operations import log as operation_log
from controlplane.site import nouns
from controlplane.specs import apply as specs_apply
from controlplane.specs.apply import Applied, Plan
from controlplane.store import Committed, Compare, Delete, Keys, Lost, Put
from controlplane.store.limits import OPERATIONS_MAX
from controlplane.store.memory import Memory, MemoryStore

KEYS = Keys("lab")
NOW_NS = 1_700_000_000_000_000_000


def spec(name: str, *hosts: str, **settings: object) -> ServiceSpec:
    return ServiceSpec(name, name.partition("-")[0], Mode.SINGLETON, hosts or ("alpha",), settings=settings)


async def apply(store: MemoryStore, *wanted: ServiceSpec, plan: Plan | None = None) -> Applied:
    plan = plan or await specs_apply.plan(store, KEYS, wanted)
    return await specs_apply.apply(
        store, KEYS, plan, operation=f"op{store_size(store)}", actor="ann", reason="test", now_ns=NOW_NS
    )


def store_size(store: MemoryStore) -> int:
    return store.memory.revision


async def stored(store: MemoryStore) -> dict[str, ServiceSpec | Tombstone]:
    entries = (await store.range(KEYS.specs)).entries
    return {key.removeprefix(KEYS.specs): records.decode_spec(entry.value) for key, entry in entries.items()}


def said(plan: Plan) -> list[str]:
    return [str(change) for change in plan.changes]


def test_an_apply_writes_what_is_new_and_changed_and_leaves_the_rest_alone() -> None:
    async def story() -> None:
        store = MemoryStore()
        first = await apply(store, spec("bookd"), spec("riskd", limit=1))
        assert (first.outcome, first.applied) == ("succeeded", ("bookd", "riskd"))
        plan = await specs_apply.plan(store, KEYS, [spec("bookd"), spec("riskd", limit=2)])
        assert said(plan) == ["~ riskd.settings.limit: 1 -> 2"]
        second = await apply(store, plan=plan)
        assert second.applied == ("riskd",)
        assert second.revisions["bookd"] == first.revisions["bookd"], "no new configuration for its instances"
        assert second.revisions["riskd"] > first.revisions["riskd"]
        assert await stored(store) == {"bookd": spec("bookd"), "riskd": spec("riskd", limit=2)}

    asyncio.run(story())


def test_an_apply_of_what_is_there_writes_nothing_at_all() -> None:
    async def story() -> None:
        store = MemoryStore()
        await apply(store, spec("bookd"))
        before = store.memory.revision
        again = await apply(store, spec("bookd"))
        assert (again.outcome, again.operation) == ("succeeded", None)
        assert set(again.revisions) == {"bookd"} and store.memory.revision == before

    asyncio.run(story())


def test_who_and_why_are_an_operation_and_a_removed_service_leaves_a_tombstone() -> None:
    async def story() -> None:
        store = MemoryStore()
        await apply(store, spec("bookd", "alpha", "beta"), spec("riskd"))
        plan = await specs_apply.plan(store, KEYS, [spec("riskd")])
        assert said(plan) == ["- bookd"]
        done = await apply(store, plan=plan)
        assert (await stored(store))["bookd"] == Tombstone(
            "ann", "test", "2023-11-14T22:13:20.000Z", ("alpha", "beta")
        )
        assert done.operation is not None
        record = await operation_log.find(store, KEYS, done.operation)
        assert record is not None
        assert (record.kind, record.subject, record.state) == ("apply", "-bookd", "succeeded")
        assert (record.actor, record.reason) == ("ann", "test")
        assert said(await specs_apply.plan(store, KEYS, [spec("riskd")])) == [], "it is removed already"

    asyncio.run(story())


def test_a_view_knows_a_tombstone_from_a_spec_and_an_old_reader_does_not_take_it_for_one() -> None:
    async def story() -> None:
        store = MemoryStore()
        await apply(store, spec("bookd"), spec("riskd"))
        await apply(store, spec("riskd"))
        view = nouns.view_of(KEYS, await store.range(KEYS.root))
        assert set(view.specs) == {"riskd"} and set(view.spec_revisions) == {"riskd"}
        assert view.tombstones["bookd"].by == "ann" and not view.undecodable
        entry = await store.get(KEYS.spec("bookd"))
        assert entry is not None
        with pytest.raises(ValueError, match="required field"):
            model.decode(ServiceSpec, entry.value)

    asyncio.run(story())


def test_a_tombstone_waits_for_hosts_that_still_run_an_instance_of_an_earlier_spec() -> None:
    async def story() -> None:
        store = MemoryStore()
        await apply(store, spec("bookd", "alpha"))
        running = HostRecord(
            "beta", "", "", "", "boot", 1, instances=(status("bookd-beta-1", "bookd", "beta"),)
        )
        await store.put(KEYS.host("beta"), model.encode(running))
        await apply(store)
        tombstone = (await stored(store))["bookd"]
        assert isinstance(tombstone, Tombstone) and tombstone.hosts == ("alpha", "beta")

    asyncio.run(story())


def status(id: str, service: str, host: str) -> InstanceStatus:
    return InstanceStatus(
        id, service, service, host, 1, "running", None, "active", 0, "passing", "", True, 1, 0, (), "other",
        {}, "", 1,
    )  # fmt: skip


def test_the_last_host_that_confirms_ends_the_tombstone() -> None:
    async def story() -> None:
        store = MemoryStore()
        await apply(store, spec("bookd", "alpha", "beta"))
        await apply(store)
        for host, left in (("beta", ("alpha",)), ("beta", ("alpha",)), ("gamma", ("alpha",))):
            await specs_apply.confirm_stop(store, KEYS, "bookd", host)
            tombstone = (await stored(store))["bookd"]
            assert isinstance(tombstone, Tombstone) and tombstone.hosts == left
        await specs_apply.confirm_stop(store, KEYS, "bookd", "alpha")
        assert await stored(store) == {}
        await specs_apply.confirm_stop(store, KEYS, "bookd", "alpha")

    asyncio.run(story())


def test_hosts_that_confirm_at_the_same_time_lose_no_confirmation() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        await apply(store, spec("bookd", "alpha", "beta"))
        await apply(store)

        async def other() -> None:
            await specs_apply.confirm_stop(MemoryStore(server), KEYS, "bookd", "beta")

        await specs_apply.confirm_stop(Busy(server, 1, other), KEYS, "bookd", "alpha")
        assert await stored(store) == {}

    asyncio.run(story())


def test_an_apply_that_names_the_service_again_ends_the_tombstone_whoever_confirms_late() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        await apply(store, spec("bookd"))
        await apply(store)
        plan = await specs_apply.plan(store, KEYS, [spec("bookd", depth=5)])
        assert said(plan) == ["+ bookd"]

        async def named_again() -> None:
            await apply(store, plan=plan)

        await specs_apply.confirm_stop(Busy(server, 1, named_again), KEYS, "bookd", "alpha")
        assert await stored(store) == {"bookd": spec("bookd", depth=5)}

    asyncio.run(story())


def test_a_spec_that_does_not_decode_is_replaced_or_removed_and_said_to_be_what_it_is() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.put(KEYS.spec("bookd"), b"{")
        await store.put(KEYS.spec("riskd"), b"[]")
        plan = await specs_apply.plan(store, KEYS, [spec("bookd")])
        assert said(plan)[0].startswith('~ bookd.spec: "a record that does not decode')
        assert said(plan)[1:] == ["- riskd"]
        assert (await apply(store, plan=plan)).outcome == "succeeded"
        assert (await stored(store))["bookd"] == spec("bookd")
        await specs_apply.confirm_stop(store, KEYS, "riskd", "alpha")
        assert set(await stored(store)) == {"bookd"}, "nobody ran it: any host may end it"

    asyncio.run(story())


# --- a concurrent writer ------------------------------------------------------------------------------------


class Busy(MemoryStore):
    """Somebody else writes before the `step`th write of this client (in memory, a put is a transaction)."""

    def __init__(self, server: Memory, step: int, other: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(server)
        self.left, self.other = step, other

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        self.left -= 1
        if self.left == 0:
            await self.other()
        return await super().txn(compares, then)


BEGIN, WRITE, FINISH = 1, 2, 3
"""Which write of an apply."""


@pytest.mark.parametrize("step", [BEGIN, WRITE])
@pytest.mark.parametrize("service", ["bookd", "riskd", "omsd", "execd"])
def test_a_change_by_somebody_else_is_a_conflict_that_names_both_sides(step: int, service: str) -> None:
    """Changed (bookd), removed (riskd), added (omsd) or not in our plan (execd): nothing is written."""

    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        await apply(store, spec("bookd"), spec("riskd"), spec("execd"))
        wanted = [spec("bookd", depth=5), spec("omsd"), spec("execd")]
        plan = await specs_apply.plan(store, KEYS, wanted)
        theirs = spec(service, "beta")

        async def other() -> None:
            await store.put(KEYS.spec(service), model.encode(theirs))

        done = await apply(Busy(server, step, other), plan=plan)
        assert (done.outcome, done.applied, set(done.not_applied)) == (
            "refused", (), {"bookd", "omsd", "riskd"},
        )  # fmt: skip
        (conflict,) = done.conflicts
        assert conflict.service == service and f"a spec of {service} on beta" in conflict.found
        assert conflict.planned_on.startswith(
            {"omsd": "nothing", "execd": "its spec as wanted"}.get(service, f"a spec of {service} on alpha")
        )
        assert done.reason == str(conflict)
        assert await stored(store) == {
            name: spec(name) for name in ("bookd", "riskd", "execd")
        } | {service: theirs}  # fmt: skip
        assert done.operation is not None
        record = await operation_log.find(store, KEYS, done.operation)
        assert record is not None and record.state == "refused"

    asyncio.run(story())


def test_a_change_after_the_write_is_no_conflict_of_ours() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)

        async def other() -> None:
            await store.put(KEYS.spec("bookd"), model.encode(spec("bookd", "beta")))

        plan = await specs_apply.plan(store, KEYS, [spec("bookd")])
        assert (await apply(Busy(server, FINISH, other), plan=plan)).outcome == "succeeded"
        assert await stored(store) == {"bookd": spec("bookd", "beta")}

    asyncio.run(story())


def test_two_that_apply_the_same_both_succeed() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        plan = await specs_apply.plan(store, KEYS, [spec("bookd")])

        async def other() -> None:
            await apply(store, plan=plan)

        done = await apply(Busy(server, WRITE, other), plan=plan)
        assert done.outcome == "succeeded" and done.revisions["bookd"]

    asyncio.run(story())


def test_a_large_plan_goes_in_order_and_what_a_conflict_left_out_is_said() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        wanted = [spec(f"bookd-{n}") for n in range(OPERATIONS_MAX + 10)]
        plan = await specs_apply.plan(store, KEYS, wanted)
        theirs = spec("bookd-40", "beta")

        async def other() -> None:
            await store.put(KEYS.spec("bookd-40"), model.encode(theirs))

        done = await apply(Busy(server, WRITE, other), plan=plan)
        assert done.outcome == "failed" and len(done.applied) == OPERATIONS_MAX // 2
        assert done.applied + done.not_applied == tuple(each.name for each in wanted)
        assert [conflict.service for conflict in done.conflicts] == ["bookd-40"]
        assert set(await stored(store)) == {*done.applied, "bookd-40"}
        rest = await apply(store, *wanted)
        assert rest.outcome == "succeeded" and len(await stored(store)) == len(wanted)

    asyncio.run(story())


# --- a store that goes away ---------------------------------------------------------------------------------


def test_a_lost_answer_is_settled_by_reading() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        plan = await specs_apply.plan(store, KEYS, [spec("bookd")])
        busy: Busy

        async def lose() -> None:
            busy.lose_next_answer()

        busy = Busy(server, WRITE, lose)
        done = await apply(busy, plan=plan)
        assert done.outcome == "succeeded" and done.applied == ("bookd",)

    asyncio.run(story())


@pytest.mark.parametrize(("lost", "outcome"), [(1, "succeeded"), (2, "succeeded"), (3, "unknown")])
def test_a_write_that_was_lost_on_the_way_is_tried_again_and_unknown_in_the_end(
    lost: int, outcome: str
) -> None:
    class Swallows(MemoryStore):
        """So many transactions on specs neither arrive nor are refused."""

        left = lost

        async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
            if self.left and any(put.key.startswith(KEYS.specs) for put in then):
                self.left -= 1
                raise Unavailable("no answer", ambiguous=True)
            return await super().txn(compares, then)

    async def story() -> None:
        server = Memory()
        plan = await specs_apply.plan(MemoryStore(server), KEYS, [spec("bookd")])
        done = await apply(Swallows(server), plan=plan)
        assert done.outcome == outcome
        assert bool(await stored(MemoryStore(server))) == (outcome == "succeeded")

    asyncio.run(story())


def test_an_outcome_that_cannot_be_read_is_unknown_and_names_the_operation() -> None:
    class Gone(MemoryStore):
        async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
            if not any(put.key.startswith(KEYS.specs) for put in then):
                return await super().txn(compares, then)
            self.lose_next_answer()
            try:
                return await super().txn(compares, then)
            finally:
                self.cut()

    async def story() -> None:
        server = Memory()
        plan = await specs_apply.plan(MemoryStore(server), KEYS, [spec("bookd")])
        done = await apply(Gone(server), plan=plan)
        assert done.outcome == "unknown" and done.operation and done.not_applied == ("bookd",)

    asyncio.run(story())


def test_a_store_that_is_away_from_the_start_applies_nothing() -> None:
    async def story() -> None:
        server = Memory()
        store = MemoryStore(server)
        plan = await specs_apply.plan(store, KEYS, [spec("bookd")])
        store.cut()
        with pytest.raises(Unavailable):
            await apply(store, plan=plan)
        assert await stored(MemoryStore(server)) == {}

    asyncio.run(story())


def test_a_tombstone_is_the_same_after_the_store() -> None:
    tombstone = Tombstone("ann", "why", "2026-01-01T00:00:00.000Z", ("alpha",))
    assert records.decode_spec(model.encode(tombstone)) == tombstone
    assert records.decode_spec(model.encode(dataclasses.replace(tombstone, hosts=()))) != tombstone
