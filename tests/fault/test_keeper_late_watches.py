"""Keepers whose watches lag behind the store: nothing that was read is taken back, no fence is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.keeper import member, protocol, shown
from controlplane import model
from controlplane.model import records
from controlplane.store import Put, Snapshot
from controlplane.store.memory import MemoryStore, MemoryWatch
from hftd.shm import fence_file
from tests.support import keepers
from tests.support.keepers import KEYS, SERVICE, Floor, run, until

LATE_S = 1.0


class Lagging(MemoryStore):
    """A store whose watch of one prefix shows nothing new until it may: a second late, or an hour."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self.flows = asyncio.Event()
        self.flows.set()

    def watch(self, prefix: str) -> MemoryWatch:
        watch = super().watch(prefix)
        if prefix != self.prefix:
            return watch
        shown = watch.__anext__

        async def late() -> Snapshot:
            snapshot = await shown()
            # A copy: the mapping that the watch's own snapshots share is not late.
            held = Snapshot(snapshot.revision, dict(snapshot.entries), snapshot.changed)
            await self.flows.wait()
            return held

        return Late(watch, late)


class Late(MemoryWatch):
    def __init__(self, watch: MemoryWatch, late: Callable[[], Awaitable[Snapshot]]) -> None:
        super().__init__(watch._latest, watch._memory, watch._store)
        self._late = late

    async def __anext__(self) -> Snapshot:
        return await self._late()


def test_while_the_watches_lag_behind_the_own_take_the_fences_are_read_from_the_store(
    tmp_path: Path,
) -> None:
    """R11: what was shown before the take does not count."""
    store = Lagging(KEYS.groups)

    async def case(floor: Floor) -> None:
        gateway, only = (
            floor.daemon("alpha", "execd", fences=(SERVICE,)),
            floor.daemon("alpha", fences=("execd",)),
        )
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((gateway.entry(),)))
        await until(gateway.leads, "execd is led")
        store.flows.clear()
        await floor.store.put(KEYS.epoch("execd"), model.encode(records.EpochRecord(keepers.INCARNATION, 7)))
        alpha.apply(protocol.Table((gateway.entry(), only.entry())))
        await until(only.leads, "omsd is led")
        found = msgspec.json.decode(fence_file.path_of(only.lease_path).read_bytes())
        assert found["execd"]["token"]["epoch"] == 7

    run(tmp_path, case, store)


async def new_gateway_behind_a_late_watch(floor: Floor) -> dict[str, Any]:
    """omsd takes over while its keeper knows by one watch who leads execd now, and by the other, which is a
    second late, not yet where that is reached. What the fence file says when the word is armed.
    """
    store = floor.store
    assert isinstance(store, Lagging)
    only, gateway = floor.daemon("alpha", fences=("execd",)), floor.daemon("beta", "execd")
    alpha = await floor.keeper("alpha")
    await until(lambda: alpha.shown.complete, "the store is seen")
    store.flows.clear()
    registration = gateway.entry().registration
    assert registration is not None
    await store.put(KEYS.registration("execd", gateway.instance), model.encode(registration))
    leader = records.LeaderRecord(gateway.process, keepers.INCARNATION, 3, gateway.instance, "n")
    epoch = records.EpochRecord(keepers.INCARNATION, 3)
    await store.txn(
        [],
        [
            Put(KEYS.leader("execd"), model.encode(leader)),
            Put(KEYS.epoch("execd"), model.encode(epoch)),
        ],
    )
    await until(lambda: KEYS.leader("execd") in alpha.shown.groups.entries, "the new execd is seen to lead")  # type: ignore[union-attr]
    key = KEYS.registration("execd", gateway.instance)
    assert key not in alpha.shown.registrations.entries, "and is not seen to be registered"  # type: ignore[union-attr]
    alpha.apply(protocol.Table((only.entry(),)))
    await until(only.leads, "omsd is led")
    await asyncio.sleep(LATE_S)
    assert only.leads()
    found: dict[str, Any] = msgspec.json.decode(fence_file.path_of(only.lease_path).read_bytes())
    assert key not in alpha.shown.registrations.entries  # type: ignore[union-attr]
    return found["execd"]


@pytest.mark.parametrize("one_revision", [True, False])
def test_a_new_execd_is_in_the_fence_file_though_the_watch_of_registrations_is_a_second_late(
    tmp_path: Path, one_revision: bool
) -> None:
    """R11: the fence file joins two watches, and counts only when both have come as far as the take; else
    the store is read. Where revisions cannot be compared, always.
    """
    store = Lagging(KEYS.services)
    store.one_revision = one_revision

    async def case(floor: Floor) -> None:
        found = await new_gateway_behind_a_late_watch(floor)
        assert found["token"]["epoch"] == 3
        assert found["endpoints"] == {"orders": "ipc://execd-beta-1"}

    run(tmp_path, case, store)


def test_without_the_rule_a_late_watch_of_registrations_hides_the_new_execd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: the watch of groups alone is asked how far it has come, and it has come far enough."""

    async def until_groups_have_come(self: member.Member, after: shown.AfterTake) -> None:
        await until(lambda: self._site.shown.groups.revision >= after.revision, "the take is seen")  # type: ignore[union-attr]

    monkeypatch.setattr(member.Member, "_fetch_missing", until_groups_have_come)

    async def case(floor: Floor) -> None:
        found = await new_gateway_behind_a_late_watch(floor)
        assert found["token"]["epoch"] == 3 and found["endpoints"] == {}

    run(tmp_path, case, Lagging(KEYS.services))


def test_a_watch_that_is_behind_what_was_read_does_not_take_it_back(tmp_path: Path) -> None:
    """R11: the fence file was made from a read; the late watch then shows what was before that read."""
    store = Lagging(KEYS.services)

    async def case(floor: Floor) -> None:
        found = await new_gateway_behind_a_late_watch(floor)
        only, gateway = floor.daemons
        path = fence_file.path_of(only.lease_path)
        floor.keepers["alpha"].members[only.instance].follow_fences()
        assert msgspec.json.decode(path.read_bytes())["execd"] == found
        store.flows.set()
        registration = gateway.entry().registration
        assert registration is not None
        other = replace(registration, endpoints={"orders": "ipc://moved"})
        await store.put(KEYS.registration("execd", gateway.instance), model.encode(other))
        await until(lambda: b"ipc://moved" in path.read_bytes(), "a later change is followed")

    run(tmp_path, case, store)


def test_a_resume_is_seen_though_no_group_has_changed_since_the_pause_was_read(tmp_path: Path) -> None:
    """A campaign that the late watch of the pause allowed is lost (R17), and the group read again: newer than
    the watch of groups, which then has nothing to show for as long as nobody leads.
    """
    store = Lagging(KEYS.pause)

    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        await until(lambda: alpha.shown.complete, "the store is seen")
        store.flows.clear()
        await store.put(KEYS.pause, b'{"by":"me","reason":"test","since":1}')
        alpha.apply(protocol.Table((only.entry(),)))
        member = alpha.members[only.instance]
        await until(lambda: member.group and member.group.paused, "the lost campaign has read the pause")
        store.flows.set()
        await until(lambda: KEYS.pause in alpha.shown.pause.entries, "the watch shows it, too")  # type: ignore[union-attr]
        assert await floor.leader() is None
        await store.delete(KEYS.pause)
        await until(only.leads, "alpha leads after the resume")

    run(tmp_path, case, store)
