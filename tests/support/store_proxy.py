"""A TCP proxy in front of a store that does what networks do: passes, swallows everything while its
connections stay open, breaks them, or swallows the answer to one chosen request after the store has had it.

It runs in the test's own event loop and looks at the bytes only: a key stands in the clear in etcd's frames
as in Consul's HTTP, so a request is chosen by a piece of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

CHUNK = 1 << 16


@dataclass(eq=False)
class _Line:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter | None = None
    deaf: bool = False
    """What the store says is swallowed from here on."""
    lost: bool = False
    """Bytes were swallowed: it can carry nothing more that makes sense."""

    def abort(self) -> None:
        for writer in (self.client, self.store):
            if writer is not None:
                writer.transport.abort()


@dataclass
class StoreProxy:
    """Use with `async with`; every connection ends with it."""

    target: str
    silent: bool = False
    """Connections are taken, and nothing is passed in either direction."""
    accepted_s: list[float] = field(default_factory=list)
    """When each connection was taken (monotonic)."""
    swallowed: int = 0
    """Requests whose answer was swallowed."""
    _needle: bytes = b""
    _lines: set[_Line] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> StoreProxy:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def lines(self) -> int:
        return len(self._lines)

    def swallow_the_answer_to(self, needle: bytes) -> None:
        """Of the next request with these bytes in it: the store gets it, and the client hears nothing more on
        that connection.
        """
        self._needle = needle

    def heal(self) -> None:
        """Pass again; connections that lost something are broken, as they would be by their ends."""
        self.silent, self._needle = False, b""
        for line in list(self._lines):
            if line.lost or line.deaf or line.store is None:
                line.abort()

    def cut(self) -> None:
        """Break every connection."""
        for line in list(self._lines):
            line.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted_s.append(time.monotonic())
        line = _Line(writer)
        self._lines.add(line)
        try:
            with contextlib.suppress(OSError):
                await self._carry(line, reader)
        finally:
            self._lines.discard(line)
            line.abort()

    async def _carry(self, line: _Line, reader: asyncio.StreamReader) -> None:
        if self.silent:
            await reader.read()  # until its end, or until it is healed
            return
        host, _, port = self.target.rpartition(":")
        answers, line.store = await asyncio.open_connection(host, int(port))
        asking = asyncio.create_task(self._ask(line, reader, line.store))
        answering = asyncio.create_task(self._answer(line, answers))
        _, left = await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(asking, answering, return_exceptions=True)

    async def _ask(self, line: _Line, reader: asyncio.StreamReader, store: asyncio.StreamWriter) -> None:
        before = b""
        while chunk := await reader.read(CHUNK):
            if self.silent:
                line.lost = True
                continue
            window = before + chunk
            if self._needle and self._needle in window:
                self._needle, line.deaf = b"", True
                self.swallowed += 1
            before = window[-256:]
            store.write(chunk)
            await store.drain()

    async def _answer(self, line: _Line, answers: asyncio.StreamReader) -> None:
        while chunk := await answers.read(CHUNK):
            if self.silent or line.deaf:
                line.lost = True
                continue
            line.client.write(chunk)
            await line.client.drain()


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """An endpoint whose machine drops every packet of a new connection: a listening socket that nobody
    accepts from, with no room left in its queue.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        host, port = listening.getsockname()
        while True:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect((host, port))
            except TimeoutError:
                break
        yield f"{host}:{port}"
