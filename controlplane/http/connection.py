"""One connection: requests one after another, each read whole within its limits, handed to the application
and answered.

What a client can do wrong is answered in JSON and closes the connection (`Refused`): bytes that are not HTTP
400, too slow 408, too large 413 and 431, a name that is not ours 421, a method that this listener does not
serve 405, another version 505.

A question (GET, HEAD) whose client goes away is cancelled; anything else was begun for a reason and
runs to its end, and only its answer is dropped. A handler that raises or never answers is a 500 or 503 and a
report; it ends neither the server nor, if the response had not started, the connection. A half-closed
connection counts as gone, as a client that leaves and one that only stops sending look alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio
import h11
import msgspec

from controlplane.http import host_header
from controlplane.http.deadline import Deadline
from controlplane.http.framing import QUESTIONS, Framing
from controlplane.http.limits import Limits
from controlplane.http.peer import EXTENSION, Peer
from controlplane.http.repeats import Head, Repeats

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""ASGI 3."""
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
Report = Callable[..., None]
"""report(kind, **fields): an event of the process."""

READ_BYTES = 16 << 10
"""At once, and the buffer of each connection."""
WRITE_BYTES = 64 << 10
"""A piece of a response, which `write_s` is for."""
LINGER_S = 1.0
"""After a refusal, for the client to read it: closing at once with bytes unread would reset the connection
and could take the answer with it."""
LINGER_READS = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener asks of every request."""

    where: str
    """Address and port, or the path of the socket."""
    methods: frozenset[str] | None
    """None: all."""
    names: frozenset[str] | None
    """What Host may be besides addresses; None: not checked (a unix socket)."""
    limits: Limits
    repeats: Repeats


class Refused(Exception):
    """The client's fault; the connection closes."""

    def __init__(self, http_status: int, why: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(why)
        self.http_status, self.why, self.headers = http_status, why, headers


class Gone(ConnectionError):
    """The client went away, or does not read. ASGI: `send` raises an OSError then."""


class Protocol(asyncio.StreamReaderProtocol, asyncio.BufferedProtocol):
    """Feeds the reader, and says at once when the client has gone, also while a handler runs.

    It reads into a buffer of its own: asyncio would allocate 256 KiB for each read, and where the heap has no
    such piece to spare, that is two page faults a request, a third of its cost.
    """

    on_gone: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, reader: asyncio.StreamReader, connected: Connected) -> None:
        super().__init__(reader, connected)
        self._buffer = bytearray(READ_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> bool | None:
        kept = super().eof_received()
        self.on_gone()
        return kept

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.on_gone()


class Connection:
    def __init__(
        self,
        app: Application,
        terms: Terms,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer | None,
        report: Report,
    ) -> None:
        self._app, self._terms, self._limits = app, terms, terms.limits
        self._reader, self._writer, self._peer, self._report = reader, writer, peer, report
        self._framing = Framing(terms.limits.header_bytes_max, terms.repeats)
        self._exchange: Exchange | None = None
        self._stopping = False
        self.deadline = Deadline()
        """For the client to send something, then for the handler to begin its response."""
        client = writer.get_extra_info("peername")
        self._client = client[:2] if isinstance(client, tuple) else None
        self.gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Connection to {self._terms.where}: {'busy' if self._exchange else 'idle'}>"

    def client_gone(self) -> None:
        self.gone.set()
        if self._exchange is not None:
            self._exchange.client_gone()

    def stop(self) -> None:
        """Close when idle, else after the response that is being made."""
        self._stopping = True
        if self._exchange is None:
            self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def run(self) -> None:
        """Until either side closes. Never raises, save when cancelled."""
        wait_s = self._limits.head_s
        try:
            while await self._one(wait_s) and not self._stopping:
                wait_s = self._limits.idle_s
        except (Refused, h11.RemoteProtocolError) as exc:
            await self._refuse(exc)
        except OSError:
            self._writer.transport.abort()
        finally:
            self.deadline.close()
            await self._close()

    async def _one(self, wait_s: float) -> bool:
        """One request and its response; whether the connection can be used again."""
        if (request := await self._request(wait_s)) is None:
            return False
        self._exchange = Exchange(self, self._scope(request[0]), request[1])
        try:
            await self._exchange.run(self._app)
        finally:
            self._exchange = None
        return self._framing.end()

    # --- reading --------------------------------------------------------------------------------------------

    async def _request(self, wait_s: float) -> tuple[Head, bytes] | None:
        """The next one, checked, and its body; None when the client has closed or sends nothing."""
        if not self._framing.pending:
            self.deadline.set(wait_s, self._silent)
            received = await self._reader.read(READ_BYTES)
            self.deadline.clear()
            if (known := self._framing.known(received)) is not None:
                return known, b""
            self._framing.receive(received)
        try:
            event = await self._event(self._limits.head_s)
        except TimeoutError:
            raise Refused(408, f"no whole request within {self._limits.head_s:g} s") from None
        if not isinstance(event, h11.Request):
            return None
        self._check(event)
        return Head.of(event), await self._body(event)

    def _silent(self) -> None:
        """The client has sent nothing in time: `_request` reads that it has closed."""
        transport = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # the reader takes nothing after its end
        self._reader.feed_eof()

    async def _event(self, within_s: float) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises TimeoutError. Most requests have come whole: no timer is set for them."""
        if (event := self._framing.event()) is h11.NEED_DATA:
            async with asyncio.timeout(within_s):
                while (event := self._framing.event()) is h11.NEED_DATA:
                    self._framing.receive(await self._reader.read(READ_BYTES))
        return event

    def _check(self, request: h11.Request) -> None:
        limits, terms = self._limits, self._terms
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size > limits.header_bytes_max:
            raise Refused(431, f"headers of {size} bytes; at most {limits.header_bytes_max}")
        if request.http_version not in (b"1.0", b"1.1"):
            raise Refused(505, f"HTTP/{request.http_version.decode('latin-1')} is not spoken here, only 1.1")
        if not request.target.startswith(b"/"):
            raise Refused(400, "the request's target must be a path")
        method = request.method.decode("latin-1")
        if terms.methods is not None and method not in terms.methods:
            allowed = ", ".join(sorted(terms.methods))
            raise Refused(
                405,
                f"{method} is not served on {terms.where}, only {allowed}; changes go over the unix socket",
                ((b"Allow", allowed.encode()),),
            )
        if terms.names is not None:
            # None at all is HTTP/1.0, which no browser speaks: some load balancers' checks do.
            found = _header(request, b"host")
            if found is not None and not host_header.admitted(found, terms.names):
                raise Refused(421, f"Host {found!r} is not a name of this server")

    async def _body(self, request: h11.Request) -> bytes:
        """Whole: handlers wait for nothing that a client sends."""
        most = self._limits.body_bytes_max
        declared = _header(request, b"content-length")
        if declared is not None and _header(request, b"transfer-encoding") is not None:
            raise Refused(400, "Content-Length and Transfer-Encoding exclude each other")
        if declared is not None and int(declared) > most:
            raise Refused(413, f"a body of {declared} bytes; at most {most}")
        await self.write(self._framing.go_on())
        body = bytearray()
        loop = asyncio.get_running_loop()
        deadline_mono_s = loop.time() + self._limits.body_s
        try:
            while isinstance(event := await self._event(deadline_mono_s - loop.time()), h11.Data):
                body += event.data
                if len(body) > most:
                    raise Refused(413, f"a body of more than {most} bytes")
        except TimeoutError:
            raise Refused(408, f"no whole body within {self._limits.body_s:g} s") from None
        return bytes(body)

    def _scope(self, head: Head) -> Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.http_version,
            "method": head.method,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": list(head.headers),
            "client": self._client,
            "server": None,
            "extensions": {} if self._peer is None else {EXTENSION: self._peer},
        }

    # --- writing --------------------------------------------------------------------------------------------

    def start(self, http_status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The head of a response. So for `part`: empty when it waits for more.

        Raises:
            h11.LocalProtocolError: the application's messages do not make a response.
        """
        if self._stopping:
            headers = [*headers, (b"Connection", b"close")]
        return self._framing.start(http_status, headers)

    def part(self, body: bytes, last: bool) -> bytes:
        return self._framing.part(body, last)

    async def write(self, data: bytes) -> None:
        """Raises Gone."""
        if not data:
            return
        for begin in range(0, len(data), WRITE_BYTES):
            if self.gone.is_set():
                raise Gone(f"{self._terms.where}: the client has gone")
            self._writer.write(data[begin : begin + WRITE_BYTES])
            if self._writer.transport.get_write_buffer_size():
                await self._drain()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._limits.write_s):
                await self._writer.drain()
        except OSError as exc:  # TimeoutError among them
            self._writer.transport.abort()
            self.gone.set()
            raise Gone(f"{self._terms.where}: the client does not read") from exc

    async def error(self, http_status: int, why: str, *headers: tuple[bytes, bytes]) -> None:
        """The one shape of errors, from the server itself."""
        body = msgspec.json.encode({"error": why})
        head = self.start(
            http_status,
            [
                (b"Content-Type", b"application/json"),
                (b"Content-Length", b"%d" % len(body)),
                *headers,
            ],
        )
        await self.write(head + self.part(body, last=True))

    async def _refuse(self, exc: Refused | h11.RemoteProtocolError) -> None:
        if not self._framing.unanswered:
            return
        close = (b"Connection", b"close")
        try:
            if isinstance(exc, Refused):
                await self.error(exc.http_status, exc.why, close, *exc.headers)
            else:
                await self.error(exc.error_status_hint, f"not HTTP as this server speaks it: {exc}", close)
            await self._linger()
        except (OSError, h11.LocalProtocolError):
            self._writer.transport.abort()

    async def _linger(self) -> None:
        self._writer.write_eof()
        try:
            async with asyncio.timeout(LINGER_S):
                for _ in range(LINGER_READS):
                    if not await self._reader.read(WRITE_BYTES):
                        return
        except TimeoutError:
            pass

    async def _close(self) -> None:
        """Flushed within `write_s`, or cut off."""
        self._writer.close()
        if self._writer.transport.get_write_buffer_size():
            try:
                async with asyncio.timeout(self._limits.write_s):
                    await self._writer.wait_closed()
            except OSError:
                pass
            finally:
                self._writer.transport.abort()

    def failed(self, scope: Message, why: str) -> None:
        self._report("http.failed", method=scope["method"], path=scope["path"], reason=why)

    @property
    def limits(self) -> Limits:
        return self._limits


