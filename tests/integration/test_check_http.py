"""Checks over HTTP against real servers: one that is well, and others that hang, flood or talk rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from agents.checks.target import Result
from controlplane.model import checks
from tests.support.looks import HANG_S, SOON_S, Answers, http, look, server, sync


async def answered(answer: Answers | bytes, close: bool = True, **fields: Any) -> Result:
    async with server(answer, close) as port:
        return await look(http(port, **fields))


@sync
async def test_an_http_answer_passes_by_its_status_and_what_must_be_in_its_body() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert await answered(ok) == Result("passing", "200 OK: hello")
    assert await answered(ok, close=False) == Result("passing", "200 OK: hello"), (
        "the length says where it ends"
    )
    assert (await answered(ok, contains="hell")).state == "passing"
    assert (await answered(ok, contains="bye")).output == '200 OK, without "bye" in the body: hello'
    assert await answered(b"HTTP/1.1 204 No Content\r\n\r\n", close=False) == Result(
        "passing", "204 No Content"
    )
    assert (await answered(b"HTTP/1.1 429 Slow\r\n\r\n")).state == "warning"
    assert (await answered(b"HTTP/1.1 503 Away\r\n\r\nwhy")).output == "503 Away: why"
    assert (await answered(b"HTTP/1.1 503 Away\r\n\r\n", warning_statuses=(503,))).state == "warning"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    assert await answered(head, close=False, method="HEAD") == Result("passing", "200 OK")
    interim = b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + ok
    assert (await answered(interim)).state == "passing"


@sync
async def test_a_chunked_body_is_read_to_its_end() -> None:
    parts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
    assert await answered(parts, close=False, contains="hello") == Result("passing", "200 OK: hello")


@sync
async def test_the_request_has_what_was_configured_and_the_placeholders_filled_in() -> None:
    seen = b""

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with server(note) as port:
        url = f"http://localhost:{port}/of/{{instance}}?h={{host}}"
        assert (await look(http(port, url=url, headers={"X-Who": "{service}"}))).state == "passing"
    lines = seen.decode().splitlines()
    assert lines[0] == "GET /of/web-alpha-1?h=alpha HTTP/1.1"
    assert f"Host: localhost:{port}" in lines and "X-Who: web" in lines and "Connection: close" in lines


@sync
async def test_a_redirect_is_not_followed() -> None:
    followed = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal followed
        followed += 1

    async with server(count) as elsewhere:
        answer = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\n\r\n".encode()
        found = await answered(answer)
    assert found.state == "critical" and "not followed" in found.output and str(elsewhere) in found.output
    assert not followed


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"\x00\xff\xfe rubbish \r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "the answer is not HTTP/1.1"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nA:", "closed without an answer"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 20, "more than 8 answers 100"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk of the body has no length"),
    ],
)
@sync
async def test_rubbish_instead_of_an_answer_is_critical_and_named(answer: bytes, said: str) -> None:
    found = await answered(answer)
    assert found.state == "critical" and said in found.output


@sync
async def test_a_head_without_end_is_refused_and_a_body_without_end_is_cut() -> None:
    async def headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async def body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    found = await answered(headers)
    assert found.state == "critical" and "does not end within" in found.output
    found = await answered(body)
    assert found.state == "passing" and len(found.output) < 4200


@sync
async def test_one_that_accepts_and_says_nothing_or_a_byte_a_time_ends_at_its_deadline() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    for hanging in (nothing, slowly):
        began_s = time.monotonic()
        assert await answered(hanging, timeout_s=HANG_S) == Result(
            "critical", f"no answer within {HANG_S:g} s"
        )
        assert time.monotonic() - began_s < SOON_S


@sync
async def test_nobody_at_the_port_and_a_name_that_is_none_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = await look(http(port))
    assert found.state == "critical" and "refused" in found.output
    found = await look(checks.HttpCheck(name="web", url="http://nowhere.invalid/"))
    assert found.state == "critical" and "nowhere.invalid" in found.output


@sync
async def test_https_is_believed_by_its_certificate(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            await writer.drain()
        writer.close()

    served = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{served.sockets[0].getsockname()[1]}/"
    assert (await look(http(0, url=url, ca_file=str(tmp_path / "ca.pem")))).output == "200 OK: OK"
    found = await look(http(0, url=url))
    assert found.state == "critical" and "certificate verify failed" in found.output
    found = await look(http(0, url=url.replace("localhost", "127.0.0.1"), ca_file=str(tmp_path / "ca.pem")))
    assert found.state == "critical" and "mismatch" in found.output, "another name than its own"
    assert "No such file" in (await look(http(0, url=url, ca_file="/nowhere.pem"))).output
    served.close()


@sync
async def test_a_health_port_that_the_service_does_not_have_is_said() -> None:
    found = await look(checks.HttpCheck(name="web", url="http://{address}:{health_port}/health"))
    assert found.state == "critical" and "no port" in found.output
