"""The HTTP client of the Consul back end before servers that answer as Consul does, and as nothing should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controlplane.store.consul import http

pytestmark = [pytest.mark.anyio]


@asynccontextmanager
async def serving(path: Path, answer: Callable[[bytes], bytes | None]) -> AsyncIterator[list[bytes]]:
    """Answers each request by its head; None: hangs up. Yields the heads of the requests."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                heads.append(head)
                said = answer(head)
                if said is None:
                    return
                writer.write(said)
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield heads
    finally:
        server.close()


def whole(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nX-Consul-Index: 7\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def asked(path: Path, said: bytes | None) -> http.Answer:
    async with serving(path, lambda head: said):
        server = http.Server(f"unix:{path}", None)
        try:
            async with asyncio.timeout(20):
                return await server.ask("GET", "/v1/kv/a", "")
        finally:
            await server.close()


async def test_a_body_with_a_length_and_one_in_chunks(tmp_path: Path) -> None:
    one = await asked(tmp_path / "a", whole(b"[1]"))
    assert (one.status, one.body, one.headers["x-consul-index"]) == (200, b"[1]", "7")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1;x=y\r\n]\r\n0\r\n\r\n"
    assert (await asked(tmp_path / "b", chunked)).body == b"[1]"
    empty = await asked(tmp_path / "c", whole(b"", "404 Not Found"))
    assert (empty.status, empty.body) == (404, b"")


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (2 * http.HEAD_BYTES_MAX) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (2 * http.BUFFER_BYTES_MAX),
    ],
)
async def test_what_is_no_answer_breaks_the_connection_and_is_ambiguous(
    tmp_path: Path, said: bytes | None
) -> None:
    if said == b"":
        said = None
    with pytest.raises(http.Broken) as caught:
        await asked(tmp_path / "a", said)
    assert caught.value.ambiguous


async def test_where_nobody_listens_nothing_was_sent(tmp_path: Path) -> None:
    server = http.Server(f"unix:{tmp_path / 'none'}", None)
    with pytest.raises(http.Broken) as caught:
        await server.ask("PUT", "/v1/txn", "", b"[]")
    assert not caught.value.ambiguous


async def test_a_connection_is_kept_and_one_that_the_server_has_closed_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a"
    server = http.Server(f"unix:{path}", None)
    async with serving(path, lambda head: whole(b"1")) as heads:
        for _ in range(3):
            await server.ask("GET", "/v1/kv/a", "secret")
        assert server.opened == 1 and len(heads) == 3
        assert b"X-Consul-Token: secret\r\n" in heads[0] and b"Host: localhost\r\n" in heads[0]
    await asyncio.sleep(0)
    closing = tmp_path / "b"
    other = http.Server(f"unix:{closing}", None)
    async with serving(closing, lambda head: whole(b"1", more="Connection: close\r\n")):
        for _ in range(2):
            await other.ask("GET", "/v1/kv/a", "")
        assert other.opened == 2
    await server.close()
    await other.close()


async def test_a_call_that_is_given_up_closes_its_connection(tmp_path: Path) -> None:
    path = tmp_path / "a"
    server = http.Server(f"unix:{path}", None)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other end closes
        ended.set()
        writer.close()

    listening = await asyncio.start_unix_server(serve, path)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await server.ask("GET", "/v1/kv/a", "")
    async with asyncio.timeout(20):
        await ended.wait()
    listening.close()
