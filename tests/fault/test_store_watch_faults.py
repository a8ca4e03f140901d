"""Watches on a real etcd and a real Consul that lose their history (row 15) or fall silent (row 16)."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from controlplane import store
from controlplane.store import Committed, etcd
from tests.support.real_stores import RealStore
from tests.support.store_proxy import StoreProxy
from tests.support.stores import SOON_S, put_until_done, seen, until, values

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

FOUND_S = 2.0
"""Row 16."""
QUIET_S = 1.5


async def _forget_the_history(real: RealStore, writer: store.Store, saved: bytes) -> None:
    """etcd: everything that the watch has not seen is compacted. Consul has no history to lose; there the
    servers are set back to a snapshot, and the prefix's index falls.
    """
    if real.kind == "consul":
        await asyncio.to_thread(real.ask, "PUT", "v1/snapshot", raw=saved)
        return
    assert isinstance(writer, etcd.EtcdStore)
    for key, value in (("changed", b"1"), ("back", b"1")):
        await writer.put(f"hft/x/{key}", value)
    outcome = await writer.delete("hft/x/passing")
    assert isinstance(outcome, Committed)
    await writer.compact(outcome.of_puts)


async def test_a_lost_history_is_listed_again_and_each_net_change_is_told_once(real: RealStore) -> None:
    """No spin either: the connections that it takes are counted."""
    await real.wipe()
    writer = real.connect()
    async with StoreProxy(real.server.endpoint) as proxy:
        client = real.connect(proxy.endpoint)
        async with aclosing(client.watch("hft/x/")) as watch:
            for key in ("changed", "back", "same"):
                await writer.put(f"hft/x/{key}", b"1")
            saved = b"" if real.kind == "etcd" else await asyncio.to_thread(real.ask, "GET", "v1/snapshot")
            await writer.put("hft/x/changed", b"2")
            await writer.delete("hft/x/back")
            await writer.put("hft/x/passing", b"1")
            await seen(watch, lambda found: values(found) == {"changed": b"2", "same": b"1", "passing": b"1"})
            proxy.silent = True
            before = len(proxy.accepted_s)
            await _forget_the_history(real, writer, saved)
            proxy.heal()
            async with asyncio.timeout(SOON_S):
                found = await anext(watch)
            assert values(found) == {"changed": b"1", "back": b"1", "same": b"1"}
            assert found.changed == {"hft/x/changed", "hft/x/back", "hft/x/passing"}, "and not the same one"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await anext(watch)
            assert len(proxy.accepted_s) - before <= 8
            await put_until_done(writer, "hft/x/after", b"1")
            assert (await until(watch, "hft/x/after", b"1")).changed == {"hft/x/after"}
        await client.close()
    await writer.close()


async def test_a_watch_that_falls_silent_is_found_in_two_seconds_and_goes_on_elsewhere(
    real: RealStore,
) -> None:
    """Its connection stays open and nothing comes: what is written meanwhile is seen by another endpoint."""
    await real.wipe()
    writer = real.connect()
    for number in range(3):
        async with StoreProxy(real.server.endpoint) as proxy:
            client = real.connect(proxy.endpoint, real.server.endpoint)
            async with aclosing(client.watch("hft/x/")) as watch:
                await writer.put("hft/x/a", str(number).encode())
                await until(watch, "hft/x/a", str(number).encode())
                assert proxy.lines, "the watch is on the proxy's connection"
                confirmed_ns, silent_s = watch.confirmed_boot_ns, time.monotonic()
                proxy.silent = True
                await writer.put("hft/x/b", str(number).encode())
                found = await until(watch, "hft/x/b", str(number).encode())
                assert time.monotonic() - silent_s < FOUND_S
                assert found.changed == {"hft/x/b"} and watch.confirmed_boot_ns > confirmed_ns
            await client.close()
    await writer.close()
