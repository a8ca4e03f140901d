"""In the agent's place for a standalone daemon: answers hello, keeps it registered, tells it its peers.

Speaks the same messages over the same kind of socket as an agent (wire/control.py), from a thread with an
event loop of its own, so that the daemon's loop notices no difference. It supervises nothing and makes nobody
leader. Registration and discovery are controlplane/registry's, as they are for a daemon under an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import zmq
import zmq.asyncio

from controlplane import registry, store
from controlplane.errors import HftctlError, InUse, InvalidInput
from controlplane.host import system_clock
from controlplane.host.system_clock import SystemClock
from controlplane.model import Process, bounds
from controlplane.model.records import Registration
from controlplane.site.view import SiteView
from hftd.runtime.log import ERROR, INFO, Log
from hftd.standalone.health import Health
from hftd.wire import codec, control

CHECK_S = 10.0

RENEWALS_IN_A_TTL = 3
"""Two may fail in a row."""

STOP_S = 2.0
"""For taking the registration back; then its lease ends by itself."""

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
    """An endpoint from the file; it overrides discovery."""

    daemon: str
    socket: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Checked:
    """How Consul asks whether the daemon is well."""

    every_s: float
    port: int
    """Of loopback; 0: any free one."""


@dataclass(frozen=True, slots=True)
class RegistryAt:
    """Where to register and to look for peers."""

    address: str
    """Of the store, as store.connect takes it."""
    keys: store.Keys
    ttl_s: float
    """How long the registration outlives a daemon that was killed."""
    checked: Checked | None = None
    """On Consul: how it is probed."""


class StandaloneAgent:
    def __init__(
        self,
        endpoint: str,
        service: str,
        version: str,
        process: Process,
        uses: Mapping[str, str],
        explicit: Mapping[str, Explicit],
        registry_at: RegistryAt | None,
        lines: Log,
    ) -> None:
        """`uses`: service -> daemon that it runs. Without `registry_at` only explicit endpoints are known."""
        self._endpoint = endpoint
        self._service, self._version, self._process = service, version, process
        self._uses = uses
        self._explicit = explicit
        self._registry_at = registry_at
        self._lines = lines
        self._registry: registry.Registry | None = None
        self._started_ns = time.time_ns()
        self._link = b""
        """Where the daemon has said hello: what it is told from now on arrives."""
        self._seq = 0
        self._health = Health(process.instance)
        self._health_port = 0
        self._discovery: registry.Discovery | None = None
        self._tokens: list[codec.TokenOnWire] = []
        self._bound: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="standalone agent", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns once its socket is bound.

        Raises:
            InvalidInput: it cannot be; the reason is named.
        """
        self._thread.start()
        try:
            self._bound.result()
        except zmq.ZMQError as exc:
            raise InvalidInput(
                f"control socket {self._endpoint}: {exc.strerror}; XDG_RUNTIME_DIR must be a short path to a "
                "folder that this user may write to"
            ) from exc

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
        try:
            try:
                self._router.bind(self._endpoint)
            except zmq.ZMQError as exc:
                self._bound.set_exception(exc)
                return
            async with asyncio.TaskGroup() as tasks:
                if self._registry_at is not None:
                    tasks.create_task(self._keep_registered(self._registry_at), name="registry")
                tasks.create_task(self._hear(), name="control socket")
                self._bound.set_result(None)
        finally:
            self._router.close(0)
            context.term()

    async def _hear(self) -> None:
        """Answer the daemon. A frame that does not decode or that another sends is ignored, as an agent does;
        any other error ends this thread, and the daemon runs on without an agent.
        """
        while True:
            frames = await self._router.recv_multipart()
            try:
                message = control.decode_from_daemon(frames[-1])
            except InvalidInput:
                continue
            if self._link and frames[0] != self._link:
                continue  # not the daemon, which is this process and has one connection
            if isinstance(message, control.Hello) and message.process.process() == self._process:
                self._link = frames[0]
                if self._registry is not None:
                    self._registry.register(self._registration(message.endpoints))
                await self._tell(control.Welcome(*self._envelope(), 1))
                await self._tell(control.Tokens(*self._envelope(), self._tokens))
                for service in self._uses:
                    await self._tell_peers(service)
            elif isinstance(message, control.Status) and self._link:
                self._health.heard(ready=message.ready)
                await self._tell(control.Welcome(*self._envelope(), 1))

    async def _tell_peers(self, service: str) -> None:
        explicit = self._explicit.get(service)
        if explicit is not None:
            peers = [control.Peer(f"{service}-explicit", {explicit.socket: explicit.endpoint}, "", 0)]
        else:
            found = self._discovery.peers(service) if self._discovery is not None else ()
            peers = [
                control.Peer(each.instance, dict(each.endpoints), each.role, each.epoch) for each in found
            ]
        await self._tell(control.Peers(*self._envelope(), service, self._uses[service], peers))

    def _envelope(self) -> tuple[int, int, int, str, None]:
        self._seq += 1
        return (codec.VERSION, self._seq, time.time_ns(), "standalone", None)

    async def _tell(self, message: control.FromAgent) -> None:
        await self._router.send_multipart([self._link, codec.encode(message)])

    # --- registration and discovery -------------------------------------------------------------------------

    async def _keep_registered(self, at: RegistryAt) -> None:
        client = store.connect(at.address)
        serving = None
        if at.checked is not None:
            try:
                serving = await self._health.serve(at.checked.port)
            except InUse as exc:
                self._report("registration.refused", {"reason": str(exc), "instead": "any free port"})
                serving = await self._health.serve(0)
            self._health_port = serving.port
        self._registry = kept = registry.of(
            client,
            at.keys,
            SystemClock(),
            ttl_s=at.ttl_s,
            keep_s=at.ttl_s / RENEWALS_IN_A_TTL,
            check_s=at.checked.every_s if at.checked else CHECK_S,
            report=self._report,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kept.run(), name="registration")
                tasks.create_task(self._discover(client, at.keys), name="discovery")
        finally:
            with contextlib.suppress(HftctlError):  # it leaves by its lease
                await kept.close()
            await client.close()
            if serving is not None:
                await serving.close()

    def _report(self, kind: str, fields: Mapping[str, object]) -> None:
        self._lines.line(kind, fields, ERROR if kind in registry.WARNINGS else INFO)

    def _registration(self, endpoints: Mapping[str, str]) -> Registration:
        address = socket.gethostname()
        return Registration(
            service=self._service,
            instance=self._process.instance,
            host=address,
            process=self._process,
            endpoints=dict(endpoints),
            address=address,
            port=self._health_port,
            check=self._health.url(self._health_port) if self._health_port else "",
            timestamp_ns=self._started_ns,
            version=self._version,
        )

    async def _discover(self, client: store.Store, keys: store.Keys) -> None:
        """Tell the daemon at each change who serves what it uses, and which token the store holds for each
        group. A record that does not decode, or a token that no store gives out, is left out.
        """
        opened = registry.discovery.followed(client, keys, report=self._report, catalogue=False)
        async with opened as (found, follower):
            self._discovery = found
            news = follower.news("specs", "services", "led", "epoch", "undecodable")
            await follower.first_view()
            changed = set(self._uses)
            while True:
                if self._link:
                    for service in sorted(changed.intersection(self._uses)):
                        await self._tell_peers(service)
                tokens = tokens_of(follower.view, keys) if follower.view is not None else []
                if tokens != self._tokens:
                    self._tokens = tokens
                    if self._link:
                        await self._tell(control.Tokens(*self._envelope(), tokens))
                changes = await news.next()
                changed = {name for kind in registry.discovery.KINDS for name in changes.get(kind, ())}


def tokens_of(view: SiteView, keys: store.Keys) -> list[codec.TokenOnWire]:
    """In order of group. Of a group whose record does not decode now nothing is confirmed."""
    now_ms = system_clock.latest_wall_ns() // 1_000_000
    return [
        codec.TokenOnWire(held.incarnation, group, held.epoch)
        for group, held in sorted(view.epochs.items())
        if keys.epoch(group) not in view.undecodable and bounds.believable(held.incarnation, now_ms)
    ]
