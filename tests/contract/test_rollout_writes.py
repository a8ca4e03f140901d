"""The writes of a rollout of configuration on every store: of two at once one stands, whoever makes them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from controlplane import model
from controlplane.config import revisions, staged
from controlplane.config.rollout import KIND
from controlplane.model import records
from controlplane.model.config import RolloutRecord
from controlplane.operations import log as operation_log
from controlplane.store import Compare, Keys, Put, Store
from tests.support import configured

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
ROUNDS = 12


def keys_of(root: str) -> Keys:
    return Keys(root.strip("/").partition("/")[2])


def new(operation: str) -> revisions.New:
    return revisions.New({"burst": 900}, "set", "ann", "why", 1, operation)


def rollout(operation: str) -> RolloutRecord:
    return RolloutRecord("riskd", 1, 1, operation, "ann", "why", 0, ("riskd-beta-1",))


async def begun(client: Store, keys: Keys, operation: str) -> tuple[RolloutRecord, int]:
    """A rollout that is under way, and its operation."""
    stands = await revisions.read(client, keys, "riskd")
    record = records.OperationRecord(operation, KIND, "riskd", "running", "ann", "why", 0)
    await operation_log.begin(client, keys, record)
    written = await revisions.stage(client, keys, stands, new(operation), rollout(operation))
    assert isinstance(written, revisions.Written)
    found = await staged.find(client, keys, "riskd")
    assert found is not None and found[0] == written.rollout
    return found


async def closing(client: Store, keys: Keys, operation: str) -> tuple[Compare, Put]:
    entry = await client.get(keys.operation(operation))
    assert entry is not None
    record = model.decode(records.OperationRecord, entry.value)
    closed = dataclasses.replace(record, state="succeeded", finished_ns=9)
    return Compare(entry.key, entry.revision), Put(entry.key, model.encode(closed))


async def test_of_two_rollouts_that_begin_at_once_the_second_is_told_of_the_first(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = keys_of(root), connect()
    await configured.put_spec(one, keys)
    for round in range(ROUNDS):
        stands = await revisions.read(one, keys, "riskd")
        first, second = await asyncio.gather(
            *(
                revisions.stage(client, keys, stands, new(f"{name}-{round}"), rollout(f"{name}-{round}"))
                for name, client in (("one", one), ("other", other))
            )
        )
        won, lost = (first, second) if isinstance(first, revisions.Written) else (second, first)
        assert isinstance(won, revisions.Written) and isinstance(lost, revisions.Conflict)
        assert lost.rollout == won.rollout and won.rollout is not None
        now = await revisions.read(one, keys, "riskd")
        assert now.revision == won.base and now.config.rollout == won.rollout
        found = await staged.find(one, keys, "riskd")
        assert found is not None and await staged.revert(one, keys, *found)


async def test_of_a_promotion_and_an_operator_who_takes_it_back_one_stands_whole(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = keys_of(root), connect()
    await configured.put_spec(one, keys)
    for round in range(ROUNDS):
        record, at = await begun(one, keys, f"op-{round}")
        also = await closing(one, keys, record.operation)
        promoted, back = await asyncio.gather(
            staged.promote(one, keys, record, at, also),
            staged.abort(other, keys, "riskd", "why", "bob"),
            return_exceptions=True,
        )
        now = await revisions.read(one, keys, "riskd")
        operation = await operation_log.find(one, keys, record.operation)
        assert operation is not None
        if promoted is True:
            assert isinstance(back, Exception), "there was nothing left to take back"
            assert (now.revision, now.config.rollout, operation.state) == (record.revision, None, "succeeded")
        else:
            assert promoted is False and isinstance(back, RolloutRecord) and back.stage == "revert"
            assert (now.revision, now.config.rollout, operation.state) == (record.base, back, "running")
            found = await staged.find(one, keys, "riskd")
            assert found is not None and await staged.revert(one, keys, *found)


async def test_two_controllers_that_promote_at_once_promote_once(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = keys_of(root), connect()
    await configured.put_spec(one, keys)
    for round in range(ROUNDS):
        record, at = await begun(one, keys, f"op-{round}")
        also = await closing(one, keys, record.operation)
        await asyncio.gather(*(staged.promote(each, keys, record, at, also) for each in (one, other)))
        now = await revisions.read(one, keys, "riskd")
        operation = await operation_log.find(one, keys, record.operation)
        assert (now.revision, now.config.rollout) == (record.revision, None)
        assert operation is not None and operation.state == "succeeded"


async def test_of_two_controllers_that_go_on_at_once_one_writes(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = keys_of(root), connect()
    await configured.put_spec(one, keys)
    record, at = await begun(one, keys, "op")
    for _ in range(ROUNDS):
        rest = dataclasses.replace(record, stage="rest")
        back = dataclasses.replace(record, stage="revert", why="it crashed")
        written = await asyncio.gather(
            staged.extend(one, keys, rest, at), staged.extend(other, keys, back, at)
        )
        assert [each is None for each in written].count(True) == 1
        found = await staged.find(one, keys, "riskd")
        assert found is not None and found[0] == (rest if written[0] is not None else back)
        again = await staged.extend(one, keys, record, found[1])
        assert again is not None
        at = again


async def test_a_promotion_of_a_service_that_is_removed_meanwhile_brings_nothing_back(
    one: Store, connect: Callable[[], Store], root: str
) -> None:
    keys, other = keys_of(root), connect()
    await configured.put_spec(one, keys)
    record, at = await begun(one, keys, "op")
    also = await closing(one, keys, "op")
    for key in (keys.config_current("riskd"), keys.config_rollout("riskd")):
        await other.delete(key)
    with pytest.raises(revisions.Refused, match="found nothing as the wanted one"):
        await staged.promote(one, keys, record, at, also)
    operation = await operation_log.find(one, keys, "op")
    assert operation is not None and operation.state == "running"
    assert await one.get(keys.config_current("riskd")) is None


async def test_a_promotion_whose_operation_was_ended_meanwhile_is_decided_anew(one: Store, root: str) -> None:
    keys = keys_of(root)
    await configured.put_spec(one, keys)
    record, at = await begun(one, keys, "op")
    also = await closing(one, keys, "op")
    await operation_log.finish(one, keys, "op", "failed", 3, outcome="so")
    assert not await staged.promote(one, keys, record, at, also)
    now = await revisions.read(one, keys, "riskd")
    assert (now.revision, now.config.rollout) == (record.base, record)
