"""Agents for tests: a spec of a real daemon, an agent in this process over the memory store, or one as its
own process over etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents import daemon
from agents.settings import AgentSettings
from controlplane import model, store
from controlplane.clock import Clock
from controlplane.errors import FloorUnreachable
from controlplane.host import identity
from controlplane.http import unix
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.store import Keys, Store
from hftd import settings as schemas

KEYS = Keys("lab")
SOON_S = 20.0
"""More than anything may take on a busy machine; nothing waits so long when it works."""
_numbers = itertools.count(1)


def spec(
    name: str, *hosts: str, mode: Mode = Mode.SINGLETON, daemon: str = "", uses: tuple[str, ...] = ()
) -> ServiceSpec:
    settings: dict[str, object] = msgspec.to_builtins(getattr(schemas, (daemon or name).upper()).settings())
    return ServiceSpec(name, daemon or name, mode, hosts or ("alpha",), settings=settings, uses=uses)


async def until(condition: Callable[[], Any], timeout_s: float = SOON_S) -> Any:
    """The first true value."""
    async with asyncio.timeout(timeout_s):
        while not (found := condition()):  # noqa: ASYNC110  processes set no event
            await asyncio.sleep(0.01)
    return found


@contextlib.contextmanager
def site_folder() -> Iterator[Path]:
    """Short, as sockets live in it."""
    folder = Path(tempfile.mkdtemp(prefix="hft-"))
    try:
        (folder / "run").mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Client:
    """Asks one agent over its unix socket, as hftctl does; headers' names come in lower case."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.folder = socket.parent.parent

    async def get(self, target: str) -> tuple[int, str, dict[str, str]]:
        answer = await asyncio.to_thread(unix.request, self.socket, "GET", target, timeout_s=SOON_S)
        return answer.status, answer.body.decode(), answer.headers

    async def json(self, target: str) -> Any:
        return json.loads((await self.get(target))[1])

    async def post(self, target: str, body: Any = None) -> tuple[int, Any]:
        sent = json.dumps(body).encode()
        answer = await asyncio.to_thread(unix.request, self.socket, "POST", target, sent, timeout_s=SOON_S)
        return answer.status, json.loads(answer.body)

    async def until(self, target: str, holds: Callable[[Any], Any]) -> Any:
        """The JSON of `target` once it holds."""
        async with asyncio.timeout(SOON_S):
            while True:
                with contextlib.suppress(FloorUnreachable, ValueError, KeyError, IndexError, TypeError):
                    found = await self.json(target)
                    if holds(found):
                        return found
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def site_in_process(
    *specs: ServiceSpec, hosts: tuple[str, ...] = ("alpha",), clocks: Mapping[str, Clock] | None = None
) -> AsyncIterator[tuple[list[Client], Store]]:
    """Agents of one site over one memory store, without keepers, and a controller as far as the store tells;
    shut down, with their daemons, on every path.
    """
    where = f"memory://agents-{next(_numbers)}"
    with site_folder() as folder:
        writer = store.connect(where)
        for one in specs:
            await writer.put(KEYS.spec(one.name), model.encode(one))
        elected = records.ControllerRecord("http://127.0.0.1:1", Process("controld", "boot", 1, 1), 1)
        await writer.put(KEYS.controller(), model.encode(elected))
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for host in hosts:
                settings = AgentSettings("lab", host, folder, folder / "run", where, keeper=False)
                clock = (clocks or {}).get(host)
                clients.append(await stack.enter_async_context(in_process(settings, clock)))
            yield clients, writer


@contextlib.asynccontextmanager
async def in_process(settings: AgentSettings, clock: Clock | None = None) -> AsyncIterator[Client]:
    running = asyncio.ensure_future(daemon.serve(settings, store.connect(settings.store), clock))
    socket = settings.run_dir / f"{settings.host}.agent.sock"
    client = Client(socket)
    try:
        await until(lambda: running.done() or socket.exists())
        yield client
    finally:
        if not running.done():
            await client.post("/v1/shutdown")
        assert await asyncio.wait_for(running, SOON_S) == 0


class AgentProcess:
    """hft-agentd as its own process, started, killed and started again."""

    def __init__(self, folder: Path, host: str, where: str, *words: str) -> None:
        self.folder, self.host = folder, host
        self.socket = folder / "run" / f"{host}.agent.sock"
        self.command = [sys.executable, "-m", "agents.daemon", "--site", "lab", "--host", host]
        self.command += [
            "--site-dir",
            str(folder),
            "--run-dir",
            str(folder / "run"),
            "--store",
            where,
            *words,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / f"agent-{self.host}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SOON_S)

    def get(self, target: str) -> Any:
        """The JSON, or None while nobody answers."""
        try:
            answer = unix.request(self.socket, "GET", target, timeout_s=2)
        except FloorUnreachable:
            return None
        return json.loads(answer.body) if answer.status == 200 else None

    def until(self, target: str, holds: Callable[[Any], Any]) -> Any:
        deadline_mono_s = time.monotonic() + SOON_S
        found = None
        while time.monotonic() < deadline_mono_s:
            with contextlib.suppress(TypeError, KeyError, IndexError, StopIteration):
                found = self.get(target)
                if holds(found):
                    return found
            time.sleep(0.01)
        raise AssertionError(
            f"{target} of {self.host}: not in time; last {found!r}; "
            f"log:\n{(self.folder / f'agent-{self.host}.log').read_text()}"
        )

    def pids(self) -> dict[str, int]:
        return {found["id"]: found["pid"] for found in self.get("/v1/instances") or []}

    def shut_down(self) -> None:
        """As `hftctl down` does; started once more if it does not run, so that what it left is ended."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        deadline_mono_s = time.monotonic() + SOON_S
        while self.process is not None and self.process.poll() is None and time.monotonic() < deadline_mono_s:
            with contextlib.suppress(FloorUnreachable):
                unix.request(self.socket, "POST", "/v1/shutdown", timeout_s=2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        if self.process is not None and self.process.poll() is None:
            self.kill()


def fill(where: str, *specs: ServiceSpec) -> None:
    """A store with an incarnation and these specs, for agents as processes."""

    async def put() -> None:
        client = store.connect(where)
        await client.put(KEYS.incarnation, b"1700000000000")
        for one in specs:
            await client.put(KEYS.spec(one.name), model.encode(one))
        await client.close()

    asyncio.run(put())


@contextlib.contextmanager
def agent_process(where: str, *words: str, host: str = "alpha") -> Iterator[AgentProcess]:
    with site_folder() as folder:
        agent = AgentProcess(folder, host, where, *words)
        agent.start()
        try:
            yield agent
        finally:
            agent.shut_down()
            end_what_is_left(folder)


def end_what_is_left(folder: Path) -> None:
    """Processes that the shims' state files and the locks still name: there are some only when a test has
    failed.
    """
    from controlplane.floor import folders, processes

    site = folders.Folders(folder)
    for path in [*(folder / "run").glob("*.shim.json"), *site.hosts.glob("*/*.lock")]:
        found = folders.read_json(path) or {}
        parts = [found.get("shim") or {}, found.get("daemon") or {}, found]
        named = [identity.from_plain({**part, "boot_id": found.get("boot_id")}, path.name) for part in parts]
        processes.end([known for known in named if known is not None and known.pid != os.getpid()])
