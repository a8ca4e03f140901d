"""Calls to etcd over several endpoints: connect, one try with its own deadline, then the next endpoint.

Promises: no call waits longer than `try_s` for one endpoint; every error leaves as one of controlplane.errors
(errors.py); a write that may have been applied is never sent twice, but raised as
Unavailable(ambiguous=True). The keys and values are in client.py, watches in watch.py.

Why connections are thrown away instead of left to grpc: its back-off grows to minutes, and it does not notice
a hung server for as long (seen with grpcio 1.85: 25 to 40 s); a fresh channel connects at once. Never turn on
grpc's keepalive below 5 s: etcd answers GOAWAY too_many_pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from controlplane.errors import Denied, HftctlError, InvalidSettings, Unavailable
from controlplane.host import files
from controlplane.settings import StoreSettings
from controlplane.store.base import Entry
from controlplane.store.endpoint import SOCKET, on_this_machine, parse_endpoint
from controlplane.store.etcd import errors
from controlplane.store.etcd.rpc import etcd_pb2 as rpc
from controlplane.store.names import Name
from controlplane.store.preference import Preference

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""A page of a list (etcd.PAGE_KEYS values of 512 KiB would be more, but ours are below 10 KiB); grpc's own
default is 4 MiB."""

SILENT_TRIES_MAX = 2
"""So many tries without an answer in a row, and the connection is given up: it may lead to a machine that is
gone."""

_HINTS = {
    "Handshake read failed": "as from a server without TLS",
    "TSI_DATA_CORRUPTED": "as from a server that wants the certificate of a client, store.cert_file",
    "Socket closed": "as from a server that wants TLS, store.ca_file",
}
"""What grpc says of the commonest wrong settings, without naming them; the first that is found counts (seen
with grpcio 1.85)."""

WHY_S = 0.05
"""For the reason of a failed connection; known already, it comes at once."""

AUTHENTICATE_S = 2.0
"""etcd hashes the password with bcrypt, which takes 0.1 s on an idle core."""

DRAIN_S = 0.02
"""After closing: the last events of cancelled streams come a moment later, and if this loop were closed by
then they would be an error in whichever loop of the process comes next (grpc has one queue for all)."""

