"""HTTP/1.1 to one Consul server or agent: over TCP, TLS or a unix socket, connections kept for the next call.

No more than Consul answers with is understood: a status line, headers, and a body with a length or in chunks.
Everything is bounded: the head, the body, and the time, which is the caller's (asyncio.timeout around a call;
a call that is given up closes its connection). A connection carries one call at a time, so that a blocking
query never stands in front of another call.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.errors import Unavailable
from controlplane.store.endpoint import SOCKET
from controlplane.store.names import Name

HEAD_BYTES_MAX = 64 * 1024
BUFFER_BYTES_MAX = 1 << 20
"""Read ahead of a body; a list of megabytes in smaller pieces takes half as long again."""
BODY_BYTES_MAX = 256 << 20
"""A list of a hundred thousand registrations; more is no answer that we could want."""
IDLE_MAX = 16
"""Connections kept for the next calls; those above it are closed after their call."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace").strip()


class Broken(Unavailable):
    """The connection broke, or what came is no HTTP. `ambiguous` says whether the request was on its way."""


class Connection:
    """One call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def usable(self) -> bool:
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: bytes) -> tuple[Answer, bool]:
        """The answer, and whether the connection can carry another call. Raises Broken."""
        try:
            self._writer.write(request)
            await self._writer.drain()
            head = await self._reader.readuntil(b"\r\n\r\n")
            if len(head) > HEAD_BYTES_MAX:
                raise ValueError(f"a head of {len(head)} bytes")
            status, headers = _head(head)
            body = await self._body(status, headers)
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as exc:
            raise Broken(str(exc) or type(exc).__name__, ambiguous=True) from exc
        return Answer(status, headers, body), headers.get("connection", "").lower() != "close"

    async def _body(self, status: int, headers: Mapping[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if "chunked" not in headers.get("transfer-encoding", ""):
            length = int(headers.get("content-length", "0"))
            if not 0 <= length <= BODY_BYTES_MAX:
                raise ValueError(f"a body of {length} bytes")
            return await self._reader.readexactly(length)
        chunks: list[bytes] = []
        size = 0
        while True:
            line = await self._reader.readuntil(b"\r\n")
            length = int(line.partition(b";")[0], 16)
            if length < 0 or (size := size + length) > BODY_BYTES_MAX:
                raise ValueError(f"a body of more than {BODY_BYTES_MAX} bytes")
            chunk = await self._reader.readexactly(length + 2)
            if not length:
                return b"".join(chunks)
            chunks.append(chunk[:-2])

    def close(self) -> None:
        self._writer.close()

    async def wait_closed(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    """Raises ValueError: not the head of an answer."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"no HTTP answer: {first[:60]!r}")
    headers = {"connection": "close"} if version == "HTTP/1.0" else {}
    for line in lines:
        name, found, value = line.partition(":")
        if found:
            headers[name.strip().lower()] = value.strip()
    return int(rest[:3]), headers


class Server:
    """One address and the connections to it."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self.tls = tls
        self.opened = 0
        """Connections in all, for what has to stay bounded."""
        self._idle: list[Connection] = []
        self._name = Name(address.rpartition(":")[0])

    def request(self, method: str, target: str, token: str, body: bytes) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        if token:
            lines.append(f"X-Consul-Token: {token}")
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    @property
    def _host(self) -> str:
        return "localhost" if self.address.startswith(SOCKET) else self.address

    async def open(self) -> Connection:
        """Raises Broken, never ambiguous: nothing has been sent."""
        self.opened += 1
        try:
            if self.address.startswith(SOCKET):
                path = self.address.removeprefix(SOCKET)
                streams = await asyncio.open_unix_connection(path, limit=BUFFER_BYTES_MAX)
            else:
                streams = await self._connect()
        except ssl.SSLCertVerificationError as exc:
            raise Broken(f"its certificate is not believed: {exc.verify_message}") from exc
        except (OSError, ssl.SSLError) as exc:
            raise Broken(_reason(exc)) from exc
        return Connection(*streams)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the address that comes first; one that gives no connection comes last from then on."""
        name, port = self._name, int(self.address.rpartition(":")[2])
        address = (await name.addresses())[0]
        try:
            return await asyncio.open_connection(
                address,
                port,
                ssl=self.tls,
                server_hostname=name.host if self.tls else None,
                limit=BUFFER_BYTES_MAX,
            )
        except (OSError, asyncio.CancelledError):
            name.failed(address)
            raise

    async def ask(self, method: str, target: str, token: str, body: bytes = b"") -> Answer:
        """One call over a kept connection, or a new one. Raises Broken."""
        connection = self._kept() or await self.open()
        kept = False
        try:
            answer, kept = await connection.exchange(self.request(method, target, token, body))
        finally:
            if kept and len(self._idle) < IDLE_MAX:
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    def drop(self) -> None:
        """Forget the kept connections: the server behind them may hang, or have another certificate now."""
        while self._idle:
            self._idle.pop().close()

    async def close(self) -> None:
        closing, self._idle = self._idle, []
        for connection in closing:
            connection.close()
        for connection in closing:
            await connection.wait_closed()


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc) or type(exc).__name__
