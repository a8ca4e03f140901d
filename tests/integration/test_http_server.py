"""The HTTP server under attack, over real sockets: a client harms only itself, and the next is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from controlplane.errors import InUse, InvalidInput, Retryable, Unavailable
from controlplane.http import answers, client, peer, unix
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

# --- bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",  # TLS
        b"GET /fine HTTP/1.1\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost: localhost\r\nBad Name: 1\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET http://localhost/fine HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ],
)
@sync
async def test_what_is_not_http_is_answered_400_and_closed(rubbish: bytes) -> None:
    async with served() as found:
        answer = await found.raw(rubbish, "unix")
        assert code(answer) == 400, answer
        assert error(answer)
        await found.is_well()
        assert not found.app.reports


@sync
async def test_other_versions_and_tunnels_are_refused() -> None:
    async with served() as found:
        assert code(await found.raw(b"GET /fine HTTP/9.9\r\nHost: localhost\r\n\r\n", "unix")) == 505
        answer = await found.raw(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", "unix")
        assert code(answer) == 400
        await found.is_well()


@pytest.mark.parametrize(
    "long",
    [
        HEAD + b"X: " + b"y" * 100_000,
        HEAD + b"X: " + b"y" * 5000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(500)) + b"\r\n",
        b"GET /" + b"y" * 100_000,
    ],
)
@sync
async def test_headers_over_the_limit_are_answered_431(long: bytes) -> None:
    async with served() as found:
        assert code(await found.raw(long)) == 431
        await found.is_well()


@pytest.mark.parametrize(
    "large",
    [
        b"Content-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"Content-Length: 99999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"300\r\n" + b"x" * 0x300 + b"\r\n300\r\n" + b"x" * 0x300,
    ],
)
@sync
async def test_a_body_over_the_limit_is_answered_413(large: bytes) -> None:
    async with served() as found:
        answer = await found.raw(POST + large, "unix")
        assert code(answer) == 413 and "at most 1000" in error(answer).replace("more than", "at most")
        await found.is_well()


@sync
async def test_bodies_by_length_and_by_chunks_arrive_whole() -> None:
    async with served() as found:
        reader, writer = await found.connect_unix()
        writer.write(POST + b"Content-Length: 3\r\n\r\nabc")
        assert (await whole(reader))[1] == b"abc"
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        assert (await whole(reader))[1] == b"abc"
        writer.write(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"abc")
        assert (await whole(reader))[1] == b"abc"
        writer.close()


async def whole(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a response that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return head, await reader.readexactly(length)


# --- time ---------------------------------------------------------------------------------------------------


@sync
async def test_a_client_that_sends_nothing_is_closed_without_an_answer() -> None:
    async with served(FAST) as found:
        assert await found.raw(b"") == b""


@pytest.mark.parametrize("part", [b"G", HEAD, HEAD + b"X: "])
@sync
async def test_half_a_head_is_answered_408(part: bytes) -> None:
    async with served(FAST) as found:
        assert code(await found.raw(part)) == 408


@sync
async def test_a_head_that_comes_drop_by_drop_gets_no_more_time() -> None:
    async with served(FAST) as found:
        reader, writer = await found.connect()

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        writer.write(HEAD)
        dripping = asyncio.ensure_future(drip())
        try:
            assert code(await reader.read()) == 408
        finally:
            dripping.cancel()
            writer.close()


@pytest.mark.parametrize(
    "body", [b"Content-Length: 4\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n2\r\na"]
)
@sync
async def test_half_a_body_is_answered_408(body: bytes) -> None:
    async with served(FAST) as found:
        assert code(await found.raw(POST + body, "unix")) == 408


@sync
async def test_an_idle_connection_is_kept_for_a_time_and_then_closed() -> None:
    async with served(FAST) as found:
        reader, writer = await found.connect()
        writer.write(GET)
        await whole(reader)
        writer.write(GET)
        await whole(reader)
        assert await reader.read() == b""
        writer.close()


@sync
async def test_a_handler_that_never_answers_is_cancelled_and_answered_503() -> None:
    async with served(FAST) as found:
        assert (await found.ask("/hangs"))[0] == 503
        assert found.app.cancelled.is_set()
        [report] = found.app.reports
        assert report == {
            "kind": "http.failed",
            "method": "GET",
            "path": "/hangs",
            "reason": "no response within 0.3 s",
        }


@pytest.mark.parametrize("target", [b"/big", b"/flood"])
@sync
async def test_a_client_that_does_not_read_is_cut_off(target: bytes) -> None:
    async with served(FAST) as found:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", found.port))
        await asyncio.get_running_loop().sock_sendall(
            sock, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        await until(lambda: found.server.connections == 1)
        await until(lambda: found.server.connections == 0)
        sock.close()
        await found.is_well()
        assert not found.app.reports, "a client that is cut off is no failure of ours"


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110  the far end sets no event here
        await asyncio.sleep(0.005)


# --- connections --------------------------------------------------------------------------------------------


@sync
async def test_connections_over_the_limit_are_answered_503_and_the_other_socket_is_free() -> None:
    async with served() as found:
        held = [await found.connect() for _ in range(SLOW.connections_max)]
        await until(lambda: found.server.connections == SLOW.connections_max)
        answer = await found.raw(GET)
        assert code(answer) == 503 and "4 connections already" in error(answer)
        await found.is_well()
        for _, writer in held:
            writer.close()
        await until(lambda: found.server.connections == 0)
        assert code(await found.raw(CLOSE)) == 200


@sync
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as found:
        reader, writer = await found.connect()
        targets = [b"GET /fine?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(50)]
        writer.write(b"".join(targets))
        for number in range(50):
            assert json.loads((await whole(reader))[1]) == {"query": {"n": str(number)}}
        writer.close()


@sync
async def test_head_has_the_head_of_get_and_no_body() -> None:
    async with served() as found:
        reader, writer = await found.connect()
        writer.write(b"HEAD /fine HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert (await whole(reader))[0] == head
        writer.close()


@sync
async def test_http_1_0_is_answered_and_closed() -> None:
    async with served() as found:
        assert code(await found.raw(b"GET /fine HTTP/1.0\r\n\r\n")) == 200


# --- who ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"localhost:8080", 200),
        (b"127.0.0.1:99", 200),
        (b"[::1]:99", 200),
        (b"ALPHA:1", 200),
        (b"evil.example", 421),
        (b"evil.example:80", 421),
        (b"127.0.0.1.evil.example", 421),
        (b"localhost.evil.example", 421),
        (b"", 421),
    ],
)
@sync
async def test_a_page_that_rebinds_its_name_to_us_is_not_answered(host: bytes, status: int) -> None:
    async with served() as found:
        answer = await found.raw(b"GET /fine HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert code(answer) == status, answer
        assert b"access-control" not in answer.lower()


@sync
async def test_over_tcp_only_questions_are_served() -> None:
    async with served() as found:
        answer = await found.raw(b"POST /hangs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert code(answer) == 405 and b"Allow: GET, HEAD" in answer
        assert not found.app.entered.is_set()
        assert code(await found.raw(POST + b"Content-Length: 0\r\nConnection: close\r\n\r\n", "unix")) == 200


@sync
async def test_the_peer_on_a_unix_socket_is_known_by_its_credentials() -> None:
    async with served() as found:
        assert await found.ask("/who") == (200, [os.getpid(), os.getuid(), os.getgid()])
        answer = await found.raw(b"GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"null"), "TCP says nothing about who asks"


def test_only_the_owner_and_root_are_admitted() -> None:
    assert peer.admitted(peer.Peer(1, 1000, 5), 1000)
    assert peer.admitted(peer.Peer(1, 0, 5), 1000)
    assert not peer.admitted(peer.Peer(1, 1001, 1000), 1000)


ASKS_AS_ANOTHER_USER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(b"GET /fine HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    sys.stdout.write(sock.recv(4096).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root only")
@sync
async def test_another_user_is_refused_even_where_somebody_opened_the_socket() -> None:
    async with served() as found:
        found.path.parent.chmod(0o755)
        found.path.chmod(0o666)
        asking = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ASKS_AS_ANOTHER_USER, str(found.path)],
            capture_output=True,
            text=True,
        )
        assert asking.stdout.startswith("HTTP/1.1 403 "), asking
        assert "uid 65534" in asking.stdout


@sync
async def test_the_unix_socket_is_closed_to_others_from_the_first_moment_and_replaces_a_dead_one() -> None:
    app = App()
    before = os.umask(0)
    try:
        with folder() as run_dir:
            path = run_dir / "agent.sock"
            for _ in range(2):  # the second finds the first one's socket, dead
                server = Server(app.application(), report=app.report)
                await server.listen_unix(path)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert [left.name for left in run_dir.iterdir()] == ["agent.sock"]
                await server.close(0.1)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_unix_connection(str(path))
    finally:
        os.umask(before)


@sync
async def test_a_port_that_is_taken_is_named() -> None:
    async with served() as found:
        with pytest.raises(InUse, match=rf"127\.0\.0\.1:{found.port}: Address already in use"):
            await found.server.listen_tcp("127.0.0.1", found.port)
        with pytest.raises(InUse, match=r"192\.0\.2\.1:0: Cannot assign"):
            await found.server.listen_tcp("192.0.2.1", 0)
        other = await found.server.listen_tcp("127.0.0.1", 0)
        assert (await client.get(f"http://127.0.0.1:{other}/fine", timeout_s=SOON_S)).status == 200


# --- handlers -----------------------------------------------------------------------------------------------


@sync
async def test_errors_have_one_shape_and_the_connection_lives_on() -> None:
    async with served() as found:
        reader, writer = await found.connect()
        for target, status, why in (
            ("/nothing", 404, "Not Found"),
            ("/echo", 405, "Method Not Allowed"),
            ("/raises/ours", 503, "what was wrong"),
            ("/raises/input", 400, "what was wrong"),
            ("/raises/other", 500, "ZeroDivisionError: what was wrong"),
            ("/asgi/silent", 500, "the handler ended without a whole response"),
            ("/asgi/cancelled", 500, "CancelledError: the handler waited for something that was cancelled"),
            ("/fine", 200, None),
        ):
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head, body = await whole(reader)
            assert (code(head), json.loads(body).get("error")) == (status, why)
        writer.close()
        first = found.app.reports[0]
        assert first["kind"] == "http.failed" and first["path"] == "/raises/other"


@pytest.mark.parametrize("what", ["twice", "newline", "short"])
@sync
async def test_a_response_that_goes_wrong_on_its_way_is_cut_off_not_passed_for_whole(what: str) -> None:
    async with served() as found:
        answer = await found.raw(f"GET /asgi/{what} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"Set-Cookie" not in answer and not answer.endswith(b"ab")
        assert [report["kind"] for report in found.app.reports] == ["http.failed"]
        await found.is_well()


@sync
async def test_a_question_is_cancelled_when_its_client_goes_away() -> None:
    async with served() as found:
        _, writer = await found.connect()
        writer.write(b"GET /hangs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await found.app.entered.wait()
        writer.close()
        await found.app.cancelled.wait()
        assert not found.app.reports


@sync
async def test_a_change_is_finished_though_its_client_goes_away() -> None:
    async with served() as found:
        _, writer = await found.connect_unix()
        writer.write(b"POST /hangs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await found.app.entered.wait()
        writer.close()
        await found.is_well()
        found.app.may_end.set()
        await found.app.changed.wait()
        await until(lambda: found.server.connections == 0)
        assert not found.app.cancelled.is_set() and not found.app.reports


@sync
async def test_server_sent_events_stream_and_end_with_their_client() -> None:
    async with served(FAST) as found:
        reader, writer = await found.connect()
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head and b"chunked" in head
        for number in range(50):  # 0.5 s: longer than a handler may take to begin
            assert b"id: %d\n" % number in await reader.readuntil(b"\n\n")
        assert not found.app.cancelled.is_set()
        writer.close()
        await found.app.cancelled.wait()
        assert not found.app.reports


@sync
async def test_a_stop_lets_what_is_asked_end_and_closes_what_is_idle() -> None:
    async with served() as found:
        idle, _ = await found.connect()
        reader, writer = await found.connect()
        writer.write(b"GET /hangs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await found.app.entered.wait()
        closing = asyncio.ensure_future(found.server.close(SOON_S))
        assert await idle.read() == b""
        found.app.may_end.set()
        head, body = await whole(reader)
        assert json.loads(body) == "done" and b"Connection: close" in head
        await closing
        with pytest.raises(ConnectionRefusedError):
            await found.connect()


@sync
async def test_a_stop_does_not_wait_for_a_handler_longer_than_told() -> None:
    async with served() as found:
        reader, writer = await found.connect_unix()
        writer.write(b"POST /hangs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await found.app.entered.wait()
        await found.server.close(0.05)
        assert found.app.cancelled.is_set()
        assert await reader.read() == b""
        assert found.server.connections == 0


# --- the client ---------------------------------------------------------------------------------------------


@sync
async def test_the_client_is_answered() -> None:
    async with served() as found:
        answer = await client.get(f"http://localhost:{found.port}/fine?a=b%20c", timeout_s=SOON_S)
        assert (answer.status, json.loads(answer.body)) == (200, {"query": {"a": "b c"}})
        assert answer.headers["content-type"] == "application/json"
        assert (await client.get(f"http://127.0.0.1:{found.port}/nothing", timeout_s=SOON_S)).status == 404


@sync
async def test_the_client_is_bounded_in_time_and_bytes() -> None:
    async with served() as found:
        where = f"http://127.0.0.1:{found.port}"
        with pytest.raises(Retryable, match=r"no answer within 0\.1 s"):
            await client.get(f"{where}/hangs", timeout_s=0.1)
        with pytest.raises(Retryable, match="no answer within"):
            await client.get(f"{where}/events", timeout_s=0.1)
        with pytest.raises(Retryable, match="more than 1000 bytes"):
            await client.get(f"{where}/big", timeout_s=SOON_S, bytes_max=1000)


@pytest.mark.parametrize(
    "answer", [b"", b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", b"HTTP/1.1"]
)
@sync
async def test_an_answer_that_is_cut_or_rubbish_is_retryable(answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Retryable):
        await client.get(f"http://127.0.0.1:{port}/", timeout_s=SOON_S)
    server.close()
    with pytest.raises(Retryable, match="refused"):
        await client.get(f"http://127.0.0.1:{port}/", timeout_s=SOON_S)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/", "http://", "http://h:99999/", "http://h/\r\nX: y", "http://[/"]
)
@sync
async def test_a_url_that_is_none_is_retryable(url: str) -> None:
    with pytest.raises(Retryable):
        await client.get(url, timeout_s=1)