METHODS: dict[str, tuple[str, Any]] = {
    "Range": ("/etcdserverpb.KV/Range", rpc.RangeResponse),
    "Put": ("/etcdserverpb.KV/Put", rpc.PutResponse),
    "DeleteRange": ("/etcdserverpb.KV/DeleteRange", rpc.DeleteRangeResponse),
    "Txn": ("/etcdserverpb.KV/Txn", rpc.TxnResponse),
    "Compact": ("/etcdserverpb.KV/Compact", rpc.CompactionResponse),
    "LeaseGrant": ("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse),
    "LeaseRevoke": ("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse),
    # A stream of one request and one answer is a unary call on the wire: each renewal gets its own deadline
    # and endpoint, and no stream can hang.
    "LeaseKeepAlive": ("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse),
    "Status": ("/etcdserverpb.Maintenance/Status", rpc.StatusResponse),
    "MemberList": ("/etcdserverpb.Cluster/MemberList", rpc.MemberListResponse),
    "Authenticate": ("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse),
}
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
WATCH = "/etcdserverpb.Watch/Watch"

_OPTIONS = (
    (
        "grpc.enable_http_proxy",
        0,
    ),  # the store is in our own network; a proxy variable of the shell must not come between
    (
        "grpc.use_local_subchannel_pool",
        1,
    ),  # a new channel means a new connection, not the hung one of the old
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)


def serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def range_start(prefix: str) -> bytes:
    return prefix.encode() or b"\0"


def range_end(prefix: str) -> bytes:
    """The first key after all that start with the prefix; for the empty prefix etcd's sign for the end of all
    keys.
    """
    head = prefix.encode()
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"  # text in UTF-8 never ends in 0xff


def entry_of(kv: rpc.KeyValue) -> Entry:
    return Entry(kv.key.decode(errors="replace"), kv.value, kv.mod_revision, kv.lease != 0)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try gave: a response, or an error and what to make of it."""

    response: Any = None
    error: HftctlError | None = None
    verdict: errors.Verdict = errors.NOT_APPLIED


class Endpoint:
    """One member of the cluster and the connection to it, made when first used."""

    def __init__(self, address: str, settings: StoreSettings) -> None:
        self.address = address
        self.silent_tries = 0
        self._settings = settings
        self._credentials = _credentials(settings)
        self._name = Name(address.rpartition(":")[0])
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    def open_channel(self) -> grpc.aio.Channel:
        """A new channel, for the caller to close. It shows the certificates as they are now: renewed files
        need no restart.
        """
        with contextlib.suppress(
            InvalidSettings
        ):  # a file gone for a moment, while it is renewed: the last ones once more
            self._credentials = _credentials(self._settings)
        target, options = self._target()
        if self._credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, self._credentials, options=options)

    async def named(self, timeout_s: float) -> None:
        """Return once its name is known, or has been asked for in vain."""
        if self.address.startswith(SOCKET) or self._name.literal or self._channel is not None:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._name.addresses()

    def _target(self) -> tuple[str, tuple[tuple[str, Any], ...]]:
        """By the addresses that its name had when it was last answered, so that a name server that is away
        takes no store with it; the certificate is still the name's.
        """
        known = [] if self.address.startswith(SOCKET) or self._name.literal else self._name.known()
        if not known:
            return self.address, _OPTIONS
        port, host = self.address.rpartition(":")[2], self._name.host
        family = 6 if ":" in known[0] else 4
        same = [each for each in known if (":" in each) == (family == 6)]
        places = ",".join(f"[{each}]:{port}" if family == 6 else f"{each}:{port}" for each in same)
        names = (("grpc.default_authority", f"{host}:{port}"), ("grpc.ssl_target_name_override", host))
        return f"ipv{family}:{places}", (*_OPTIONS, *names)

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self.open_channel()
        return self._channel

    def call(self, method: str) -> Any:
        if method not in self._calls:
            path, response = METHODS[method]
            self._calls[method] = self.channel.unary_unary(
                path, request_serializer=serialize, response_deserializer=response.FromString
            )
        return self._calls[method]

    def drop(self, channel: grpc.aio.Channel | None = None) -> grpc.aio.Channel | None:
        """Forget the connection (if it still is `channel`) and return it for closing; the next call makes a
        new one.
        """
        if self._channel is None or channel not in (None, self._channel):
            return None
        dropped, self._channel, self._calls, self.silent_tries = self._channel, None, {}, 0
        return dropped


async def connected(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Whether the channel is ready within the time. Only what is sent on a ready channel can have been
    applied.
    """
    state = channel.get_state(try_to_connect=True)
    if state is grpc.ChannelConnectivity.READY:
        return True
    try:
        async with asyncio.timeout(timeout_s):
            while state is not grpc.ChannelConnectivity.READY:
                if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                    return False
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True


async def why_not(channel: grpc.aio.Channel) -> str:
    """Why a channel is not ready. grpc tells it only to a call, so one is sent that would change nothing."""
    if channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        return "no answer"
    path, response = METHODS["Status"]
    try:
        await channel.unary_unary(
            path, request_serializer=serialize, response_deserializer=response.FromString
        )(rpc.StatusRequest(), timeout=WHY_S)
    except grpc.aio.AioRpcError as exc:
        said = " ".join((exc.details() or exc.code().name).rpartition("last error: ")[2].split())
        return next((f"{said} ({hint})" for sign, hint in _HINTS.items() if sign in said), said)
    return "no reason was given in time"


class Calls:
    """The endpoints of one cluster, the one that answered last in front."""

    def __init__(self, endpoints: Sequence[str], settings: StoreSettings) -> None:
        addresses = list(dict.fromkeys(map(parse_endpoint, endpoints)))
        if not addresses:
            raise InvalidSettings("store: no endpoint; wanted at least one HOST:PORT")
        for address in addresses:
            if settings.ca_file is None and not on_this_machine(address):
                raise InvalidSettings(
                    f'store endpoint "{address}": plain text to another machine, for anybody between to read '
                    "and change; wanted TLS (store.ca_file) and an identity (store.cert_file or store.user)"
                )
        self.settings = settings
        self.endpoints = [Endpoint(address, settings) for address in addresses]
        self.closed = False
        self.heard_boot_ns = 0
        """When a watch of this client last heard the store."""
        self._preference = Preference(len(self.endpoints))
        self._token = ""
        self._authenticating = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(endpoint.address for endpoint in self.endpoints)

    def preferred(self) -> Endpoint:
        return self.endpoints[self._preference.first]

    def prefer_next(self, after: Endpoint) -> None:
        self._preference.failed(self.endpoints.index(after))

    async def unary(self, method: str, request: Any, *, writes: bool = False) -> Any:
        """Call `method` at one endpoint after another until one answers.

        Raises:
            Unavailable: no endpoint answered; ambiguous if this is a write that some endpoint may have taken.
            Compacted, LeaseLost, Denied, TooLarge, InvalidInput, Refused: the store's own answer.
        """
        await self.authenticated()
        error: HftctlError = Unavailable("store etcd: no try was made")
        # Twice even with one endpoint: the first try may only have found out that the old connection is dead.
        tries, authenticated_again = max(2, len(self.endpoints)), False
        while tries > 0:
            tries -= 1
            endpoint = self.preferred()
            token = self._token
            attempt = await self.attempt(endpoint, method, request, self.settings.try_s, writes=writes)
            if attempt.error is None:
                return attempt.response
            error = attempt.error
            if attempt.verdict.authenticate and self.settings.user and not authenticated_again:
                authenticated_again = True
                tries += 1
                await self.authenticated(stale=token)
            elif not isinstance(error, Unavailable):
                raise error
            else:
                self.prefer_next(endpoint)  # whoever reads what became of it asks another member first
                if error.ambiguous:
                    raise error
        raise error

    async def attempt(
        self,
        endpoint: Endpoint,
        method: str,
        request: Any,
        timeout_s: float,
        *,
        writes: bool = False,
        leader: bool = True,
    ) -> Attempt:
        """One try at one endpoint."""
        what = f"store etcd {endpoint.address}: {method}"
        if self.closed:
            return Attempt(error=Unavailable(f"{what}: this client is closed"))
        before_s = time.monotonic()
        await endpoint.named(timeout_s)
        channel = endpoint.channel
        ready = False
        try:
            ready = await connected(channel, timeout_s)
            waited_s = time.monotonic() - before_s
            if not ready:
                why = await why_not(channel)
                self.retire(endpoint, channel)
                return Attempt(
                    error=Unavailable(
                        f"{what}: no connection (waited {waited_s:.2f} of {timeout_s} s): {why}"
                    )
                )
            left_s = max(0.001, timeout_s - waited_s)
            response = await endpoint.call(method)(
                request, timeout=left_s, metadata=self.metadata(leader=leader)
            )
        except grpc.aio.AioRpcError as exc:
            code, text = exc.code().name, exc.details() or ""
            self._learn(endpoint, channel, code)
            verdict = errors.classify(code, text)
            error = errors.translate(verdict, what, code, text, writes=writes)
            error.__cause__ = exc
            return Attempt(error=error, verdict=verdict)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or not self._is_closed():
                raise
            # Not ours: grpc reports the closing of a channel as a cancellation of whoever waits on it.
            return Attempt(error=Unavailable(f"{what}: this client was closed", ambiguous=writes and ready))
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as exc:
            self.retire(endpoint, channel)
            error = Unavailable(f"{what}: {exc or type(exc).__name__}", ambiguous=writes and ready)
            error.__cause__ = exc
            return Attempt(error=error)
        endpoint.silent_tries = 0
        self._preference.answered(self.endpoints.index(endpoint))
        return Attempt(response)

    def metadata(self, *, leader: bool = True) -> tuple[tuple[str, str], ...]:
        asked = (("hasleader", "true"),) if leader else ()
        return (*asked, ("token", self._token)) if self._token else asked

    def _learn(self, endpoint: Endpoint, channel: grpc.aio.Channel, code: str) -> None:
        if code == "DEADLINE_EXCEEDED":
            endpoint.silent_tries += 1
            if endpoint.silent_tries >= SILENT_TRIES_MAX:
                self.retire(endpoint, channel)
        elif code == "UNAVAILABLE":
            if channel.get_state() is not grpc.ChannelConnectivity.READY:
                self.retire(endpoint, channel)
        else:
            endpoint.silent_tries = 0

    def retire(self, endpoint: Endpoint, channel: grpc.aio.Channel) -> None:
        """Stop using a connection; what is under way on it may still end in its own time."""
        dropped = endpoint.drop(channel)
        if dropped is not None:
            task = asyncio.create_task(
                dropped.close(2 * self.settings.try_s), name=f"etcd {endpoint.address}: close"
            )
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- authentication -------------------------------------------------------------------------------------

    async def authenticated(self, stale: str | None = None) -> None:
        """Have a token other than `stale`; nothing to do without a user. Raises Denied, Unavailable."""
        if not self.settings.user or (self._token and self._token != stale):
            return
        async with self._authenticating:
            if self._token and self._token != stale:
                return
            request = rpc.AuthenticateRequest(name=self.settings.user, password=self._password())
            self._token = ""
            error: HftctlError = Unavailable("store etcd: no try was made")
            for _ in self.endpoints:
                endpoint = self.preferred()
                attempt = await self.attempt(
                    endpoint, "Authenticate", request, max(AUTHENTICATE_S, self.settings.try_s)
                )
                if attempt.error is None:
                    self._token = attempt.response.token
                    return
                error = attempt.error
                if "authentication is not enabled" in str(error):
                    return  # a store that asks for no password has no use for ours
                if not isinstance(error, Unavailable):
                    raise error
                self.prefer_next(endpoint)
            raise error

    def _password(self) -> str:
        file = self.settings.password_file
        assert file is not None  # StoreSettings wants both or neither
        try:
            return files.read_regular(file).decode(errors="replace").strip()
        except OSError as exc:
            raise Denied(
                f'store user "{self.settings.user}": the password file {file} cannot be read: {exc.strerror}'
            ) from exc

    def _is_closed(self) -> bool:
        return self.closed  # asked again after an await: another task may have closed it meanwhile

    async def close(self) -> None:
        used = not self.closed
        self.closed = True
        for endpoint in self.endpoints:
            channel = endpoint.drop()
            if channel is not None:
                await channel.close()
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if used:
            await asyncio.sleep(DRAIN_S)


def _credentials(settings: StoreSettings) -> grpc.ChannelCredentials | None:
    if settings.ca_file is None:
        return None
    try:
        key = files.read_regular(settings.key_file) if settings.key_file is not None else None
        certificate = files.read_regular(settings.cert_file) if settings.cert_file is not None else None
        return grpc.ssl_channel_credentials(files.read_regular(settings.ca_file), key, certificate)
    except OSError as exc:
        raise InvalidSettings(f"store certificates: {exc.filename} cannot be read: {exc.strerror}") from exc
