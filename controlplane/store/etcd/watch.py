"""A watch that goes on for ever: list, follow from the next revision, resume after any break, list again when
the history is gone.

Promises: no change is lost and none is shown twice or out of order; a slow reader gets the newest state, not
a queue (latest.py); a server that hangs without closing the connection is noticed in `probe_every_s +
probe_answer_s` and another endpoint is tried; a loop of failures is slowed down by a token bucket. Each
connection is the watch's own, so that giving it up harms no call.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Protocol

import grpc
import grpc.aio

from controlplane.clock import Clock
from controlplane.errors import Compacted, HftctlError, Unavailable
from controlplane.resilience import backoff
from controlplane.store.base import Snapshot
from controlplane.store.etcd import calls, errors
from controlplane.store.etcd.calls import Calls
from controlplane.store.etcd.rpc import etcd_pb2 as rpc
from controlplane.store.followed import FollowedWatch
from controlplane.store.latest import Latest

BURST = 10
PER_S = 4.0
"""Reconnections: ten at once (a rolling restart of the cluster), then four a second: quick to come back,
cheap through a long outage."""

SPREAD_S = 0.1
"""A crowd that lost its member comes back within this, not at one moment."""


DRAIN_S = 0.2
"""grpc ends a cancelled stream in microseconds; this only bounds the wait for it."""


class Listing(Protocol):
    """What a watch needs of the store that it is of."""

    clock: Clock
    calls: Calls

    async def list_range(self, prefix: str) -> tuple[Snapshot, int]: ...


class EtcdWatch(FollowedWatch):
    def __init__(self, store: Listing, prefix: str) -> None:
        super().__init__(f"etcd watch {prefix}", lambda latest: _Resumed(store, prefix, latest).run())


class _Resumed:
    """The task behind a watch."""

    def __init__(self, store: Listing, prefix: str, latest: Latest) -> None:
        self._store = store
        self._calls = store.calls
        self._prefix = prefix
        self._latest = latest
        self._revision = 0
        """Everything up to here is in `latest`; 0: list first."""
        self._cluster_id = 0
        self._endpoint = 0
        self._bucket = backoff.Bucket(BURST, PER_S)

    async def run(self) -> None:
        while not self._calls.closed:
            delay_s = self._bucket.take(time.monotonic())
            await asyncio.sleep(delay_s and delay_s + random.random() * SPREAD_S)
            try:
                if self._revision == 0:
                    await self._list()
                await self._follow(self._calls.endpoints[self._endpoint % len(self._calls.endpoints)])
            except Compacted:
                self._revision = 0
                self._endpoint += 1
            except HftctlError:
                # Unavailable: the next endpoint. Denied and the like: an operator may mend it while we wait;
                # the age of the view shows it.
                self._endpoint += 1
                await asyncio.sleep(random.random() * SPREAD_S)

    async def _list(self) -> None:
        before_ns = self._store.clock.boot_ns()
        snapshot, self._cluster_id = await self._store.list_range(self._prefix)
        self._latest.replace(snapshot)
        self._latest.confirmed_boot_ns = before_ns
        self._revision = snapshot.revision

    async def _follow(self, endpoint: calls.Endpoint) -> None:
        """Follow one stream until it breaks; always raises. Compacted: list again."""
        what = f"store etcd {endpoint.address}: Watch {self._prefix}"
        channel = endpoint.open_channel()
        try:
            if not await calls.connected(channel, self._calls.settings.try_s):
                raise Unavailable(f"{what}: no connection in {self._calls.settings.try_s} s")
            await self._calls.authenticated()
            watch = channel.stream_stream(
                calls.WATCH,
                request_serializer=calls.serialize,
                response_deserializer=rpc.WatchResponse.FromString,
            )
            stream = watch(metadata=self._calls.metadata())
            await self._read(stream, what)
        except grpc.aio.AioRpcError as exc:
            code, text = exc.code().name, exc.details() or ""
            verdict = errors.classify(code, text)
            if verdict.authenticate:
                await self._calls.authenticated(stale=dict(self._calls.metadata()).get("token"))
            raise errors.translate(verdict, what, code, text, writes=False) from exc
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as exc:
            raise Unavailable(f"{what}: {exc or type(exc).__name__}") from exc
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Unavailable(f"{what}: the stream was cancelled") from None  # by grpc, not by us
        finally:
            await channel.close()

    async def _read(self, stream: Any, what: str) -> None:
        settings = self._calls.settings
        clock = self._store.clock
        create = rpc.WatchCreateRequest(
            key=calls.range_start(self._prefix),
            range_end=calls.range_end(self._prefix),
            start_revision=self._revision + 1,
        )
        await self._write(stream, rpc.WatchRequest(create_request=create), what)
        asked_ns = clock.boot_ns()
        asked = True  # the creation itself is a question that wants an answer
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                # asyncio.wait, not wait_for: a timeout of wait_for would cancel the read and with it the
                # whole stream.
                reading = reading or asyncio.create_task(stream.read(), name=f"{what}: read")
                timeout_s = settings.probe_answer_s if asked else self._probe_due_s()
                done, _ = await asyncio.wait({reading}, timeout=timeout_s)
                if not done:
                    if not asked and self._probe_due_s() > 0:
                        continue  # another watch has heard the store meanwhile
                    if asked:
                        raise Unavailable(
                            f"{what}: silent, no answer to a probe in {settings.probe_answer_s} s"
                        )
                    asked_ns, asked = clock.boot_ns(), True
                    await self._write(
                        stream, rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()), what
                    )
                    continue
                message, reading = reading.result(), None
                if message is grpc.aio.EOF:
                    raise Unavailable(f"{what}: the server ended the stream ({await stream.code()})")
                self._take(message, what)
                # What is confirmed is the moment of the question, not of the answer: the answer may have been
                # on its way for long.
                self._calls.heard_boot_ns = clock.boot_ns()
                self._latest.confirmed_boot_ns = asked_ns if asked else self._calls.heard_boot_ns
                asked = False
        finally:
            # The stream is cancelled, not the read: grpc then completes the read, and nothing of it stays
            # behind.
            stream.cancel()
            if reading is not None:
                await asyncio.wait({reading}, timeout=DRAIN_S)
                if reading.done() and not reading.cancelled():
                    reading.exception()  # looked at, so that asyncio does not report it

    def _probe_due_s(self) -> float:
        """How long to go on waiting in silence; 0: ask now. A store that answers one watch of this client is
        not silent, so that a client with many quiet watches does not ask for each of them twice a second.
        """
        settings, now_ns = self._calls.settings, self._store.clock.boot_ns()
        heard_s = (now_ns - max(self._calls.heard_boot_ns, self._latest.confirmed_boot_ns)) / 1e9
        own_s = (now_ns - self._latest.confirmed_boot_ns) / 1e9
        return max(0.0, min(settings.probe_every_s - heard_s, settings.quiet_probe_s - own_s))

    async def _write(self, stream: Any, request: rpc.WatchRequest, what: str) -> None:
        """Send, but never wait for ever for a peer that takes nothing."""
        try:
            async with asyncio.timeout(self._calls.settings.probe_answer_s):
                await stream.write(request)
        except TimeoutError as exc:
            raise Unavailable(
                f"{what}: a request could not be sent in {self._calls.settings.probe_answer_s} s"
            ) from exc

    def _take(self, message: rpc.WatchResponse, what: str) -> None:
        if message.header.cluster_id and message.header.cluster_id != self._cluster_id:
            raise Compacted(
                f"{what}: this is another cluster ({message.header.cluster_id:x}, before "
                f"{self._cluster_id:x})"
            )
        if message.canceled:
            if message.compact_revision:
                raise Compacted(
                    f"{what}: revision {self._revision + 1} is gone, the oldest is {message.compact_revision}"
                )
            verdict = errors.classify("UNAVAILABLE", message.cancel_reason)
            if "permission denied" in message.cancel_reason or "token" in message.cancel_reason:
                verdict = errors.classify("PERMISSION_DENIED", "")
            raise errors.translate(verdict, what, "canceled", message.cancel_reason, writes=False)
        if message.created and message.header.revision < self._revision:
            # A member that lags, or a store that was set back: a fresh list tells which; following would be
            # silent until it caught up.
            raise Compacted(
                f"{what}: the store is at revision {message.header.revision}, we had {self._revision}"
            )
        if not message.events:
            return
        for event in message.events:
            entry = calls.entry_of(event.kv)
            if event.type == rpc.Event.DELETE:
                self._latest.delete(entry.key)
            else:
                self._latest.put(entry)
        # Only events move our place: the revision of a progress answer may run ahead of events that are still
        # to come (etcd #15220).
        self._revision = max(event.kv.mod_revision for event in message.events)
        self._latest.touch(self._revision)
