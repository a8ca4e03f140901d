"""A damaged record in the store is named and harms only itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from controlplane import store
from controlplane.floor.folders import Folders
from tests.support import floors

KEYS = store.Keys("lab")


def in_store(floor: floors.Floor, do: Callable[[store.Store], Coroutine[Any, Any, Any]]) -> Any:
    url = Folders(floor.site_dir).store_url()
    assert url is not None

    async def run() -> Any:
        client = store.connect(url)
        try:
            return await do(client)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("rubbish", [b"not a number", b"\xff\x00", b"9" * 4400])
def test_hft_floord_comes_up_over_a_damaged_incarnation_and_epoch_and_names_both(rubbish: bytes) -> None:
    with floors.floor() as floor:
        floord = floor.parent()["floord"]["pid"]
        floor.kill(floord)
        floors.wait_for("it is gone", lambda: not Path(f"/proc/{floord}").exists())
        in_store(floor, lambda client: client.put(KEYS.incarnation, rubbish))
        in_store(floor, lambda client: client.put(KEYS.epoch("riskd"), rubbish))
        floor.run("up", "--detach", "--timeout", "3")  # riskd has no leader while its epoch is damaged
        log = (floor.site_dir / "logs" / "floord.log").read_text()
        for key in (KEYS.incarnation, KEYS.epoch("riskd")):
            assert f"{key} in the store does not decode and is left out" in log
        assert "Traceback" not in log and "taking the floor down" not in log
        healed = in_store(floor, lambda client: client.get(KEYS.incarnation))
        assert int(healed.value) > 1_700_000_000_000
        assert floor.parent()["floord"]["pid"] != floord
        floors.wait_for("omsd is led", lambda: floor.service("omsd")["leader"])
