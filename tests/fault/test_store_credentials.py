"""Secrets and certificates that end or are rotated under keepers that lead (row 24), on a real etcd and a
real Consul: who leads goes on leading, in the same epoch, and what was rotated is what is used afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest
import trustme

from agents.keeper import protocol
from controlplane import store
from controlplane.errors import Denied
from controlplane.leadership import budget
from controlplane.model import records
from controlplane.store import Committed
from tests.support import guarded_stores, keepers
from tests.support.guarded_stores import Identities
from tests.support.keepers import until
from tests.support.store_proxy import StoreProxy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

TAKEN_S = 5.0
BUDGET_S = budget.SAFE.renew_deadline_s
"""A renewal that takes longer demotes. `safe`, as the machine may be busy with other tests."""


def _rotate(guarded: Identities, old: str) -> str:
    """As an operator does it: the new secret is there before the old one ends, where the store has both."""
    new = guarded.made()
    guarded.tell(new)
    guarded.forget(old)
    return new


async def test_a_secret_that_is_rotated_under_load_costs_no_lead(tmp_path: Path, kind: str) -> None:
    """etcd: the user's password, and with it every token; Consul: the token itself."""
    with guarded_stores.with_identities(kind, tmp_path) as guarded:
        clients = [guarded.real.connect(settings=guarded.settings) for _ in range(3)]
        secret = (tmp_path / "secret").read_text().strip()
        async with keepers.floor(clients[0], tmp_path, budget.SAFE) as floor:
            first, second = await floor.pair(*clients[1:])
            for _ in range(3):
                rotating = asyncio.create_task(asyncio.to_thread(_rotate, guarded, secret))
                await keepers.steady(first, second, seconds=2.5)
                secret = await rotating
            leader = await floor.leader()
            assert isinstance(leader, records.LeaderRecord) and leader.epoch == 1
            first.kill()  # and the other one's watches and writes have the new one, too
            await until(second.leads, "beta leads", TAKEN_S)
            for host in ("alpha", "beta"):
                await floor.kill_keeper(host)
        for client in clients[1:]:
            await client.close()


async def test_a_secret_that_ended_is_renewed_inside_the_budget_of_one_write(
    tmp_path: Path, kind: str
) -> None:
    """The client was quiet meanwhile: etcd's token expired after a second without use, Consul's is gone."""
    with guarded_stores.with_identities(kind, tmp_path, token_ttl_s=1) as guarded:
        client = guarded.real.connect(settings=guarded.settings)
        secret = (tmp_path / "secret").read_text().strip()
        assert isinstance(await client.put("hft/a", b"0"), Committed)
        for number in range(1, 3):
            if kind == "etcd":
                await asyncio.sleep(3.0)
            else:
                secret = await asyncio.to_thread(_rotate, guarded, secret)
            began_s = time.monotonic()
            assert isinstance(await client.put("hft/a", str(number).encode()), Committed)
            assert time.monotonic() - began_s < BUDGET_S
        found = await client.get("hft/a")
        assert found is not None and found.value == b"2"

        # With no other secret to be had, it is said, and nothing is written.
        guarded.forget(secret)
        if kind == "etcd":
            await asyncio.to_thread(guarded.made)
        with pytest.raises(Denied):
            async with asyncio.timeout(20):
                while True:
                    await client.put("hft/a", b"2")
                    await asyncio.sleep(0.05)
        await client.close()


async def test_a_fifo_in_the_place_of_the_secret_is_refused_and_holds_up_no_loop(
    tmp_path: Path, kind: str
) -> None:
    """Reading one waits for a writer, and a keeper's loop may not. One comes in the end, so that a read that
    does wait is seen here and does not hang the suite.
    """
    with guarded_stores.with_identities(kind, tmp_path) as guarded:
        client = guarded.real.connect(settings=guarded.settings)
        assert isinstance(await client.put("hft/a", b"1"), Committed)
        old = guarded.secret_file.read_text().strip()
        guarded.secret_file.unlink()
        os.mkfifo(guarded.secret_file, 0o600)
        new = await asyncio.to_thread(guarded.made)
        guarded.forget(old)
        writer = threading.Timer(15.0, _write_into, (guarded.secret_file, new.encode()))
        writer.start()
        try:
            with pytest.raises(Denied):
                async with asyncio.timeout(10):
                    while True:  # the server may believe the old one for a moment
                        await client.put("hft/a", b"2")
                        await asyncio.sleep(0.05)
            assert stat.S_ISFIFO(guarded.secret_file.stat().st_mode)
            guarded.tell(new)
            assert isinstance(await client.put("hft/a", b"3"), Committed)
        finally:
            writer.cancel()
            await client.close()


def _write_into(fifo: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, content)
        os.close(fd)


async def test_certificates_that_are_renewed_under_load_cost_no_lead(tmp_path: Path, kind: str) -> None:
    """The client's and the server's; every connection is broken then, so that the new ones are shown."""
    with guarded_stores.with_certificates(kind, tmp_path) as secured:
        async with StoreProxy(secured.endpoint) as proxy:
            through = f"{kind}://{proxy.endpoint}"
            clients = [store.connect(through, secured.settings) for _ in range(3)]
            async with keepers.floor(clients[0], tmp_path, budget.SAFE) as floor:
                first, second = await floor.pair(*clients[1:])
                for _ in range(3):
                    before = len(proxy.accepted_s)
                    secured.renew()
                    secured.renew_the_servers()
                    proxy.cut()
                    await keepers.steady(first, second, seconds=2.5)
                    assert len(proxy.accepted_s) > before
                leader = await floor.leader()
                assert leader is not None and leader.epoch == 1
                for host in ("alpha", "beta"):
                    await floor.kill_keeper(host)
            for client in clients[1:]:
                await client.close()


async def test_a_certificate_that_no_authority_knows_stops_the_lead_and_a_good_one_brings_it_back(
    tmp_path: Path, kind: str
) -> None:
    """As one that expired. The lead ends by its deadline, never beside another's."""
    with guarded_stores.with_certificates(kind, tmp_path) as secured:
        async with StoreProxy(secured.endpoint) as proxy:
            client = store.connect(f"{kind}://{proxy.endpoint}", secured.settings)
            own = store.connect(secured.url, secured.settings)
            async with keepers.floor(own, tmp_path, budget.SAFE) as floor:
                only = floor.daemon("alpha")
                alpha = await floor.keeper("alpha", client)
                alpha.apply(protocol.Table((only.entry(),)))
                await until(only.leads, "alpha leads")
                guarded_stores.issue(trustme.CA(), tmp_path, "client")
                async with asyncio.timeout(20):
                    while only.leads():
                        proxy.cut()  # etcd's channel may connect once more with what it showed before
                        await asyncio.sleep(0.3)
                health = await client.health()
                assert not health.healthy and health.reason and "\n" not in health.reason
                secured.renew()
                await until(only.leads, "alpha leads again")
                await floor.kill_keeper("alpha")
            await client.close()
