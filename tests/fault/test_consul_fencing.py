"""R10, R11 on Consul: who is fenced, and where, never depends on the catalogue, which is eventually
consistent and goes by every host's own agent. Real Consul, keepers, no daemon but their words.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.keeper import protocol
from controlplane import store
from controlplane.errors import Unavailable
from controlplane.registry.consul import ConsulRegistry, definition
from controlplane.store import Committed, Lease, Lost
from controlplane.store.consul import ConsulStore
from controlplane.store.memory import MemoryStore
from hftd.shm import fence_file
from tests.support import consul_servers, keepers, servers
from tests.support.keepers import KEYS, SERVICE, Daemon, Floor, run, until


@pytest.fixture(scope="module")
def consul() -> Iterator[consul_servers.Server]:
    with consul_servers.running(consul_servers.consul()) as server:
        yield server


def fenced(daemon: Daemon) -> dict[str, Any]:
    found = msgspec.json.decode(fence_file.path_of(daemon.lease_path).read_bytes())
    return dict(found["execd"])


def test_with_the_catalogue_stopped_a_taker_fences_the_execd_that_leads_now(
    consul: consul_servers.Server, tmp_path: Path
) -> None:
    """No host's agent answers: nothing is registered in the catalogue. Both groups get a leader all the same,
    a new execd takes the lead, and the omsd that comes after it fences that one.
    """
    dead = servers.free_ports(1)[0]

    def connect() -> ConsulStore:
        made = store.connect(f"consul://{consul.endpoint}?agent=127.0.0.1:{dead}")
        assert isinstance(made, ConsulStore)
        return made

    async def on_floor() -> None:
        async with keepers.floor(connect(), tmp_path) as floor:
            gateways = [floor.daemon(host, "execd", fences=(SERVICE,)) for host in ("alpha", "beta")]
            desks = [floor.daemon(host, fences=("execd",)) for host in ("alpha", "beta")]
            for host, gateway, desk in zip(("alpha", "beta"), gateways, desks, strict=True):
                keeper = await floor.keeper(host)
                keeper.apply(protocol.Table((gateway.entry(), desk.entry())))
                if host == "alpha":
                    await until(lambda: gateways[0].leads() and desks[0].leads(), "alpha leads both")
            await floor.meet()
            for leader, standby in ((gateways[0], gateways[1]), (desks[0], desks[1])):
                leader.say_electable(standby)
                await until(
                    lambda leader=leader, standby=standby: _knows(floor, leader, standby), "beta is electable"
                )
            assert fenced(desks[0])["leader"]["instance"] == "execd-alpha-1"
            gateways[0].kill()
            await until(gateways[1].leads, "the new execd leads")
            desks[0].kill()
            await until(desks[1].leads, "the new omsd leads")
            target = fenced(desks[1])
            assert target["leader"]["pid"] == gateways[1].process.pid
            assert target["endpoints"] == {"orders": "ipc://execd-beta-1"}
            answer = await floor.store.calls.ask("GET", "health/service/execd")  # type: ignore[attr-defined]
            assert definition.rows.decode(answer.body) == [], "the catalogue knows none of them"
            kept = floor.keepers["beta"].registry
            assert isinstance(kept, ConsulRegistry) and kept.trouble, "which is said"

    asyncio.run(on_floor())


def _knows(floor: Floor, leader: Daemon, standby: Daemon) -> bool:
    members = [
        floor.keepers["alpha"].members[leader.instance],
        floor.keepers["beta"].members[standby.instance],
    ]
    return all(member.group is not None and standby.process in member.group.candidates for member in members)


class Closed(MemoryStore):
    """Takes no registration until it may."""

    may = False

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: Lease | None = None
    ) -> Committed | Lost:
        if key.startswith(KEYS.services) and not self.may:
            raise Unavailable(f"{key}: not yet")
        return await super().put(key, value, expect=expect, lease=lease)


def test_nobody_is_elected_before_its_endpoints_are_in_the_store(tmp_path: Path) -> None:
    """What takes the lead can be fenced: a taker that reads the leader finds where it listens."""
    closed = Closed()

    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((only.entry(),)))
        await until(lambda: alpha.shown.complete, "the store is seen")
        await asyncio.sleep(0.5)
        assert await floor.leader() is None and not only.leads()
        assert only.process not in set(alpha._fit()), "and no peer may name it"
        closed.may = True
        await until(only.leads, "it leads once it stands in the store")
        # What it leads is not lost with its registration.
        entry = dataclasses.replace(only.entry(), registration=None)
        alpha.apply(protocol.Table((entry,)))
        await asyncio.sleep(0.3)
        assert only.leads()

    run(tmp_path, case, closed)
