"""A small HTTP/1.1 server for an ASGI application, on any number of TCP and unix sockets.

    server = Server(app, report=agent.report)
    port = server.listen_tcp("127.0.0.1", 0, names={"alpha"})
    server.listen_unix(run_dir / "alpha.agent.sock")
    ...
    await server.close(stop_s=1.0)

h11 reads and writes the protocol, connection.py applies the limits (ADR 0027 says why neither aiohttp nor
uvicorn). Over TCP only questions are served and Host is checked; on a unix socket everything is, the peer's
credentials are in the scope, and other users are refused. There are no CORS headers anywhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from controlplane.http import listener, peer
from controlplane.http.connection import Application, Connection, Protocol, Report, Terms
from controlplane.http.framing import QUESTIONS
from controlplane.http.limits import Limits
from controlplane.http.repeats import HEADS_KEPT, Repeats

CANCEL_S = 1.0
"""For handlers to end once they are cancelled; then their connections are cut."""
TURNED_AWAY_S = 0.5
"""For a client that is refused at the door to send its request and read why."""
REPORT_EVERY_S = 1.0
"""A handler that fails at every request must not fill the events of the process; what was left out is
counted."""


class Server:
    def __init__(
        self,
        app: Application,
        *,
        report: Report,
        limits: Limits | None = None,
        heads_kept: int = HEADS_KEPT,
    ) -> None:
        """`heads_kept` as in repeats.py."""
        self._app, self._to, self._limits, self._heads_kept = app, report, limits or Limits(), heads_kept
        self._listeners: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._count: dict[str, int] = {}
        self._turned_away: set[asyncio.StreamWriter] = set()
        self._reported_mono_s = -REPORT_EVERY_S
        self._left_out = 0
        self.refused = 0
        """Connections over the limit or of other users."""

    @property
    def connections(self) -> int:
        return len(self._connections)

    def __repr__(self) -> str:
        where = ", ".join(self._count) or "nowhere"
        return f"<Server on {where}: {len(self._connections)} connections, {self.refused} refused>"

    async def listen_tcp(
        self,
        address: str,
        port: int,
        *,
        names: Iterable[str] = (),
        methods: Iterable[str] | None = QUESTIONS,
    ) -> int:
        """Serve there; returns the port. `names` are what Host may be, besides addresses and localhost;
        `methods` None serves all.

        Raises:
            InUse: names address and port.
        """
        sock = listener.tcp(address, port)
        bound: int = sock.getsockname()[1]
        known = frozenset(name.lower() for name in (*names, address))
        allowed = None if methods is None else frozenset(methods)
        await self._listen(sock, self._terms(f"{address}:{bound}", allowed, known), None)
        return bound

    async def listen_unix(self, path: Path, *, owner_uid: int | None = None) -> None:
        """Serve there, mode 0600, to `owner_uid` (this process's user) and root.

        Raises:
            InUse: the path cannot be bound.
        """
        owner = os.geteuid() if owner_uid is None else owner_uid
        await self._listen(listener.unix(path), self._terms(str(path), None, None), owner)

    def _terms(self, where: str, methods: frozenset[str] | None, names: frozenset[str] | None) -> Terms:
        return Terms(where, methods, names, self._limits, Repeats(self._heads_kept))

    async def _listen(self, sock: socket.socket, terms: Terms, owner_uid: int | None) -> None:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connected(terms, owner_uid, reader, writer)

        def protocol() -> Protocol:
            return Protocol(asyncio.StreamReader(limit=self._limits.header_bytes_max), connected)

        self._count[terms.where] = 0
        self._listeners.append(await asyncio.get_running_loop().create_server(protocol, sock=sock))

    def _connected(
        self,
        terms: Terms,
        owner_uid: int | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Whatever a client does, it costs itself: `Connection.run` raises nothing."""
        who = None if owner_uid is None else peer.read(writer.get_extra_info("socket"))
        if who is not None and owner_uid is not None and not peer.admitted(who, owner_uid):
            return self._turn_away(writer, 403, f"uid {who.uid} is neither uid {owner_uid} nor root")
        if self._count[terms.where] >= terms.limits.connections_max:
            return self._turn_away(
                writer, 503, f"{terms.where}: {terms.limits.connections_max} connections already"
            )
        connection = Connection(self._app, terms, reader, writer, who, self._report)
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, Protocol)
        protocol.on_gone = connection.client_gone
        task = asyncio.get_running_loop().create_task(connection.run(), name=f"http {terms.where}")
        self._connections[task] = connection
        self._count[terms.where] += 1

        def ended(task: asyncio.Task[None]) -> None:
            del self._connections[task]
            self._count[terms.where] -= 1
            if not task.cancelled() and (exc := task.exception()) is not None:
                self._report("http.connection_failed", reason=f"{type(exc).__name__}: {exc}")

        task.add_done_callback(ended)
        return None

    def _turn_away(self, writer: asyncio.StreamWriter, http_status: int, why: str) -> None:
        """Answered without reading. Kept for a moment: a client that still sends when we close would get an
        error for it and never read why. Of these there are at most as many as connections.
        """
        self.refused += 1
        body = msgspec.json.encode({"error": why})
        writer.write(
            b"HTTP/1.1 %d \r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n" % (http_status, len(body)) + body
        )
        if len(self._turned_away) >= self._limits.connections_max:
            writer.close()
            return
        writer.write_eof()
        self._turned_away.add(writer)
        asyncio.get_running_loop().call_later(TURNED_AWAY_S, self._let_go, writer)

    def _let_go(self, writer: asyncio.StreamWriter) -> None:
        self._turned_away.discard(writer)
        writer.transport.abort()

    def _report(self, kind: str, **fields: Any) -> None:
        now_mono_s = time.monotonic()
        if now_mono_s - self._reported_mono_s < REPORT_EVERY_S:
            self._left_out += 1
            return
        if self._left_out:
            fields["left_out"] = self._left_out
        self._reported_mono_s, self._left_out = now_mono_s, 0
        self._to(kind, **fields)

    async def close(self, stop_s: float) -> None:
        """Accept no more; what is being answered has `stop_s` to end, then it is cancelled."""
        for each in self._listeners:
            each.close()
        for connection in self._connections.values():
            connection.stop()
        for writer in list(self._turned_away):
            self._let_go(writer)
        for wait_s, cancel in ((stop_s, False), (CANCEL_S, True)):
            tasks = list(self._connections)
            for task in tasks if cancel else ():
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=wait_s)
        for connection in self._connections.values():
            connection.abort()
