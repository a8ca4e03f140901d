"""A server that remembers what it was asked gives the answers of one that parses everything: to requests good
and bad, whole, in pieces and pipelined, each several times, from an application that behaves well and badly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.http.connection import Protocol
from controlplane.http.limits import Limits
from controlplane.http.server import Server
from tests.support.http_served import FAST, GET, SLOW, SOON_S, Served, folder, served, sync, whole

LENGTH, TYPE = (b"content-length", b"2"), (b"content-type", b"text/plain")
OK = {"type": "http.response.body", "body": b"OK"}


def begins(*headers: Any, status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


ANSWERS: dict[str, list[dict[str, Any]]] = {
    "good": [begins(LENGTH, TYPE), OK],
    "bad": [begins((b"content-length", b"9"), TYPE, status=503), body(b"UNHEALTHY")],
    "longer": [begins((b"content-length", b"5"), TYPE), body(b"FINE!")],
    "length in the middle": [begins(TYPE, LENGTH, (b"x", b"content-length: 2")), OK],
    "empty": [begins((b"content-length", b"0"), TYPE), body(b"")],
    "pieces": [begins(LENGTH, TYPE), body(b"O", more=True), body(b"K")],
    "late end": [begins(LENGTH, TYPE), body(b"OK", more=True), body(b"")],
    "stream": [begins(TYPE), body(b"O", more=True), body(b"K")],
    "chunked": [begins(LENGTH, TYPE, (b"transfer-encoding", b"chunked")), OK],
    "closes": [begins(LENGTH, TYPE, (b"connection", b"close")), OK],
    "stays": [begins(LENGTH, TYPE, (b"connection", b"keep-alive")), OK],
    "no content": [begins(status=204), body(b"")],
    "no content of a length": [begins(LENGTH, TYPE, status=204), OK],
    "not modified": [begins(LENGTH, TYPE, status=304), OK],
    "not modified, bare": [begins(LENGTH, TYPE, status=304), body(b"")],
    "own date": [begins(LENGTH, TYPE, (b"Date", b"today")), OK],
    "host": [begins(LENGTH, TYPE, (b"host", b"here")), OK],
    "capitals": [begins((b"Content-Length", b"2"), TYPE), OK],
    "length twice": [begins(LENGTH, (b"content-length", b"2"), TYPE), OK],
    "length twice, in capitals": [begins(LENGTH, (b"Content-Length", b"2"), TYPE), OK],
    "length twice, differing": [begins(LENGTH, (b"Content-Length", b"3"), TYPE), OK],
    "lengths that differ, as one before": [begins((b"content-length", b"5"), LENGTH, TYPE), body(b"FINE!")],
    "length listed": [begins((b"content-length", b"2, 2"), TYPE), OK],
    "length padded": [begins((b"content-length", b"02"), TYPE), OK],
    "length of words": [begins((b"content-length", b"two"), TYPE), OK],
    "length of thirty digits": [begins((b"content-length", b"2".zfill(30)), TYPE), OK],
    "length as text": [begins(("content-length", "2"), TYPE), OK],
    "its value as text": [begins((b"content-length", "2"), TYPE), OK],
    "not hashable": [begins(LENGTH, (bytearray(b"content-type"), b"text/plain")), OK],
    "list of lists": [begins([b"content-length", b"2"], [b"content-type", b"text/plain"]), OK],
    "large head": [begins(LENGTH, TYPE, (b"x", b"y" * 2000)), OK],
    "too short": [begins((b"content-length", b"3"), TYPE), OK],
    "too long": [begins((b"content-length", b"1"), TYPE), OK],
    "newline": [begins(LENGTH, TYPE, (b"x", b"a\r\nset-cookie: b")), OK],
    "informational": [begins(LENGTH, TYPE, status=101), OK],
    "no end": [begins(LENGTH, TYPE)],
    "half": [begins(LENGTH, TYPE), body(b"O", more=True)],
    "two starts": [begins(LENGTH, TYPE), begins(LENGTH, TYPE), OK],
    "two ends": [begins(LENGTH, TYPE), OK, OK],
    "no start": [OK],
    "nothing": [],
}


@dataclass
class Script:
    """An application that answers the n-th request of a path with the n-th of its answers, then again."""

    answers: list[str]

    def __post_init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        received = await receive()
        told = {key: value for key, value in scope.items() if key not in ("client", "extensions")}
        self.seen.append((told, received))
        answer = self.answers[self.asked[scope["path"]] % len(self.answers)]
        self.asked[scope["path"]] += 1
        scope.clear()  # what an application does to its scope is not remembered
        for message in ANSWERS[answer]:
            await send(message)


@dataclass(frozen=True)
class Sent:
    """What is written before the answers are read: whole requests, cut at some places."""

    requests: tuple[bytes, ...]
    cuts: tuple[int, ...] = ()

    def pieces(self) -> Iterator[bytes]:
        joined, begin = b"".join(self.requests), 0
        for cut in sorted(self.cuts):
            if begin < cut < len(joined):
                yield joined[begin:cut]
                begin = cut
        yield joined[begin:]


_arrived: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def count_what_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Protocol.buffer_updated

    def counted(self: Protocol, nbytes: int) -> None:
        _arrived["bytes"] += nbytes
        taken(self, nbytes)

    monkeypatch.setattr(Protocol, "buffer_updated", counted)


async def _answer(reader: asyncio.StreamReader, head_only: bool) -> list[bytes]:
    """Head and body, with interim ones before, as far as they come."""
    found: list[bytes] = []
    try:
        while not found or found[-1].startswith(b"HTTP/1.1 100 "):
            head = await reader.readuntil(b"\r\n\r\n")
            found.append(re.sub(rb"\r\nDate: \w{3}, [^\r]*", b"\r\nDate: now", head))
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head.lower())
        if head_only or re.match(rb"HTTP/1.1 (204|304) ", head):
            return found
        if b"\r\ntransfer-encoding: chunked\r\n" in head.lower():
            found.append(await reader.readuntil(b"0\r\n\r\n"))
        elif length is not None:
            found.append(await reader.readexactly(int(length[1])))
        else:
            found.append(await reader.read())
    except asyncio.IncompleteReadError as exc:
        found += [exc.partial, b"closed"]
    except ConnectionError:
        found.append(b"closed")
    return found


async def transcript(script: Script, heads_kept: int, over: str, sending: list[Sent]) -> list[Any]:
    """All answers, and all that the application saw."""
    reports: list[Any] = []
    server = Server(
        script, report=lambda kind, **fields: reports.append(kind), limits=SLOW, heads_kept=heads_kept
    )
    found: list[Any] = []
    with folder() as run_dir:
        path = run_dir / "sock"
        await server.listen_unix(path)
        port = await server.listen_tcp("127.0.0.1", 0, names=["Alpha"])

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            if over == "tcp":
                return await asyncio.open_connection("127.0.0.1", port)
            return await asyncio.open_unix_connection(str(path))

        reader, writer = await connect()
        for sent in sending:
            for piece in sent.pieces():
                arrived = _arrived.total() + len(piece)
                writer.write(piece)
                while _arrived.total() < arrived and not reader.at_eof():
                    if writer.is_closing():
                        break
                    await asyncio.sleep(0)
                for _ in range(5):  # for the server to take it as a piece
                    await asyncio.sleep(0)
            for request in sent.requests:
                found.append(await _answer(reader, request.startswith(b"HEAD ")))
                if b"closed" in found[-1]:
                    break
            if reader.at_eof() or b"closed" in found[-1] or _closes(found[-1]):
                found.append((await _rest(reader), "closed"))
                writer.close()
                reader, writer = await connect()
        writer.close()
        await server.close(1.0)
    return [repr(found).replace(f":{port}", ":PORT"), script.seen, reports]


def _closes(answer: list[bytes]) -> bool:
    return any(b"\r\nconnection: close\r\n" in part.lower() for part in answer)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


# --- the property -------------------------------------------------------------------------------------------

PLAIN = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
heads = st.builds(
    lambda method, target, version, host, others, pad: (
        b"%b %b HTTP/%b\r\n%b%b%b" % (method, target, version, host, b"".join(others), pad)
    ),
    st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST", b"get"]),
    st.sampled_from([b"/a", b"/a?n=1", b"/%61", b"/b", b"*", b"http://localhost/a"]),
    st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0", b"9.9"]),
    st.sampled_from(
        [
            b"Host: localhost\r\n",
            b"Host: ALPHA:1\r\n",
            b"host: 127.0.0.1\r\n",
            b"Host: evil.example\r\n",
            b"Host: localhost\r\nHost: evil.example\r\n",
            b"",
        ]
    ),
    st.lists(
        st.sampled_from(
            [
                b"Connection: close\r\n",
                b"Connection: keep-alive\r\n",
                b"Connection: upgrade\r\nUpgrade: websocket\r\n",
                b"Expect: 100-continue\r\n",
                b"Accept:   */*  \r\n",
                b"X: a\x00b\r\n",
                b"Bad Name: 1\r\n",
                b"X: a\r\n folded\r\n",
            ]
        ),
        max_size=2,
    ),
    st.sampled_from([b"", b"", b"", b"X: " + b"y" * 1100 + b"\r\n", b"X: " + b"y" * 5000 + b"\r\n"]),
)
bodies = st.sampled_from(
    [
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: 3\r\n\r\nabc",
        b"Content-Length: 2000\r\n\r\n" + b"x" * 2000,
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ]
)
requests = st.one_of(
    st.just(PLAIN), st.builds(bytes.__add__, heads, bodies), st.sampled_from([b"\r\n" + PLAIN, b"\0\r\n\r\n"])
)


@st.composite
def sendings(draw: st.DrawFn) -> list[Sent]:
    """Few different requests, each sent again and again: alone, several at once, or in pieces."""
    few = draw(st.lists(requests, min_size=1, max_size=3))
    alone = st.builds(lambda one: Sent((one,)), st.sampled_from(few))
    joined = st.builds(lambda some: Sent(tuple(some)), st.lists(st.sampled_from(few), min_size=2, max_size=3))
    cut = st.builds(
        lambda one, at: Sent((one,), tuple(at)),
        st.sampled_from(few),
        st.lists(st.integers(1, 60), min_size=1, max_size=2),
    )
    return draw(st.lists(st.one_of(alone, alone, alone, joined, cut), min_size=2, max_size=8))


ODD = {
    "HEAD": PLAIN.replace(b"GET", b"HEAD"),
    "HTTP/1.0": PLAIN.replace(b"1.1", b"1.0"),
    "to be closed": PLAIN[:-2] + b"Connection: close\r\n\r\n",
    "to be kept": PLAIN[:-2] + b"Connection: keep-alive\r\n\r\n",
    "an upgrade": PLAIN[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "waits to be told to go on": PLAIN[:-2] + b"Expect: 100-continue\r\n\r\n",
    "an empty body": PLAIN[:-2] + b"Content-Length: 0\r\n\r\n",
    "no chunks": PLAIN[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a body": PLAIN[:-2] + b"Content-Length: 3\r\n\r\nabc",
    "chunks": PLAIN[:-2] + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST": PLAIN.replace(b"GET", b"POST"),
    "an empty line before": b"\r\n" + PLAIN,
    "lines of one character": PLAIN.replace(b"\r\n", b"\n"),
    "another name": PLAIN.replace(b"localhost", b"evil.example"),
    "too large": PLAIN[:-2] + b"X: " + b"y" * 5000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("over", ["tcp", "unix"])
@sync
async def test_a_request_that_comes_again_is_answered_as_the_first_time(odd: str, over: str) -> None:
    sending = [Sent((request,)) for request in (ODD[odd], ODD[odd], PLAIN, PLAIN, ODD[odd], PLAIN)]
    remembering = await transcript(Script(["good"]), 16, over, sending)
    assert remembering == await transcript(Script(["good"]), 0, over, sending)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    over=st.sampled_from(["tcp", "unix"]),
    answers=st.lists(st.sampled_from(list(ANSWERS)), min_size=1, max_size=3),
    heads_kept=st.sampled_from([1, 2, 16]),
    sending=sendings(),
)
def test_what_is_remembered_changes_no_answer(
    over: str, answers: list[str], heads_kept: int, sending: list[Sent]
) -> None:
    async def both() -> None:
        remembering = await transcript(Script(answers), heads_kept, over, sending)
        parsing = await transcript(Script(answers), 0, over, sending)
        assert remembering == parsing

    asyncio.run(both())


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("first", ["good", "length twice", "same"])
@sync
async def test_every_answer_to_a_remembered_request_is_the_parsed_one(answer: str, first: str) -> None:
    """In all orders: behind an answer that is remembered, and behind itself."""
    answers = [answer if first == "same" else first, answer, "good", answer]
    for method in (b"GET", b"HEAD"):
        sending = [Sent((PLAIN.replace(b"GET", method),))] * 6
        remembering = await transcript(Script(answers), 16, "tcp", sending)
        assert remembering == await transcript(Script(answers), 0, "tcp", sending)


# --- bounds hold for what is remembered ---------------------------------------------------------------------


HANGS = b"GET /hangs HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.asynccontextmanager
async def remembered(
    limits: Limits,
) -> AsyncIterator[tuple[Served, asyncio.StreamReader, asyncio.StreamWriter]]:
    """GET /hangs has been asked and is known; the next one hangs."""
    async with served(limits) as found:
        reader, writer = await found.connect()
        found.app.may_end.set()
        writer.write(HANGS)
        await whole(reader)
        found.app.may_end.clear()
        found.app.entered.clear()
        found.app.changed.clear()
        yield found, reader, writer
        writer.close()


@sync
async def test_a_remembered_request_is_cancelled_when_its_handler_takes_too_long() -> None:
    async with remembered(FAST) as (found, reader, writer):
        writer.write(HANGS)
        head, body = await whole(reader)
        assert head.startswith(b"HTTP/1.1 503 ") and b"no response within 0.3 s" in body
        assert found.app.cancelled.is_set() and [each["path"] for each in found.app.reports] == ["/hangs"]
        writer.write(GET)
        assert (await whole(reader))[0].startswith(b"HTTP/1.1 200 ")


@sync
async def test_a_remembered_request_is_cancelled_when_its_client_goes_away() -> None:
    async with remembered(SLOW) as (found, _, writer):
        writer.write(HANGS)
        await found.app.entered.wait()
        writer.close()
        await found.app.cancelled.wait()
        assert not found.app.reports


@sync
async def test_a_stop_during_a_remembered_request_says_that_the_connection_closes() -> None:
    async with remembered(SLOW) as (found, reader, writer):
        writer.write(HANGS)
        await found.app.entered.wait()
        closing = asyncio.ensure_future(found.server.close(SOON_S))
        await asyncio.sleep(0)
        found.app.may_end.set()
        assert b"\r\nConnection: close\r\n" in (await whole(reader))[0]
        assert await reader.read() == b""
        await closing


@sync
async def test_a_connection_that_only_repeats_itself_is_closed_when_it_falls_silent() -> None:
    async with served(FAST) as found:
        reader, writer = await found.connect()
        for _ in range(5):
            await asyncio.sleep(FAST.idle_s / 3)
            writer.write(GET)
            await whole(reader)
        assert await reader.read() == b""
        writer.close()


@sync
async def test_half_a_request_after_remembered_ones_is_answered_408() -> None:
    async with served(FAST) as found:
        reader, writer = await found.connect()
        for _ in range(3):
            writer.write(GET)
            await whole(reader)
        writer.write(GET[:-2])
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


@sync
async def test_what_the_unix_socket_has_admitted_is_still_refused_over_tcp() -> None:
    foreign = GET.replace(b"localhost", b"evil.example")
    async with served() as found:
        reader, writer = await found.connect_unix()
        for _ in range(3):
            writer.write(foreign)
            assert (await whole(reader))[0].startswith(b"HTTP/1.1 200 ")
            assert (await found.raw(foreign)).startswith(b"HTTP/1.1 421 ")
        writer.close()


WHO = b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASKS = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print(os.getpid(), sock.recv(4096).decode().rpartition("\\n")[2])
"""


@sync
async def test_the_peer_of_a_remembered_request_is_the_one_who_asks_now() -> None:
    async with served() as found:
        reader, writer = await found.connect_unix()
        for _ in range(2):
            writer.write(WHO)
            assert json.loads((await whole(reader))[1])[0] == os.getpid()
        asking = await asyncio.to_thread(
            subprocess.check_output,
            [sys.executable, "-I", "-c", ASKS, str(found.path), WHO.hex()],
            text=True,
        )
        pid, _, peer = asking.partition(" ")
        assert json.loads(peer)[0] == int(pid) != os.getpid()
        writer.close()