class Exchange:
    """One request in the application's hands, and the response as its messages make it."""

    def __init__(self, connection: Connection, scope: Message, body: bytes) -> None:
        self._connection, self._scope, self._body = connection, scope, body
        self._question = scope["method"] in QUESTIONS
        self._cancel = anyio.CancelScope()
        self._received = False
        self._head = b""
        """Of a response whose length is known: it leaves together with the first bytes of the body."""
        self._started = self._finished = self._dropped = False

    def client_gone(self) -> None:
        if self._question:
            self._cancel.cancel()

    async def run(self, app: Application) -> None:
        """Until the response is whole.

        Raises:
            Gone: the client went, or does not read, or the response broke off.
        """
        connection, why = self._connection, ""
        connection.deadline.set(connection.limits.handle_s, self._cancel.cancel)
        with self._cancel:
            why = await self._failure(app)
        connection.deadline.clear()
        if self._cancel.cancelled_caught and not connection.gone.is_set():
            why = f"no response within {connection.limits.handle_s:g} s"
        if why:
            connection.failed(self._scope, why)
        if connection.gone.is_set():
            raise Gone("the client has gone")
        if not self._finished:
            if self._started:
                raise Gone("the response cannot be finished")  # cut off, so that nobody takes it for whole
            await connection.error(503 if self._cancel.cancelled_caught else 500, why)

    async def _failure(self, app: Application) -> str:
        """Why there is no response, or no whole one; empty when there is. An error of the application ends
        here, whatever it is; only our own cancellation goes on.
        """
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._cancel.cancel_called or (task is not None and task.cancelling()):
                raise
            return "CancelledError: the handler waited for something that was cancelled"
        except Exception as exc:
            # What the application makes of a client that has gone is not a failure of it.
            return "" if self._dropped else f"{type(exc).__name__}: {exc}"
        return "" if self._finished else "the handler ended without a whole response"

    async def _receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        if not self._finished:
            await self._connection.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        """Raises Gone, and RuntimeError or h11.LocalProtocolError for messages out of order."""
        connection = self._connection
        if message["type"] == "http.response.start" and not self._started:
            self._started = True
            connection.deadline.clear()
            headers = list(message.get("headers", ()))
            self._head = connection.start(message["status"], headers)
            if not any(name.lower() == b"content-length" for name, _ in headers):
                await self._flush(b"")  # a stream: its client learns at once that it is open
        elif message["type"] == "http.response.body" and self._started and not self._finished:
            last = not message.get("more_body", False)
            out = connection.part(bytes(message.get("body", b"")), last)
            self._finished = last
            await self._flush(out)
        else:
            raise RuntimeError(f"{message['type']} out of order")

    async def _flush(self, data: bytes) -> None:
        out, self._head = self._head + data, b""
        try:
            await self._connection.write(out)
        except Gone:
            self._dropped = True
            raise


def _header(request: h11.Request, name: bytes) -> str | None:
    return next((value.decode("latin-1") for found, value in request.headers if found == name), None)
