"""Configuration in each store: revisions, rollouts' writes, plain keys and TTLs; races, and answers that are
lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from controlplane import store
from controlplane.config import plain, revisions, staged
from controlplane.config.revisions import Conflict, New, Standing, Written
from controlplane.errors import InvalidInput, Refused, TooLarge, Unavailable
from controlplane.model.config import PlainKey, RolloutRecord
from controlplane.store import Compare, Delete, Keys, Lost, Put
from controlplane.store.memory import MemoryStore
from tests.support import configured
from tests.support.configured import asked
from tests.support.store_proxy import StoreProxy

pytestmark = pytest.mark.anyio
EXPIRY_S = 45.0
"""Consul's least TTL is 10 s, and a session may live for twice its TTL."""


@pytest.fixture
def keys(root: str) -> Keys:
    return Keys(root.split("/")[1])


async def stands(client: store.Store, keys: Keys) -> Standing:
    return await revisions.read(client, keys, "riskd")


def new(found: Standing, **settings: Any) -> New:
    document = {**(found.document or {}), **settings}
    return New(document, "set", "ann", "why", time.time_ns(), "config-set-1")


def rollout(**given: Any) -> RolloutRecord:
    record = {"service": "", "revision": 1, "base": 1, "operation": "op-1", "actor": "ann", "reason": "why"}
    return RolloutRecord(**{**record, "began_ns": 1, "instances": ("riskd-beta-1",), **given})


# --- revisions ----------------------------------------------------------------------------------------------


async def test_a_revision_is_written_beside_the_first_and_a_stale_one_is_a_conflict_with_both_sides(
    one: store.Store, keys: Keys
) -> None:
    await configured.put_spec(one, keys)
    before = await stands(one, keys)
    done = await revisions.write(one, keys, before, new(before, burst=900))
    assert done == Written(2, 1)
    late = await revisions.write(one, keys, before, new(before, burst=950, max_position="5"))
    assert isinstance(late, Conflict)
    assert (late.planned_on, [row.revision for row in late.theirs], late.both) == (1, [2], ("burst",))
    now = await stands(one, keys)
    assert now.revision == 2 and sorted(now.config.revisions) == [1, 2]
    again = await revisions.write(one, keys, now, new(now, max_position="5"))
    assert again == Written(3, 2)
    view = await configured.view(one, keys)
    assert view.configs["riskd"] == (await stands(one, keys)).config and not view.undecodable


async def test_a_changed_spec_makes_a_change_that_was_checked_against_the_old_one_a_conflict(
    one: store.Store, keys: Keys
) -> None:
    await configured.put_spec(one, keys)
    before = await stands(one, keys)
    await configured.put_spec(one, keys, max_position="7")
    late = await revisions.write(one, keys, before, new(before, burst=900))
    assert isinstance(late, Conflict) and "its spec changed" in str(late)
    assert (await one.range(keys.config)).entries == {}


async def test_two_writers_that_race_lose_no_change_and_use_each_number_once(
    connect: Callable[[], store.Store], keys: Keys
) -> None:
    """50 changes of settings of their own, and of one that both change with the base that each saw."""
    first, second = connect(), connect()
    await configured.put_spec(first, keys)
    changes = [await configured.change(each, keys) for each in (first, second)]
    shared: list[str] = []

    async def write(number: int) -> list[int]:
        found = []
        for n in range(25):
            path = ("messages_per_s", "burst")[number]
            done = await changes[number].run(asked(set={path: 100 + n if number == 0 else 500 + n}))
            found.append(done["to"])
        return found

    async def write_same(number: int) -> None:
        for n in range(8):
            base = (await stands(first, keys)).revision
            value = f"{number + 1}{n}"
            try:
                await changes[number].run(asked(set={"max_position": value}, base=base))
                shared.append(value)
            except Refused as exc:
                assert "max_position" in str(exc) and "stands since" in str(exc)

    ones, others = await asyncio.gather(write(0), write(1))
    assert sorted(ones + others) == list(range(2, 52)), "each revision once"
    now = await stands(first, keys)
    assert now.document is not None
    assert (now.document["messages_per_s"], now.document["burst"]) == (124, 524)
    await asyncio.gather(write_same(0), write_same(1))
    now = await stands(first, keys)
    assert now.revision == 51 + len(shared) and len(shared) >= 8
    rows = [now.config.revisions[number].document["max_position"] for number in range(52, now.revision + 1)]
    assert sorted(rows) == sorted(shared), "what succeeded is there, and what was refused is not"


