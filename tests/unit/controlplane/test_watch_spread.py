"""A crowd that loses its store at one moment does not come back at one moment."""

from __future__ import annotations

import asyncio
import random

import pytest

from controlplane.store import Store, consul, etcd


@pytest.mark.parametrize("kind", [etcd.EtcdStore, consul.ConsulStore])
def test_a_watch_that_lost_its_connection_waits_a_random_moment_before_the_next(
    kind: type[etcd.EtcdStore] | type[consul.ConsulStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first time, when the bucket of reconnections is still full."""
    waited_s: list[float] = []
    drawn = iter([0.25, 0.75, 0.5] * 1_000)
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        waited_s.append(round(seconds, 3))
        await sleep(0)

    async def lose_it() -> None:
        client: Store = kind(["unix:/nowhere/at/all"])
        watch = client.watch("hft/")
        monkeypatch.setattr(random, "random", lambda: next(drawn))
        monkeypatch.setattr(asyncio, "sleep", sleeping)
        reading = asyncio.ensure_future(anext(watch))
        async with asyncio.timeout(10):
            while len(waited_s) < 6:
                await sleep(0.001)
        reading.cancel()
        monkeypatch.undo()
        await client.close()

    asyncio.run(lose_it())
    assert [each for each in waited_s if each][:3] == [0.025, 0.075, 0.05]
