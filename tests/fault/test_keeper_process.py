"""hft-keeperd as a process, on a real etcd and a real Consul: killed, restarted beside an old one, stopped;
and what its agent hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agents.keeper import protocol
from controlplane import model, store
from controlplane.model import records
from controlplane.model.observed import HostRecord
from controlplane.store import Store
from hftd.shm.pages import Wanted
from tests.support import consul_servers, keepers, servers
from tests.support.keepers import KEYS, SERVICE, Daemon, until


@pytest.fixture(scope="module", params=["etcd", "consul"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a real store."""
    if request.param == "etcd":
        with servers.running(servers.etcd()) as server:
            yield f"etcd://{server.endpoint}"
    else:
        with consul_servers.running(consul_servers.consul()) as consul:
            yield f"consul://{consul.endpoint}"


@dataclass
class Agent:
    """The line to one keeper, from the agent's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, run_dir: Path, host: str) -> Agent:
        path = run_dir / f"{host}.keeper.sock"
        for _ in range(2000):
            with contextlib.suppress(OSError):
                return cls(*await asyncio.open_unix_connection(path))
            await asyncio.sleep(0.005)
        raise AssertionError(f"nobody listens on {path}")

    def want(self, *daemons: Daemon, profile: str = "default") -> None:
        self.writer.write(
            msgspec.json.encode(protocol.Table(tuple(daemon.entry() for daemon in daemons), profile)) + b"\n"
        )

    async def hear(self, key: str) -> dict[str, object]:
        async with asyncio.timeout(10):
            while True:
                message = json.loads(await self.reader.readline())
                if key in message:
                    return message  # type: ignore[no-any-return]


class Site:
    def __init__(self, folder: Path, where: str, client: Store) -> None:
        self.folder = folder
        self.where = where
        self.store = client
        self.processes: list[subprocess.Popen[bytes]] = []
        self.daemons: list[Daemon] = []

    def daemon(self, host: str) -> Daemon:
        made = Daemon(self.folder, host).start()
        self.daemons.append(made)
        return made

    def keeper(self, host: str, *extra: str) -> subprocess.Popen[bytes]:
        where = [
            "--site",
            KEYS.site,
            "--host",
            host,
            "--site-dir",
            str(self.folder / "site"),
            "--run-dir",
            str(self.folder),
            "--store",
            self.where,
        ]
        log = self.folder / f"keeper-{host}.log"
        made = subprocess.Popen(
            [sys.executable, "-m", "agents.keeper.daemon", *where, "--log", str(log), *extra],
            stderr=subprocess.PIPE,
        )
        self.processes.append(made)
        return made

    async def announce(self, host: str, agent: Agent) -> None:
        """As an agent does: what the keeper says of itself goes into the host's record."""
        hello = (await agent.hear("hello"))["hello"]
        assert isinstance(hello, dict)
        await self.store.put(
            KEYS.host(host), model.encode(HostRecord(host, "127.0.0.1", "", hello["udp"], "", 1))
        )

    async def leader(self) -> records.LeaderRecord | None:
        entry = await self.store.get(KEYS.leader(SERVICE))
        return model.decode(records.LeaderRecord, entry.value) if entry else None


@contextlib.asynccontextmanager
async def site(folder: Path, where: str) -> AsyncIterator[Site]:
    made = Site(folder, where, store.connect(where))
    for key in (await made.store.range(KEYS.root)).entries:
        await made.store.delete(key)
    await made.store.put(KEYS.incarnation, str(keepers.INCARNATION).encode())
    try:
        yield made
    finally:
        for process in made.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)
            assert process.stderr is not None
            process.stderr.close()
        for daemon in made.daemons:
            daemon.end()
        await made.store.close()


def run(folder: Path, where: str, case: Callable[[Site], Awaitable[None]]) -> None:
    async def on_site() -> None:
        async with site(folder, where) as made:
            await case(made)

    asyncio.run(on_site())


