"""A store that has no room left (row 23): etcd's quota is used up and it raises its alarm NOSPACE; the disk
under a Consul server is full, which is the nearest to it there.

Safety first: who leads stops by its deadline, as with a store that is away, and nobody leads beside it; what
was acknowledged is kept. Then it leads again once there is room, without a restart of ours.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.keeper import protocol
from controlplane import store
from controlplane.errors import HftctlError, Unavailable
from controlplane.leadership import budget
from tests.support import consul_servers, disks, keepers, real_stores, servers
from tests.support.keepers import KEYS, until
from tests.support.real_stores import RealStore
from tests.support.stores import SOON_S

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

QUOTA_BYTES = 16 << 20
DISK = "48m"
FILLER_BYTES = 400_000


@dataclass
class Small:
    """A store with little room."""

    real: RealStore

    def fill(self) -> None:
        """Consul: until the last byte of its disk. etcd is filled by writes, as its quota counts those."""
        if self.real.kind == "consul":
            self.filler = disks.fill(self.real.server.folder)

    def make_room(self) -> None:
        """What an operator does: delete, compact, defragment and disarm, or give the disk room; and start the
        server again where it has ended.
        """
        if self.real.kind == "consul":
            self.filler.unlink()
            process = self.real.server.process
            assert process is not None
            if process.poll() is not None:
                self.real.server.start()
            return
        ask = self.real.ask
        ask("POST", "v3/kv/deleterange", {"key": _text(b"hft/filler/"), "range_end": _text(b"hft/filler0")})
        revision = json.loads(ask("POST", "v3/kv/range", {"key": _text(b"hft/")}))["header"]["revision"]
        ask("POST", "v3/kv/compaction", {"revision": revision, "physical": True})
        ask("POST", "v3/maintenance/defragment", {})
        for alarm in json.loads(ask("POST", "v3/maintenance/alarm", {"action": "GET"})).get("alarms", []):
            ask("POST", "v3/maintenance/alarm", {**alarm, "action": "DEACTIVATE"})


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@contextmanager
def small(kind: str) -> Iterator[Small]:
    if kind == "etcd":
        with real_stores.running(kind, extra=["--quota-backend-bytes", str(QUOTA_BYTES)]) as real:
            yield Small(real)
        return
    with tempfile.TemporaryDirectory(prefix="hft-consul-") as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir(mode=0o700)
        ports = dict(zip(("http", "server", "serf_lan"), servers.free_ports(3), strict=True))
        server = consul_servers.Server(consul_servers.consul(), folder, ports)
        with disks.small_disk(folder, DISK):
            try:
                server.start()
                yield Small(RealStore(kind, [server]))
            finally:
                server.kill()


async def _write_until_refused(client: store.Store) -> tuple[set[str], HftctlError]:
    """What was acknowledged, and the refusal."""
    acknowledged: set[str] = set()
    async with asyncio.timeout(SOON_S):
        for number in range(1000):
            key = f"hft/filler/{number}"
            try:
                await client.put(key, bytes(FILLER_BYTES))
                acknowledged.add(key)
            except Unavailable as exc:
                if "space exceeded" in str(exc) or client.kind == "consul":
                    return acknowledged, exc
    raise AssertionError("it is never full")


async def _go_on_writing(client: store.Store) -> None:
    """A Consul without room may still have some within its files, for small writes."""
    while True:
        with contextlib.suppress(HftctlError):
            await client.put("hft/filler/more", bytes(FILLER_BYTES))
        await asyncio.sleep(0.02)


async def _said_unwell(client: store.Store) -> store.Health:
    """A Consul without room loses its leader and finds it again, and answers reads between."""
    async with asyncio.timeout(SOON_S):
        while (health := await client.health()).healthy:  # noqa: ASYNC110 (nobody announces it)
            await asyncio.sleep(0.05)
    assert health.reason and "\n" not in health.reason
    return health


async def test_a_store_without_room_ends_the_lead_by_its_deadline_and_it_leads_again_once_there_is(
    tmp_path: Path, kind: str
) -> None:
    with small(kind) as full:
        real = full.real
        async with keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor:
            only = floor.daemon("alpha")
            alpha = await floor.keeper("alpha")
            alpha.apply(protocol.Table((only.entry(),)))
            await until(only.leads, "alpha leads")
            await until(lambda: alpha.registry.held(), "alpha is registered")
            writer = real.connect()
            full.fill()
            acknowledged, refusal = await _write_until_refused(writer)
            assert "\n" not in str(refusal) and refusal.exit_code == 3
            pressing = asyncio.create_task(_go_on_writing(writer))
            await until(lambda: not only.leads(), "the lead ended by its deadline", SOON_S)
            health = await _said_unwell(writer)
            if kind == "etcd":
                assert "NOSPACE" in health.reason
                # Leases are kept alive all the same: what is registered stays to be found.
                await asyncio.sleep(alpha.settings.registration_keep_s + 1.0)
                assert (await writer.range(KEYS.services)).entries
            kept = set((await writer.range("hft/filler/")).entries) if kind == "etcd" else acknowledged
            assert acknowledged <= kept
            assert kind == "consul" or not only.leads(), "not by itself"
            pressing.cancel()

            await asyncio.to_thread(full.make_room)
            await until(only.leads, "alpha leads again", SOON_S)
            if kind == "consul":
                assert acknowledged <= set((await writer.range("hft/filler/")).entries)
            assert (await writer.health()).healthy
            leader = await floor.leader()
            assert leader is not None and leader.holder == only.process
            assert only.lease().epoch == leader.epoch <= 2
            await writer.close()
