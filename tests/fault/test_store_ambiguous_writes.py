"""A write of a keeper was applied, and its answer is lost on the way (row 19): on a real etcd and a real
Consul, with a proxy that lets the request through and swallows what the store says.

Safety first: never a second epoch for one take, never two words that lead; then that the lead is had, or
given back, in spite of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.keeper import protocol
from controlplane import model
from controlplane.leadership import budget
from controlplane.model import records
from tests.support import keepers
from tests.support.keepers import KEYS, SERVICE, Floor, until
from tests.support.real_stores import RealStore
from tests.support.store_proxy import StoreProxy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

TAKE = KEYS.epoch(SERVICE).encode()
"""Of what a lone leader writes, a take and a release name the epoch's key, and a renewal does not."""


async def epochs(floor: Floor) -> list[int]:
    """Of the group's history, and of its record: one row for each take that was applied."""
    rows = [
        model.decode(records.HistoryRow, entry.value).epoch
        for key, entry in (await floor.store.range(KEYS.history(SERVICE))).entries.items()
    ]
    leader = await floor.leader()
    assert leader is not None and leader.epoch == max(rows)
    return sorted(rows)


async def test_a_take_whose_answer_is_lost_is_one_epoch_and_leads_after_a_renewal(
    tmp_path: Path, real: RealStore
) -> None:
    await real.wipe()
    async with (
        StoreProxy(real.server.endpoint) as proxy,
        keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor,
    ):
        only = floor.daemon("alpha")
        through = real.connect(proxy.endpoint)
        alpha = await floor.keeper("alpha", through)
        proxy.swallow_the_answer_to(TAKE)
        alpha.apply(protocol.Table((only.entry(),)))
        await until(lambda: proxy.swallowed, "the take was sent")
        await until(only.leads, "it leads in spite of it")
        assert await epochs(floor) == [1] and only.lease().epoch == 1
        await keepers.steady(only)
        await floor.kill_keeper("alpha")
        await through.close()


async def test_a_hand_over_whose_answer_is_lost_names_one_successor_in_one_epoch(
    tmp_path: Path, real: RealStore
) -> None:
    await real.wipe()
    async with (
        StoreProxy(real.server.endpoint) as proxy,
        keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor,
    ):
        through = real.connect(proxy.endpoint)
        first, second = await floor.pair(through)
        proxy.swallow_the_answer_to(TAKE)
        first.kill()

        def succeeded() -> bool:
            assert not (first.leads() and second.leads())
            return second.leads()

        await until(succeeded, "beta leads")
        assert proxy.swallowed and not first.leads()
        await keepers.steady(second, first)
        assert await epochs(floor) == [1, 2] and second.lease().epoch == 2
        await floor.kill_keeper("alpha")
        await through.close()


async def test_a_release_whose_answer_is_lost_gives_the_lead_back_once(
    tmp_path: Path, real: RealStore
) -> None:
    await real.wipe()
    async with (
        StoreProxy(real.server.endpoint) as proxy,
        keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor,
    ):
        only = floor.daemon("alpha")
        through = real.connect(proxy.endpoint)
        alpha = await floor.keeper("alpha", through)
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "alpha leads")
        proxy.swallow_the_answer_to(TAKE)
        await alpha.stop()
        assert proxy.swallowed and not only.leads()
        leader = await floor.leader()
        assert leader is not None and leader.holder is None and leader.home == only.instance
        assert await epochs(floor) == [1]
        await floor.kill_keeper("alpha")

        # And whoever comes next takes it under the next epoch, once.
        again = await floor.keeper("alpha")
        again.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "it leads again")
        assert await epochs(floor) == [1, 2] and only.lease().epoch == 2
        await through.close()
