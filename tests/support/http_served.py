"""The HTTP server on real sockets, with an application that misbehaves on request: what its tests run on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from controlplane.errors import InvalidInput, Unavailable
from controlplane.http import answers, peer, unix
from controlplane.http.limits import Limits
from controlplane.http.server import Server

SOON_S = 20.0
"""More than anything may take on a busy machine."""
FAST = Limits(
    connections_max=4,
    header_bytes_max=4096,
    body_bytes_max=1000,
    head_s=0.3,
    body_s=0.3,
    idle_s=0.5,
    handle_s=0.3,
    write_s=0.3,
)
SLOW = replace(FAST, head_s=60, body_s=60, idle_s=60, handle_s=60, write_s=60)
"""Nothing here ends by a timeout."""


def sync(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), SOON_S))

    return run


@dataclass
class App:
    """Handlers that behave well and badly, and what became of them."""

    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def report(self, kind: str, **fields: Any) -> None:
        self.reports.append({"kind": kind, **fields})

    async def fine(self, request: Request) -> Response:
        return answers.json({"query": dict(request.query_params)})

    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def who(self, request: Request) -> Response:
        found = peer.of(request.scope)
        return answers.json(found and [found.pid, found.uid, found.gid])

    async def hangs(self, request: Request) -> Response:
        self.entered.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.changed.set()
        return answers.json("done")

    async def raises(self, request: Request) -> Response:
        raise {"ours": Unavailable, "input": InvalidInput, "other": ZeroDivisionError}[
            request.path_params["which"]
        ]("what was wrong")

    async def big(self, request: Request) -> Response:
        return Response(b"x" * (32 << 20))

    async def flood(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        return StreamingResponse(stream())

    async def events(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            number = 0
            try:
                while True:
                    yield f"id: {number}\ndata: {{}}\n\n"
                    number += 1
                    await asyncio.sleep(0.01)
            finally:
                self.cancelled.set()

        return StreamingResponse(stream(), media_type="text/event-stream")

    def application(self) -> Any:
        return answers.application(
            [
                Route("/fine", self.fine),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/who", self.who),
                Route("/hangs", self.hangs, methods=["GET", "POST"]),
                Route("/raises/{which}", self.raises),
                Route("/big", self.big),
                Route("/flood", self.flood),
                Route("/events", self.events),
                Route("/asgi/{what}", Broken),
            ]
        )


class Broken:
    """An ASGI application that breaks the protocol in the way that its path names."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.what, self.send = scope["path_params"]["what"], send

    def __await__(self) -> Any:
        return self.run().__await__()

    async def run(self) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
        if self.what == "silent":
            return
        if self.what == "cancelled":
            raise asyncio.CancelledError
        if self.what == "twice":
            await self.send(start)
            await self.send(start)
        if self.what == "newline":
            await self.send({**start, "headers": [(b"x", b"a\r\nSet-Cookie: b")]})
        if self.what == "short":
            await self.send(start)
            await self.send({"type": "http.response.body", "body": b"ab"})


@dataclass
class Served:
    app: App
    server: Server
    port: int
    path: Path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def connect_unix(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))

    async def raw(self, sent: bytes, over: str = "tcp") -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await (self.connect() if over == "tcp" else self.connect_unix())
        try:
            writer.write(sent)
            return await reader.read()
        finally:
            writer.close()

    async def is_well(self) -> None:
        found = await self.ask("/fine")
        assert found[0] == 200

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, Any]:
        found = await asyncio.to_thread(unix.request, self.path, method, target, body, timeout_s=SOON_S)
        return found.status, json.loads(found.body or b"null")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hft-") as made:
        yield Path(made)


@contextlib.asynccontextmanager
async def served(limits: Limits = SLOW) -> AsyncIterator[Served]:
    app = App()
    server = Server(app.application(), report=app.report, limits=limits)
    with folder() as run_dir:
        path = run_dir / "agent.sock"
        port = await server.listen_tcp("127.0.0.1", 0, names=["Alpha"])
        await server.listen_unix(path)
        try:
            yield Served(app, server, port, path)
        finally:
            app.may_end.set()
            await server.close(0.5)


def code(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error(answer: bytes) -> str:
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert list(found) == ["error"]
    return str(found["error"])


HEAD = b"GET /fine HTTP/1.1\r\nHost: localhost\r\n"
GET = HEAD + b"\r\n"
CLOSE = HEAD + b"Connection: close\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110  the far end sets no event here
        await asyncio.sleep(0.005)


async def whole(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a response that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return head, await reader.readexactly(length)