def test_leader_killed_under_two_keeper_processes(tmp_path: Path, where: str) -> None:
    """The whole way: pidfd, one transaction, the other keeper's watch, its renewal, its word."""

    async def case(made: Site) -> None:
        first, second = made.daemon("alpha"), made.daemon("beta")
        for host in ("alpha", "beta"):
            made.keeper(host)
        alpha, beta = await Agent.connect(made.folder, "alpha"), await Agent.connect(made.folder, "beta")
        await made.announce("alpha", alpha)
        await made.announce("beta", beta)
        alpha.want(first)
        await until(first.leads, "alpha leads")
        beta.want(second)
        first.say_electable(second)
        while not await made.store.get(KEYS.electable(SERVICE)):  # noqa: ASYNC110 - bounded by the test's own timeout
            await asyncio.sleep(0.01)
        await beta.hear("groups")
        await asyncio.sleep(0.25)  # two pings
        first.kill()
        await until(second.leads, "beta leads", 5)
        assert not first.leads() and second.lease().epoch == 2
        died = (await alpha.hear("died"))["died"]
        assert died == {"process": msgspec.to_builtins(first.process)}
        report = await beta.hear("groups")
        while report["groups"][SERVICE]["leader"] != second.instance:  # type: ignore[index]
            report = await beta.hear("groups")
        assert report["groups"][SERVICE]["lease_remaining_ms"] > 0 and report["registered"] == [
            second.instance
        ]  # type: ignore[index]

    run(tmp_path, where, case)


def test_keeper_kill_9_and_restart_changes_no_role(tmp_path: Path, where: str) -> None:
    """Row 37, several times over: the daemon keeps the same epoch and never sees its word run out (`safe`:
    also on a busy machine).
    """

    async def case(made: Site) -> None:
        only = made.daemon("alpha")
        keeper = made.keeper("alpha")
        agent = await Agent.connect(made.folder, "alpha")
        agent.want(only, profile="safe")
        await until(only.leads, "alpha leads")
        for _ in range(3):
            os.kill(keeper.pid, signal.SIGKILL)
            keeper.wait(5)
            held = only.lease()
            keeper = made.keeper("alpha")
            agent = await Agent.connect(made.folder, "alpha")
            agent.want(only, profile="safe")

            def renewed(held_ns: int = held.valid_until_ns) -> bool:
                assert only.leads(), "the word ran out while the keeper restarted"
                return only.lease().valid_until_ns > held_ns

            await until(renewed, "the new keeper renews")
        assert only.lease().epoch == 1

    run(tmp_path, where, case)


def test_sigterm_gives_the_lead_back_quickly(tmp_path: Path, where: str) -> None:
    async def case(made: Site) -> None:
        only = made.daemon("alpha")
        keeper = made.keeper("alpha")
        agent = await Agent.connect(made.folder, "alpha")
        agent.want(only)
        await until(only.leads, "alpha leads")
        agent.writer.close()  # a dead agent changes nothing
        keeper.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(keeper.wait, 5) == 0
        assert (only.lease().wanted, only.lease().valid_until_ns) == (Wanted.HAND_OVER, 0)
        leader = await made.leader()
        assert leader and leader.holder is None and leader.home == only.instance
        assert await made.store.get(KEYS.registration(SERVICE, only.instance)) is None

    run(tmp_path, where, case)


def test_a_second_keeper_refuses_while_the_old_one_lives_and_waits_for_its_death(
    tmp_path: Path, where: str
) -> None:
    """R18: also while the old one is only stopped, and could wake up with a word half written."""

    async def case(made: Site) -> None:
        old = made.keeper("alpha")
        await Agent.connect(made.folder, "alpha")
        old.send_signal(signal.SIGSTOP)
        refused = made.keeper("alpha", "--wait-old", "0.1")
        assert await asyncio.to_thread(refused.wait, 10) == 2
        assert refused.stderr is not None and b"still runs" in refused.stderr.read()
        patient = made.keeper("alpha", "--wait-old", "30")
        old.send_signal(signal.SIGCONT)
        old.kill()
        old.wait(5)
        agent = await Agent.connect(made.folder, "alpha")
        while b"hello" not in await agent.reader.readline():
            pass
        assert patient.poll() is None

    run(tmp_path, where, case)


def test_a_line_that_does_not_decode_is_refused_and_the_table_stays(tmp_path: Path, where: str) -> None:
    async def case(made: Site) -> None:
        only = made.daemon("alpha")
        made.keeper("alpha")
        agent = await Agent.connect(made.folder, "alpha")
        agent.want(only)
        await until(only.leads, "alpha leads")
        for line in (b"not json\n", b'{"instances": [{}]}\n', b'{"instances": [], "profile": "quick"}\n'):
            agent.writer.write(line)
            assert (await agent.hear("refused"))["refused"]
        assert only.leads()

    run(tmp_path, where, case)
