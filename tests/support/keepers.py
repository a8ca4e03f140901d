"""Two hosts' keepers in one event loop over one store, with real processes that keep an alive word: what the
keepers' fault tests run on.

The stand-in daemon does what the contract asks of any daemon, and no more: it beats, and says active under
the epoch of a lease word that leads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.keeper import keeper as keepers
from agents.keeper import protocol, settings
from agents.keeper.seen_tokens import SeenTokens
from controlplane import model
from controlplane.host import identity
from controlplane.host.system_clock import SystemClock
from controlplane.leadership import budget
from controlplane.model import Mode, Process, records
from controlplane.model.observed import HostRecord
from controlplane.model.records import Registration
from controlplane.store import Keys, Store
from controlplane.store.memory import MemoryStore
from hftd.shm import pages

KEYS = Keys("test")
SERVICE = "omsd"
PING_KEY = bytes(range(32))
INCARNATION = 1_700_000_000_000

DAEMON = """
import sys, time
from controlplane.host import identity
from controlplane.model import Phase
from hftd.shm import pages
instance, lease_path, alive_path = sys.argv[1:4]
me = identity.identify(instance)
from pathlib import Path
lease, alive = pages.LeasePage(Path(lease_path)), pages.HeartbeatPage(Path(alive_path), writable=True)
phase, epoch = Phase.STANDBY, 0
while True:
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wanted = lease.read()
    leads = wanted.leads(me, now_ns)
    phase, epoch = (Phase.ACTIVE, wanted.epoch) if leads else (Phase.STANDBY, 0)
    try:
        revision = int(Path(alive_path + ".revision").read_text())
    except (OSError, ValueError):
        revision = 0
    alive.write(pages.Alive(me.pid, me.start_time, now_ns, phase, epoch, 0, revision))
    time.sleep(0.005)
"""


async def until(claim: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait for a condition, generously; the fault is named when it never comes."""
    deadline_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.001)


