"""The small HTTP client: bounded in time and bytes, and every bad answer is one that may be tried again."""

from __future__ import annotations

import asyncio
import json

import pytest

from controlplane.errors import Retryable
from tests.support import http_get as client
from tests.support.http_served import (
    SOON_S,
    served,
    sync,
)

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
