"""The transactions of leadership on every store: what a take has not seen must make it lose, also where it
saw that there was nothing (rules R5 and R8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from controlplane import model, store
from controlplane.leadership import group_records, transactions
from controlplane.leadership.group_view import Cause, Group
from controlplane.model import Process, records
from controlplane.store import Committed, Keys, Store

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

INCARNATION = 1_700_000_000_000
ME = Process("omsd-alpha-1", "boot", 10, 100)
OTHER = Process("omsd-beta-1", "boot", 11, 100)
LATER: dict[str, Callable[[Keys], tuple[str, object]]] = {
    "pause": lambda keys: (keys.pause, {"by": "ops", "reason": "look", "since": "now"}),
    "electable": lambda keys: (keys.electable("omsd"), records.ElectableRecord((OTHER,), 0)),
    "request": lambda keys: (
        keys.request("omsd"),
        records.RequestRecord("op1", "failover", None, 0, "pending", "ops", "why", 1),
    ),
    "epoch": lambda keys: (keys.epoch("omsd"), records.EpochRecord(INCARNATION, 7)),
    "leader": lambda keys: (
        keys.leader("omsd"),
        records.LeaderRecord(OTHER, INCARNATION, 1, OTHER.instance, "n", lease_ms=1500),
    ),
}


async def seen(client: Store, keys: Keys) -> Group:
    return await group_records.read(client, keys, "omsd", Group("omsd"))


async def take(client: Store, keys: Keys, group: Group) -> transactions.Done | transactions.Reread:
    return await transactions.take(client, keys, group, ME, "mine", Cause.FIRST, 1, 2, 1500)


@pytest.mark.parametrize("what", list(LATER))
async def test_a_take_that_saw_nothing_where_something_is_by_then_is_lost(
    what: str, one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = Keys(root.strip("/").partition("/")[2]), connect()
    assert isinstance(await other.put(keys.incarnation, str(INCARNATION).encode(), expect=0), Committed)
    before = await seen(one, keys)
    assert before.leader is None and before.electable is None and before.request is None and not before.paused
    key, record = LATER[what](keys)
    assert isinstance(await other.put(key, model.encode(record)), Committed)
    outcome = await take(one, keys, before)
    assert isinstance(outcome, transactions.Reread) and not outcome.mine
    now = await seen(one, keys)
    assert now.holder != ME and now.epoch_number == (7 if what == "epoch" else 0) and now.row is None


async def test_two_that_take_at_once_are_one_leader_with_one_epoch(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = Keys(root.strip("/").partition("/")[2]), connect()
    await one.put(keys.incarnation, str(INCARNATION).encode(), expect=0)
    views = await seen(one, keys), await seen(other, keys)
    first, second = await asyncio.gather(
        take(one, keys, views[0]),
        transactions.take(other, keys, views[1], OTHER, "theirs", Cause.FIRST, 1, 2, 1500),
    )
    assert {type(first), type(second)} == {transactions.Done, transactions.Reread}
    now = await seen(one, keys)
    assert now.epoch_number == 1 and now.holder == (ME if isinstance(first, transactions.Done) else OTHER)
    assert not any(isinstance(each, transactions.Reread) and each.mine for each in (first, second))


async def test_what_a_renewal_did_not_see_does_not_stop_it_and_another_leader_does(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = Keys(root.strip("/").partition("/")[2]), connect()
    await one.put(keys.incarnation, str(INCARNATION).encode(), expect=0)
    led = await take(one, keys, await seen(one, keys))
    assert isinstance(led, transactions.Done)
    for what in ("pause", "request"):
        key, record = LATER[what](keys)
        await other.put(key, model.encode(record))
    renewed = await transactions.renew(one, keys, led.group, "again", 1500)
    assert isinstance(renewed, transactions.Done)
    assert isinstance(await transactions.renew(one, keys, led.group, "late", 1500), transactions.Reread)
    assert isinstance(await other.delete(keys.leader("omsd")), store.Committed)
    lost = await transactions.renew(one, keys, renewed.group, "gone", 1500)
    assert isinstance(lost, transactions.Reread) and not lost.mine and lost.group.leader is None
