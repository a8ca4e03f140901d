"""The transactions of leadership on the in-memory store: what each compares, what it writes, and what a lost
answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from controlplane import model
from controlplane.errors import Unavailable
from controlplane.leadership import group_records, transactions
from controlplane.leadership.group_view import Cause, Group
from controlplane.leadership.transactions import Done, Reread
from controlplane.model import Process, records
from controlplane.store import Keys
from controlplane.store.memory import MemoryStore

LEASE_MS = 1_500
KEYS = Keys("test")
ALPHA = Process("omsd-alpha-1", "boot", 10, 100)
BETA = Process("omsd-beta-1", "boot", 20, 100)
REQUEST = records.RequestRecord("op-1", "failover", None, 1, "pending", "ops", "drill", 77)
Case = Callable[[MemoryStore], Awaitable[None]]


def run(case: Case) -> None:
    async def with_store() -> None:
        store = MemoryStore()
        await store.put(KEYS.incarnation, b"1000")
        await case(store)

    asyncio.run(with_store())


async def read(store: MemoryStore) -> Group:
    return await group_records.read(store, KEYS, "omsd")


async def take(
    store: MemoryStore, group: Group, to: Process, nonce: str = "t", cause: Cause = Cause.FIRST
) -> Done | Reread:
    return await transactions.take(store, KEYS, group, to, nonce, cause, 5, 6, LEASE_MS)


async def led(store: MemoryStore) -> Group:
    outcome = await take(store, await read(store), ALPHA)
    assert isinstance(outcome, Done)
    return outcome.group


async def ask(store: MemoryStore, request: records.RequestRecord = REQUEST) -> None:
    await store.put(KEYS.request("omsd"), model.encode(request))


def test_a_take_raises_the_epoch_names_the_holder_and_writes_the_row() -> None:
    async def case(store: MemoryStore) -> None:
        await led(store)
        group = await read(store)
        assert group.leader and (group.leader.holder, group.leader.epoch, group.leader.home) == (
            ALPHA,
            1,
            ALPHA.instance,
        )
        assert group.epoch and (group.epoch.incarnation, group.epoch.epoch) == (1000, 1)
        assert group.row and (
            group.row.cause,
            group.row.to_instance,
            group.row.started_ns,
            group.row.taken_ns,
        ) == ("first", ALPHA.instance, 5, 6)

    run(case)


def test_what_a_write_returns_is_what_a_read_finds() -> None:
    """The next compare is made from it, without a read in between."""

    async def case(store: MemoryStore) -> None:
        group = await led(store)
        assert group == await read(store)
        for outcome in [
            await transactions.write_electable(store, KEYS, group, [BETA], "e", LEASE_MS),
            await transactions.renew(store, KEYS, await read(store), "r", LEASE_MS),
            await transactions.record_active(store, KEYS, await read(store), 9),
            await take(store, await read(store), BETA, "b", Cause.PROCESS_LOST),
        ]:
            assert isinstance(outcome, Done)
        assert outcome.group == await read(store)

    run(case)


@pytest.mark.parametrize("key", ["leader", "epoch", "electable", "request", "pause", "incarnation"])
@pytest.mark.parametrize("naming", [True, False])
def test_a_take_or_release_misses_no_change(key: str, naming: bool) -> None:
    """R5, R8: every record that is compared, changed behind its back."""

    async def case(store: MemoryStore) -> None:
        group = await led(store)
        name = {"pause": KEYS.pause, "incarnation": KEYS.incarnation}.get(key) or f"{KEYS.group('omsd')}{key}"
        entry = await store.get(name)
        value = {
            "electable": b'{"processes":[],"writer_epoch":1}',
            "request": model.encode(replace(REQUEST, state="cancelled")),
        }.get(key, b"{}")
        await store.put(name, entry.value if entry else value)
        if naming:
            outcome = await take(store, group, BETA, "b", Cause.PROCESS_LOST)
        else:
            outcome = await transactions.release(store, KEYS, group, "b", Cause.PROCESS_LOST, 5)
        assert isinstance(outcome, Reread) and not outcome.mine
        now = await read(store)
        assert now.epoch_number == 1 and now.holder == ALPHA

    run(case)


def test_of_two_that_race_exactly_one_wins() -> None:
    async def case(store: MemoryStore) -> None:
        group = await read(store)
        outcomes = await asyncio.gather(
            take(store, group, ALPHA, "a"), take(store.client(), group, BETA, "b")
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Done", "Reread"]
        now = await read(store)
        assert now.epoch_number == 1
        assert next(outcome for outcome in outcomes if isinstance(outcome, Reread)).group == now

    run(case)


def test_a_renewal_keeps_everything_but_the_nonce() -> None:
    async def case(store: MemoryStore) -> None:
        group = await led(store)
        outcome = await transactions.renew(store, KEYS, group, "r", LEASE_MS)
        assert isinstance(outcome, Done) and group.leader
        assert outcome.group.leader == replace(group.leader, nonce="r")
        assert (
            outcome.group.leader_revision > group.leader_revision
            and outcome.group.epoch_revision == group.epoch_revision
        )

    run(case)


def test_a_renewal_after_a_take_by_another_is_refused() -> None:
    async def case(store: MemoryStore) -> None:
        group = await led(store)
        await take(store, group, BETA, "b", Cause.PROCESS_LOST)
        outcome = await transactions.renew(store, KEYS, group, "r", LEASE_MS)
        assert isinstance(outcome, Reread) and outcome.group.holder == BETA and not outcome.mine

    run(case)


def test_a_lost_answer_of_a_take_is_recognised_by_its_nonce() -> None:
    async def case(store: MemoryStore) -> None:
        group = await read(store)
        store.lose_next_answer()
        outcome = await take(store, group, ALPHA, "mine")
        assert isinstance(outcome, Reread) and outcome.mine and outcome.group.holder == ALPHA
        assert (await read(store)).epoch_number == 1  # and it was not sent twice

    run(case)


def test_an_unreachable_store_is_an_error_not_an_outcome() -> None:
    async def case(store: MemoryStore) -> None:
        group = await read(store)
        store.cut()
        with pytest.raises(Unavailable):
            await take(store, group, ALPHA)

    run(case)


def test_electable_rewrites_the_leader_record() -> None:
    """Else one whose lease timer is over would campaign the moment it is added."""

    async def case(store: MemoryStore) -> None:
        group = await led(store)
        outcome = await transactions.write_electable(store, KEYS, group, [BETA], "e", LEASE_MS)
        assert isinstance(outcome, Done) and outcome.group.leader
        assert (
            outcome.group.leader.nonce == "e"
            and outcome.group.leader_revision == outcome.group.electable_revision
        )
        stale = await transactions.write_electable(store, KEYS, group, [], "late", LEASE_MS)
        assert isinstance(stale, Reread) and stale.group.candidates == (BETA,)

    run(case)


@pytest.mark.parametrize(
    ("to", "state"), [(None, "succeeded"), (BETA.instance, "succeeded"), ("omsd-gamma-1", "failed")]
)
def test_a_take_settles_the_request_in_its_own_transaction(to: str | None, state: str) -> None:
    """R15."""

    async def case(store: MemoryStore) -> None:
        await led(store)
        await ask(store, replace(REQUEST, to=to))
        outcome = await take(store, await read(store), BETA, "b", Cause.FAILOVER)
        assert isinstance(outcome, Done) and outcome.group.request and outcome.group.row
        assert outcome.group.request.state == state
        assert outcome.group.request_revision == outcome.group.leader_revision  # one transaction
        row = outcome.group.row
        assert (row.actor, row.reason, row.operation, row.started_ns, row.from_instance) == (
            "ops",
            "drill",
            "op-1",
            77,
            ALPHA.instance,
        )

    run(case)


def test_a_cancelled_request_stops_the_take_that_was_decided_on_it() -> None:
    async def case(store: MemoryStore) -> None:
        await led(store)
        await ask(store)
        group = await read(store)
        await ask(store, replace(REQUEST, state="cancelled"))
        outcome = await take(store, group, BETA, "b", Cause.FAILOVER)
        assert isinstance(outcome, Reread) and outcome.group.pending is None and outcome.group.holder == ALPHA

    run(case)


def test_a_refused_request_leaves_the_leader_and_says_why() -> None:
    async def case(store: MemoryStore) -> None:
        await led(store)
        await ask(store)
        outcome = await transactions.settle(store, KEYS, await read(store), "refused", "nobody is electable")
        assert isinstance(outcome, Done) and outcome.group.request
        assert (outcome.group.request.state, outcome.group.request.outcome) == (
            "refused",
            "nobody is electable",
        )
        assert outcome.group.holder == ALPHA

    run(case)


def test_naming_nobody_keeps_home_and_epoch_and_the_next_taker_completes_the_row() -> None:
    async def case(store: MemoryStore) -> None:
        outcome = await transactions.release(store, KEYS, await led(store), "r", Cause.PROCESS_LOST, 42)
        assert isinstance(outcome, Done) and outcome.group.leader
        assert (outcome.group.leader.holder, outcome.group.leader.home, outcome.group.epoch_number) == (
            None,
            ALPHA.instance,
            1,
        )
        outcome = await take(store, await read(store), BETA, "b", Cause.RELEASED)
        assert isinstance(outcome, Done) and outcome.group.row
        row = outcome.group.row
        assert (row.epoch, row.cause, row.from_instance, row.to_instance, row.started_ns, row.taken_ns) == (
            2, "process_lost", ALPHA.instance, BETA.instance, 42, 6,
        )  # fmt: skip

    run(case)


def test_a_release_for_a_stop_begins_no_row() -> None:
    async def case(store: MemoryStore) -> None:
        outcome = await transactions.release(store, KEYS, await led(store), "r", Cause.RELEASED, 42)
        assert isinstance(outcome, Done)
        assert (await store.get(KEYS.history_row("omsd", 2))) is None

    run(case)


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "HISTORY_MAX", 3)

    async def case(store: MemoryStore) -> None:
        for n in range(6):
            await take(store, await read(store), BETA if n % 2 else ALPHA, str(n), Cause.PROCESS_LOST)
        rows = (await store.range(KEYS.history("omsd"))).entries
        assert sorted(rows) == [KEYS.history_row("omsd", epoch) for epoch in (4, 5, 6)]

    run(case)


def test_a_raised_incarnation_is_in_the_next_token_and_epochs_go_on() -> None:
    async def case(store: MemoryStore) -> None:
        await led(store)
        await store.put(KEYS.incarnation, b"2000")
        outcome = await take(store, await read(store), BETA, "b", Cause.PROCESS_LOST)
        assert isinstance(outcome, Done) and outcome.group.epoch and outcome.group.leader
        assert (
            outcome.group.epoch.incarnation,
            outcome.group.epoch.epoch,
            outcome.group.leader.incarnation,
        ) == (2000, 2, 2000)

    run(case)
