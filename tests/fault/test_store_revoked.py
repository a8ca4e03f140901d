"""An administrator revokes the leases, or destroys the sessions, of keepers that lead (row 18)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controlplane import model, store
from controlplane.leadership import budget
from controlplane.model.records import Registration
from tests.support import keepers
from tests.support.keepers import KEYS, Daemon
from tests.support.real_stores import RealStore

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]


async def test_a_lease_that_an_administrator_revokes_costs_no_lead_and_registrations_come_back_once(
    tmp_path: Path, real: RealStore
) -> None:
    """Leadership is a record and hangs on no lease: both words stay as they are throughout."""
    await real.wipe()
    async with keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor:
        first, second = await floor.pair()
        await _registered(floor.store, first, second)
        for _ in range(2):
            before = await asyncio.to_thread(real.leases)
            assert before
            for lease in before:
                await asyncio.to_thread(real.revoke, lease)
            assert not (await floor.store.range(KEYS.services)).entries, "they ended with their lease"
            await keepers.steady(first, second, seconds=1.0)
            await _registered(floor.store, first, second)
            assert not set(before) & set(await asyncio.to_thread(real.leases))
        await keepers.steady(first, second, seconds=1.0)
        leader = await floor.leader()
        assert leader is not None and leader.epoch == 1 and leader.holder == first.process


async def _registered(client: store.Store, *daemons: Daemon) -> None:
    """Each exactly once, as the process that it is."""
    found: list[Registration] = []

    async def look() -> None:
        entries = (await client.range(KEYS.services)).entries
        found[:] = [model.decode(Registration, entry.value) for entry in entries.values()]

    async with asyncio.timeout(20):
        while len(found) < len(daemons):
            await look()
            await asyncio.sleep(0.02)
    assert sorted(each.process.pid for each in found) == sorted(each.process.pid for each in daemons)
