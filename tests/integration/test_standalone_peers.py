"""Whom a standalone daemon is told of: what discovery has, with roles where a spec gives them."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Callable

import zmq

from controlplane import model, store
from controlplane.host import identity
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.records import Registration
from hftd.runtime.agent_link import AgentLink
from hftd.runtime.log import Log
from hftd.standalone.agent import RegistryAt, StandaloneAgent
from hftd.wire import control
from tests.support import servers

WAIT_S = 30.0
KEYS = store.Keys("standalone-peers")
INCARNATION = 1_700_000_000_000


def registration(service: str, n: int, **changed: object) -> Registration:
    process = Process(f"{service}-alpha-{n}", "boot", 10 + n, 100)
    endpoints = {"orders": f"ipc:///run/{process.instance}"}
    made = Registration(service, process.instance, "alpha", process, endpoints, "10.0.0.1", 9, 1, "1")
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def write(endpoint: str, *what: object, gone: tuple[str, ...] = ()) -> None:
    async def put() -> None:
        client = store.connect(f"etcd://{endpoint}")
        for each in what:
            match each:
                case Registration():
                    key = KEYS.registration(each.service, each.instance)
                case ServiceSpec():
                    key = KEYS.spec(each.name)
                case records.LeaderRecord():
                    key = KEYS.leader("omsd")
            await client.put(key, model.encode(each))
        for key in gone:
            await client.delete(key)
        await client.close()

    asyncio.run(put())


def told(daemon: AgentLink, good: Callable[[control.Peers], bool]) -> control.Peers:
    """The next list of peers that is as wanted."""
    socket = daemon.socket
    assert socket is not None
    deadline_s, last = time.monotonic() + WAIT_S, None
    while time.monotonic() < deadline_s:
        if socket.poll(100):
            message = control.decode_from_agent(socket.recv())
            if isinstance(message, control.Peers):
                last = message
                if good(message):
                    return message
    raise AssertionError(f"not told within {WAIT_S} s; last: {last}")


def names(said: control.Peers) -> list[str]:
    return [each.instance for each in said.peers]


def test_it_is_told_roles_and_epochs_and_of_what_does_not_serve_only_while_nothing_else_does() -> None:
    me = identity.myself("riskd-1")
    uses = {"omsd": "omsd", "bookd": "bookd"}
    one, two = registration("omsd", 1), registration("omsd", 2)
    with servers.running(servers.etcd()) as server, tempfile.TemporaryDirectory(prefix="hft-") as folder:
        spec = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha",), 2)
        led = records.LeaderRecord(one.process, INCARNATION, 1, one.instance, "a")
        write(server.endpoint, spec, one, two, led, registration("bookd", 1, health="critical"))
        at = RegistryAt(address=f"etcd://{server.endpoint}", keys=KEYS, ttl_s=10.0)
        agent = StandaloneAgent(f"ipc://{folder}/agent", "riskd", "1", me, uses, {}, at, Log())
        agent.start()
        daemon = AgentLink(f"ipc://{folder}/agent", me)
        assert daemon.socket is not None
        try:
            assert daemon.socket.poll(30_000, zmq.POLLOUT) and daemon.hello("riskd", "1", {})
            found = told(daemon, lambda said: said.service == "omsd" and len(said.peers) == 2)
            assert [(each.role, each.epoch) for each in found.peers] == [("leader", 1), ("standby", 1)]

            write(server.endpoint, records.LeaderRecord(two.process, INCARNATION, 2, two.instance, "b"))
            found = told(
                daemon, lambda said: said.service == "omsd" and said.peers[1:2] and said.peers[1].epoch == 2
            )
            assert [each.role for each in found.peers] == ["standby", "leader"]

            write(server.endpoint, registration("bookd", 2))
            told(daemon, lambda said: names(said) == ["bookd-alpha-2"])  # the one that serves
            write(server.endpoint, gone=(KEYS.registration("bookd", "bookd-alpha-2"),))
            told(daemon, lambda said: names(said) == ["bookd-alpha-1"])  # better than none
        finally:
            daemon.socket.close(0)
            agent.stop()
