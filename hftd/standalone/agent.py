"""In the agent's place for a daemon started by hand: answers hello, keeps its registration in etcd, tells it
its peers.

Speaks the same messages over the same kind of socket as an agent (wire/control.py), from a thread with an
event loop of its own, so that the daemon's loop is none the wiser. It supervises nothing and leads nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import zmq
import zmq.asyncio

from controlplane import model, store
from controlplane.errors import HftctlError, InvalidInput
from controlplane.model import Process, Registration
from hftd.runtime.log import ERROR, Log
from hftd.wire import codec, control

RENEWALS_IN_A_TTL = 3
TRY_AGAIN_S = 1.0
STOP_S = 2.0

SOCKET_FOR = {
    ("strategyd", "bookd"): ("market", "tops"),
    ("riskd", "bookd"): ("market", "marks"),
    ("positiond", "bookd"): ("market", "marks"),
    ("bookd", "marketd"): ("market", "market"),
    ("marketd", "simd"): ("market", "feed"),
    ("strategyd", "riskd"): ("risk", "intents"),
    ("omsd", "riskd"): ("risk", "orders"),
    ("omsd", "execd"): ("orders", "orders"),
    ("execd", "simd"): ("orders", "orders"),
}
"""(daemon, daemon it uses) -> section of the file whose endpoint it is, name of that daemon's socket."""


@dataclass(frozen=True, slots=True)
class Explicit:
    daemon: str
    socket: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Registry:
    endpoints: Sequence[str]
    prefix: str
    ttl_s: float


class StandaloneAgent:
    def __init__(
        self,
        endpoint: str,
        service: str,
        version: str,
        process: Process,
        uses: Mapping[str, str],
        explicit: Mapping[str, Explicit],
        registry: Registry | None,
        lines: Log,
    ) -> None:
        self._endpoint, self._service, self._version, self._process = endpoint, service, version, process
        self._uses = uses
        """Service -> daemon that it runs."""
        self._explicit = explicit
        self._registry = registry
        self._lines = lines
        self._endpoints: dict[str, str] | None = None
        self._seq = 0
        self._found: dict[str, list[control.Peer]] = {}
        self._bound = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stand-in", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns once its socket is bound."""
        self._thread.start()
        self._bound.wait()

    def stop(self) -> None:
        """Withdraw the registration, within STOP_S."""
        self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
        self._thread.join(STOP_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _serve(self) -> None:
        context = zmq.asyncio.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(self._endpoint)
        self._bound.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear())
                if self._registry:
                    tasks.create_task(self._keep_registered(self._registry))
        finally:
            self._router.close(0)
            context.term()

    async def _hear(self) -> None:
        while True:
            frames = await self._router.recv_multipart()
            try:
                message = control.decode_from_daemon(frames[-1])
            except InvalidInput:
                continue
            if isinstance(message, control.Hello):
                self._endpoints = dict(message.endpoints)
                await self._tell(control.Welcome(*self._envelope(), 1))
                for service in self._uses:
                    await self._tell_peers(service)
            elif isinstance(message, control.Status):
                await self._tell(control.Welcome(*self._envelope(), 1))

    async def _tell_peers(self, service: str) -> None:
        explicit = self._explicit.get(service)
        peers = self._found.get(service, [])
        if explicit is not None:  # overrides discovery
            peers = [control.Peer(f"{service}-explicit", {explicit.socket: explicit.endpoint}, "", 0)]
        await self._tell(control.Peers(*self._envelope(), service, self._uses[service], peers))

    def _envelope(self) -> tuple[int, int, int, str, None]:
        self._seq += 1
        return (codec.VERSION, self._seq, time.time_ns(), "by-hand", None)

    async def _tell(self, message: control.FromAgent) -> None:
        await self._router.send_multipart([self._process.instance.encode(), codec.encode(message)])

    # --- etcd -----------------------------------------------------------------------------------------------

    async def _keep_registered(self, registry: Registry) -> None:
        client = store.connect(f"etcd://{','.join(registry.endpoints)}")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._register(client, registry))
                for service in self._uses:
                    tasks.create_task(self._follow(client, registry, service))
        finally:
            await client.close()

    async def _register(self, client: store.Store, registry: Registry) -> None:
        key = f"{registry.prefix.rstrip('/')}/services/{self._service}/{self._process.instance}"
        lease: store.Lease | None = None
        written: dict[str, str] | None = None
        try:
            while True:
                try:
                    if lease is None:
                        lease, written = await client.lease(registry.ttl_s), None
                    else:
                        await lease.keep_alive()
                    if self._endpoints is not None and self._endpoints != written:
                        await client.put(key, self._registration(), lease=lease)
                        written = dict(self._endpoints)
                        self._lines.line("registered", {"key": key})
                except HftctlError as exc:
                    self._lines.line("registration.failed", {"key": key, "reason": str(exc)}, ERROR)
                    lease = None
                    await asyncio.sleep(TRY_AGAIN_S)
                    continue
                await asyncio.sleep(registry.ttl_s / RENEWALS_IN_A_TTL if written is not None else 0.05)
        finally:
            if lease is not None:
                with contextlib.suppress(HftctlError):
                    await lease.revoke()

    def _registration(self) -> bytes:
        address = socket.gethostname()
        me, now_ns = self._process, time.time_ns()
        return model.encode(
            Registration(
                self._service,
                me.instance,
                address,
                me,
                self._endpoints or {},
                address,
                0,
                now_ns,
                self._version,
            )
        )

    async def _follow(self, client: store.Store, registry: Registry, service: str) -> None:
        async for snapshot in client.watch(f"{registry.prefix.rstrip('/')}/services/{service}/"):
            found = []
            for entry in snapshot.entries.values():
                try:
                    registration = model.decode(Registration, entry.value)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # somebody else's, and no reason to stop
                found.append(control.Peer(registration.instance, dict(registration.endpoints), "", 0))
            self._found[service] = sorted(found, key=lambda peer: peer.instance)
            if self._endpoints is not None:
                await self._tell_peers(service)