async def test_a_hundred_revisions_are_kept_and_what_is_wanted_is_among_them(
    one: store.Store, keys: Keys
) -> None:
    await configured.put_spec(one, keys)
    for n in range(105):
        before = await stands(one, keys)
        assert isinstance(await revisions.write(one, keys, before, new(before, burst=500 + n)), Written)
    now = await stands(one, keys)
    assert sorted(now.config.revisions) == list(range(7, 107)) and now.revision == 106


async def test_a_document_of_a_megabyte_is_refused_before_anything_is_sent(
    one: store.Store, keys: Keys
) -> None:
    await configured.put_spec(one, keys)
    change = await configured.change(one, keys)
    with pytest.raises(TooLarge, match="wanted at most 65536"):
        await change.run(asked(set={"markets": ["x" * 1000] * 1000}))
    assert len((await one.range(keys.root)).entries) == 1


# --- rollouts' writes ---------------------------------------------------------------------------------------


async def test_a_rollout_is_staged_once_extended_and_promoted(one: store.Store, keys: Keys) -> None:
    await configured.put_spec(one, keys)
    before = await stands(one, keys)
    done = await revisions.stage(one, keys, before, new(before, burst=900), rollout())
    assert isinstance(done, Written) and done.rollout is not None
    assert (done.revision, done.rollout.service, done.rollout.revision, done.rollout.base) == (
        2,
        "riskd",
        2,
        1,
    )
    second = await revisions.stage(one, keys, before, new(before, burst=950), rollout(operation="op-2"))
    assert isinstance(second, Conflict) and "operation op-1" in str(second)
    now = await stands(one, keys)
    assert isinstance(await revisions.write(one, keys, before, new(before, burst=1000)), Conflict)
    found = await staged.find(one, keys, "riskd")
    assert found is not None and found[0] == done.rollout and now.revision == 1
    record, at = found
    wider = rollout(service="riskd", revision=2, base=1, stage="rest")
    moved = await staged.extend(one, keys, wider, at)
    assert moved is not None and await staged.extend(one, keys, record, at) is None
    assert not await staged.promote(one, keys, wider, at), "another has changed it"
    assert await staged.promote(one, keys, wider, moved)
    assert await staged.promote(one, keys, wider, moved), "it is done"
    now = await stands(one, keys)
    assert (now.revision, now.config.rollout) == (2, None)
    assert not await staged.extend(one, keys, wider, moved), "it is over"


async def test_a_rollout_is_reverted_and_its_number_is_not_used_again(one: store.Store, keys: Keys) -> None:
    await configured.put_spec(one, keys)
    before = await stands(one, keys)
    await revisions.stage(one, keys, before, new(before, burst=900), rollout())
    found = await staged.find(one, keys, "riskd")
    assert found is not None
    moved = await staged.extend(one, keys, rollout(service="riskd", revision=2, why="bad"), found[1])
    assert moved is not None
    assert not await staged.revert(one, keys, *found), "another has changed it"
    assert await staged.revert(one, keys, found[0], moved)
    assert await staged.revert(one, keys, found[0], moved), "it is done"
    now = await stands(one, keys)
    assert (now.revision, now.config.rollout, now.newest) == (1, None, 2)
    assert await revisions.write(one, keys, now, new(now, burst=950)) == Written(3, 1)


