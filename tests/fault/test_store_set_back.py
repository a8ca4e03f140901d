"""A store that is set back to an older state under keepers that lead: `consul snapshot restore`, which brings
every key back as it was, or an older copy of etcd's data folder.

The guard that is left is the keepers' own disk: nobody leads under a token below the highest that it has
seen.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from controlplane.leadership import budget
from tests.support import keepers, real_stores
from tests.support.keepers import KEYS, Daemon, until
from tests.support.real_stores import RealStore
from tests.support.stores import SOON_S

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

LOOKED_S = 5.0
"""Two leases."""


def _save(real: RealStore, folder: Path) -> None:
    if real.kind == "consul":
        (folder / "snapshot").write_bytes(real.ask("GET", "v1/snapshot"))
        return
    real.server.kill()
    shutil.copytree(real.server.folder, folder / "copy")
    real.server.start()


def _restore(real: RealStore, folder: Path) -> None:
    if real.kind == "consul":
        real.ask("PUT", "v1/snapshot", raw=(folder / "snapshot").read_bytes())
        return
    real.server.kill()
    shutil.rmtree(real.server.folder)
    shutil.copytree(folder / "copy", real.server.folder)
    real.server.start()


async def test_a_store_that_is_set_back_to_an_older_epoch_gets_no_leader_until_it_is_confirmed(
    tmp_path: Path, kind: str
) -> None:
    with real_stores.running(kind) as real:
        async with keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor:
            first, second = await floor.pair()
            await asyncio.to_thread(_save, real, tmp_path)
            await until(first.leads, "alpha leads, after the copy too", SOON_S)
            before = await floor.leader()
            first.kill()
            await until(second.leads, "beta leads", SOON_S)
            highest = second.lease().epoch
            assert before is not None and highest > before.epoch
            await asyncio.to_thread(_restore, real, tmp_path)
            await _nobody_leads_under(highest, first, second)
            assert "went back" in floor.keepers["beta"].members[second.instance].sentence

            await floor.store.put(KEYS.incarnation, str(keepers.INCARNATION + 1).encode())
            await until(second.leads, "once an operator has confirmed it, beta leads", SOON_S)
            assert second.lease().incarnation == keepers.INCARNATION + 1


async def _nobody_leads_under(highest: int, *daemons: Daemon) -> None:
    """Who led may do so to its deadline; after that nobody does."""
    end_s = time.monotonic() + LOOKED_S
    while time.monotonic() < end_s:
        leading = [each for each in daemons if each.leads()]
        assert len(leading) <= 1 and all(each.lease().epoch >= highest for each in leading)
        await asyncio.sleep(0.01)
    assert not any(each.leads() for each in daemons)
