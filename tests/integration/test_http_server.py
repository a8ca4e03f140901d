"""The HTTP server under attack, over real sockets: a client harms only itself, and the next is served."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys

import pytest

from controlplane.errors import InUse
from controlplane.http import peer
from controlplane.http.server import Server
from tests.support import http_get as client
from tests.support.http_served import (
    CLOSE,
    FAST,
    GET,
    POST,
    SLOW,
    SOON_S,
    App,
    code,
    error,
    folder,
    served,
    sync,
    until,
    whole,
)

CLOSING = b"\r\nConnection: close\r\n\r\n"

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
async def test_head_is_refused_and_fails_as_get_does_without_the_body() -> None:
    async with served() as found:
        for target, host, status in ((b"/fine", b"evil.example", 421), (b"/raises/other", b"localhost", 500)):
            answers = [
                await found.raw(method + b" " + target + b" HTTP/1.1\r\nHost: " + host + CLOSING)
                for method in (b"GET", b"HEAD")
            ]
            assert [code(answer) for answer in answers] == [status, status]
            heads = [re.sub(b"Date: .*", b"", answer.partition(b"\r\n\r\n")[0]) for answer in answers]
            assert heads[0] == heads[1] and answers[1].endswith(b"\r\n\r\n")
        assert [report["kind"] for report in found.app.reports] == ["http.failed"]


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