@dataclass
class Daemon:
    """One instance's process, its words, and its entry in the table."""

    run_dir: Path
    host: str
    service: str = SERVICE
    fences: tuple[str, ...] = ()
    child: subprocess.Popen[bytes] | None = None
    process: Process = field(default=Process("", "", 0, 0))

    @property
    def instance(self) -> str:
        return f"{self.service}-{self.host}-1"

    @property
    def lease_path(self) -> Path:
        return self.run_dir / f"{self.instance}.lease"

    @property
    def alive_path(self) -> Path:
        return self.run_dir / f"{self.instance}.alive"

    def start(self) -> Daemon:
        for path, magic in ((self.lease_path, pages.LEASE_MAGIC), (self.alive_path, pages.ALIVE_MAGIC)):
            if not path.exists():
                pages.create(path, magic)
        (self.run_dir / f"{self.instance}.alive.revision").unlink(missing_ok=True)
        arguments = [sys.executable, "-c", DAEMON, self.instance, str(self.lease_path), str(self.alive_path)]
        self.child = subprocess.Popen(arguments)
        found = identity.identify(self.instance, self.child.pid)
        assert found is not None
        self.process = found
        return self

    def lease(self) -> pages.LeaseWord:
        with pages.LeasePage(self.lease_path) as found:
            return found.read()

    def alive(self) -> pages.Alive:
        with pages.HeartbeatPage(self.alive_path) as found:
            return found.read()

    def leads(self) -> bool:
        return self.lease().leads(self.process, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def say_electable(self, *others: Daemon) -> None:
        """As a leading daemon does: the list first, then the revision."""
        pages.electable_path(self.alive_path).write_bytes(model.encode([other.process for other in others]))
        path = self.run_dir / f"{self.instance}.alive.revision"
        path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.child is not None and self.child.poll() is None:
            os.kill(self.child.pid, number)

    def end(self) -> None:
        self.kill()
        if self.child is not None:
            self.child.wait(10)

    def entry(self, *, ready: bool = True) -> protocol.WantedProcess:
        registration = Registration(
            self.service,
            self.instance,
            self.host,
            self.process,
            {"orders": f"ipc://{self.instance}"},
            "127.0.0.1",
            0,
            1,
            "1",
        )
        lease = str(self.lease_path)
        return protocol.WantedProcess(
            self.process,
            self.service,
            Mode.ACTIVE_STANDBY,
            str(self.alive_path),
            lease,
            registration if ready else None,
            self.fences,
        )


@dataclass
class Floor:
    """A store and the keepers on it; every keeper and daemon is ended with the floor."""

    store: Store
    folder: Path
    profile: budget.Budget = budget.DEFAULT
    """Of its keepers."""
    keepers: dict[str, keepers.Keeper] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)

    def daemon(self, host: str, service: str = SERVICE, fences: tuple[str, ...] = ()) -> Daemon:
        made = Daemon(self.folder, host, service, fences).start()
        self.daemons.append(made)
        return made

    async def keeper(self, host: str, store: Store | None = None, **changed: float) -> keepers.Keeper:
        """Start a keeper and announce its address as its agent would."""
        chosen = replace(settings.Settings(budget=self.profile), **changed)  # type: ignore[arg-type]
        (self.folder / host).mkdir(exist_ok=True)
        made = keepers.Keeper(
            store or self.store,
            KEYS,
            host,
            chosen,
            SystemClock(),
            SeenTokens(self.folder / host / "keeper.json"),
            self.told.append,
        )
        made.peers.key = PING_KEY
        await made.open()
        self.keepers[host] = made
        self.tasks[host] = asyncio.create_task(made.run(), name=f"keeper {host}")
        await self.store.put(
            KEYS.host(host), model.encode(HostRecord(host, "127.0.0.1", "", made.peers.address, "", 1))
        )
        return made

    async def kill_keeper(self, host: str) -> None:
        """What a SIGKILL leaves: nothing more is written, nothing is given back."""
        self.tasks[host].cancel()
        await asyncio.gather(self.tasks[host], return_exceptions=True)

    async def leader(self, service: str = SERVICE) -> records.LeaderRecord | None:
        entry = await self.store.get(KEYS.leader(service))
        return model.decode(records.LeaderRecord, entry.value) if entry else None

    async def meet(self) -> None:
        """Wait until every keeper has an answer of every other."""
        for keeper in self.keepers.values():
            await until(
                lambda keeper=keeper: len(keeper.peers._answers) >= len(self.keepers) - 1,
                f"{keeper.host} has its peers' answers",
            )

    async def pair(
        self, of_alpha: Store | None = None, of_beta: Store | None = None
    ) -> tuple[Daemon, Daemon]:
        """alpha leads, beta is electable and passing; each keeper over a client of its own where given."""
        first, second = self.daemon("alpha"), self.daemon("beta")
        alpha = await self.keeper("alpha", of_alpha)
        alpha.apply(protocol.Table((first.entry(),)))
        await until(first.leads, "alpha leads")
        beta = await self.keeper("beta", of_beta)
        beta.apply(protocol.Table((second.entry(),)))
        first.say_electable(second)
        await until(lambda: second.process in alpha.successors(), "beta's process passes")
        member = alpha.members[first.instance]
        await until(lambda: member.group and second.process in member.group.candidates, "beta is electable")
        behind = beta.members[second.instance]
        await until(lambda: behind.group and behind.group.candidates, "beta's keeper knows it")
        return first, second


@contextlib.asynccontextmanager
async def floor(store: Store, folder: Path, profile: budget.Budget = budget.DEFAULT) -> AsyncIterator[Floor]:
    made = Floor(store, folder, profile)
    await store.put(KEYS.incarnation, str(INCARNATION).encode())
    try:
        yield made
    finally:
        for host in made.tasks:
            await made.kill_keeper(host)
        for daemon in made.daemons:
            daemon.end()
        await store.close()


async def steady(leader: Daemon, *others: Daemon, seconds: float = 3.0) -> None:
    """For longer than a lease: the same one leads in the same epoch at every look, and no other does."""
    epoch, end_s = leader.lease().epoch, time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert leader.leads() and leader.lease().epoch == epoch, f"{leader.instance} lost its lead"
        assert not any(other.leads() for other in others), "two leaders at once"
        await asyncio.sleep(0.01)


Case = Callable[[Floor], Awaitable[None]]


def run(folder: Path, case: Case, store: MemoryStore | None = None) -> None:
    """The case on two hosts' keepers, over a store in memory unless another is given."""

    async def on_floor() -> None:
        async with floor(store or MemoryStore(), folder) as made:
            await case(made)

    asyncio.run(on_floor())
