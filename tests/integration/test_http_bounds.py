"""What the HTTP server bounds, over real sockets: bytes and time. A client that goes too far is told, and
harms only itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from tests.support.http_served import (
    FAST,
    GET,
    HEAD,
    POST,
    code,
    error,
    served,
    sync,
    until,
    whole,
)

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