async def test_two_that_stage_at_once_are_one_rollout(connect: Callable[[], store.Store], keys: Keys) -> None:
    clients = [connect(), connect()]
    await configured.put_spec(clients[0], keys)

    async def stage(number: int) -> Written | Conflict:
        before = await stands(clients[number], keys)
        return await revisions.stage(
            clients[number], keys, before, new(before, burst=900 + number), rollout(operation=f"op-{number}")
        )

    done = await asyncio.gather(stage(0), stage(1))
    [won] = [each for each in done if isinstance(each, Written)]
    [lost] = [each for each in done if isinstance(each, Conflict)]
    assert won.rollout is not None and won.rollout.operation in str(lost)
    assert not isinstance(done[0], Lost)


# --- answers that are lost, a store that goes away ----------------------------------------------------------


class LosesAnswers(MemoryStore):
    """The answer to the next write that names the key is lost."""

    needle = b""

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Any:
        done = await super().txn(compares, then)
        if self.needle and any(self.needle == each.key.encode() for each in then):
            self.needle = b""
            raise Unavailable("no answer", ambiguous=True)
        return done


Losing = tuple[store.Store, Callable[[str], None]]


@pytest.fixture
async def losing(where: str) -> AsyncIterator[Losing]:
    """A client, and what makes the store's answer to a write of a key go lost."""
    if where.startswith("memory"):
        client = store.connect(where)
        assert isinstance(client, MemoryStore)
        loses = LosesAnswers(client.memory)

        def lose(key: str) -> None:
            loses.needle = key.encode()

        yield loses, lose
        assert not loses.needle
        return
    kind, _, target = where.partition("://")
    async with StoreProxy(target) as proxy:
        through = store.connect(f"{kind}://{proxy.endpoint}")
        try:
            asked_for: list[str] = []

            def swallow(needle: str) -> None:
                asked_for.append(needle)
                proxy.swallow_the_answer_to(needle.encode())

            yield through, swallow
            assert proxy.swallowed == len(asked_for), "a test of lost answers has lost each"
        finally:
            await through.close()


async def test_a_write_whose_answer_is_lost_is_one_revision(losing: Losing, keys: Keys) -> None:
    client, lose = losing
    await configured.put_spec(client, keys)
    before = await stands(client, keys)
    lose(keys.config_revision("riskd", 2))
    assert await revisions.write(client, keys, before, new(before, burst=900)) == Written(2, 1)
    now = await stands(client, keys)
    assert (now.revision, now.newest) == (2, 2)
    lose(keys.config_revision("riskd", 3))
    staged = await revisions.stage(client, keys, now, new(now, burst=950), rollout())
    assert isinstance(staged, Written) and staged.revision == 3


async def test_a_promotion_and_a_key_whose_answers_are_lost_are_done_once(losing: Losing, keys: Keys) -> None:
    client, lose = losing
    await configured.put_spec(client, keys)
    before = await stands(client, keys)
    await revisions.stage(client, keys, before, new(before, burst=900), rollout())
    found = await staged.find(client, keys, "riskd")
    assert found is not None
    record, at = found
    # The proxy looks back by 256 bytes, and the key was just asked for.
    await client.put(keys.plain_key("between"), b"x" * 300)
    lose(keys.config_rollout("riskd"))
    assert await staged.promote(client, keys, record, at)
    assert (await stands(client, keys)).revision == 2
    # Not the read before it: what stands in the write alone. Consul has values in base64.
    key = keys.plain_key("max_position")
    await client.put(keys.plain_key("between"), b"x" * 300)
    lose({"memory": key, "consul": f'"{key}"', "etcd": '"value":41'}[client.kind])
    await plain.put(client, keys, "max_position", plain.made("max_position", 41, set_ns=1))
    found_key = await plain.get(client, keys, "max_position")
    assert found_key is not None and found_key.value == 41


async def test_a_store_that_goes_away_between_check_and_write_leaves_what_was(
    connect: Callable[[], store.Store], where: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    await configured.put_spec(client, keys)
    if where.startswith("memory"):
        before = await stands(client, keys)

        async def away(*given: Any) -> Any:
            raise Unavailable("no answer")

        monkeypatch.setattr(client, "txn", away)
        with pytest.raises(Unavailable):
            await revisions.write(client, keys, before, new(before, burst=900))
        assert (await stands(client, keys)).revision == 1
        return
    kind, _, target = where.partition("://")
    async with StoreProxy(target) as proxy:
        through = store.connect(f"{kind}://{proxy.endpoint}")
        before = await stands(through, keys)
        proxy.silent = True
        with pytest.raises(Unavailable):
            await revisions.write(through, keys, before, new(before, burst=900))
        proxy.heal()
        await through.close()
    now = await stands(client, keys)
    assert now.revision in (1, 2) and now.revision == max(now.newest, 1), "whole, or not at all"


# --- plain keys ---------------------------------------------------------------------------------------------


async def test_a_plain_key_is_put_read_replaced_and_deleted(one: store.Store, keys: Keys) -> None:
    assert await plain.get(one, keys, "flag") is None
    assert await plain.put(one, keys, "flag", plain.made("flag", True, actor="ann", set_ns=5)) is None
    assert await plain.get(one, keys, "flag") == PlainKey(True, "bool", "ann", "", 5, None)
    old = await plain.put(one, keys, "flag", plain.made("flag", {"a": [1]}))
    assert old is not None and old.value is True
    found = await plain.get(one, keys, "flag")
    assert found is not None and (found.value, found.type) == ({"a": [1]}, "json")
    assert (await plain.delete(one, keys, "flag")) == found
    assert await plain.delete(one, keys, "flag") is None and await plain.get(one, keys, "flag") is None


@pytest.mark.parametrize("key", ["a/b", "a\nb", "../up", ".dot", ""])
async def test_a_key_that_is_no_name_reaches_no_store(one: store.Store, keys: Keys, key: str) -> None:
    for act in (plain.get(one, keys, key), plain.delete(one, keys, key)):
        with pytest.raises(InvalidInput, match="wanted 1 to 128 letters"):
            await act
    with pytest.raises(InvalidInput, match="wanted 1 to 128 letters"):
        await plain.put(one, keys, key, PlainKey(1, "int"))
    assert (await one.range(keys.root)).entries == {}


async def test_the_number_of_keys_is_bounded(one: store.Store, keys: Keys) -> None:
    known = [f"key-{number}" for number in range(plain.KEYS_MAX)]
    with pytest.raises(TooLarge, match="found 200 plain keys, wanted at most 200"):
        await plain.put(one, keys, "more", plain.made("more", 1), known)
    await plain.put(one, keys, "key-7", plain.made("key-7", 1), known)


async def test_writers_of_one_key_at_once_leave_one_of_their_values(
    connect: Callable[[], store.Store], keys: Keys
) -> None:
    clients = [connect() for _ in range(3)]

    async def write(number: int) -> None:
        for n in range(10):
            await plain.put(clients[number], keys, "x", plain.made("x", number * 100 + n))

    await asyncio.gather(*map(write, range(3)))
    found = await plain.get(clients[0], keys, "x")
    assert found is not None and found.value in (9, 109, 209)


async def test_a_key_with_a_ttl_goes_by_itself_unless_it_is_put_again_without(
    one: store.Store, keys: Keys
) -> None:
    short = PlainKey("soon", "string", ttl_s=1.0)
    await plain.put(one, keys, "gone", short)
    await plain.put(one, keys, "stays", short)
    await plain.put(one, keys, "stays", plain.made("stays", "for good"))
    entry = await one.get(keys.plain_key("gone"))
    assert entry is not None and (await one.range(keys.config)).entries[entry.key].leased
    end_s = time.monotonic() + EXPIRY_S
    while await plain.get(one, keys, "gone") is not None:
        assert time.monotonic() < end_s, "the store deletes it"
        await asyncio.sleep(0.1)
    found = await plain.get(one, keys, "stays")
    assert found is not None and found.value == "for good"
