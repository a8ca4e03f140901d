"""The HTTP server, fed with requests that are almost right: each connection gets an answer or its end, no
other one notices, and no line of log is written for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controlplane.http import answers
from controlplane.http.server import Server
from tests.fuzz import mutate
from tests.support.http_served import FAST

REQUESTS = [
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
    b"GET /v1/events?after=12&limit=3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"HEAD /health HTTP/1.0\r\n\r\n",
    b"POST /v1/shutdown HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nnull",
    b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3,
]
STATUSES = {b"200", b"400", b"403", b"404", b"405", b"408", b"413", b"421", b"431", b"501", b"503", b"505"}
AT_ONCE = 3
"""One of the four connections stays free for the one that looks."""


async def health(request: Request) -> Response:
    return answers.json({"after": answers.number(request, "after", 0)})


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 20)
        return b""
    finally:
        writer.close()


def test_requests_that_are_almost_right() -> None:
    async def story() -> dict[bytes, int]:
        reports: list[Any] = []
        app = answers.application([Route("/health", health), Route("/v1/events", health)])
        server = Server(app, report=lambda kind, **fields: reports.append((kind, fields)), limits=FAST)
        port = await server.listen_tcp("127.0.0.1", 0)
        seen: dict[bytes, int] = {}
        waiting: set[asyncio.Task[bytes]] = set()

        async def finish(leave: int) -> None:
            while len(waiting) > leave:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    waiting.discard(task)
                    answer = task.result()
                    code = answer.split(b" ")[1] if answer.startswith(b"HTTP/1.1 ") else b""
                    assert not answer or code in STATUSES, (task.get_name(), answer[:300])
                    seen[code] = seen.get(code, 0) + 1

        for number, case in mutate.cases(REQUESTS, "none"):
            name = f"HFT_FUZZ_SEED={number}: {case[:300]!r}"
            waiting.add(asyncio.create_task(exchange(port, case), name=name))
            if random.random() < 0.02:
                await finish(0)
                assert (await exchange(port, REQUESTS[0])).startswith(b"HTTP/1.1 200 "), name
            await finish(AT_ONCE - 1)
        await finish(0)
        assert (await exchange(port, REQUESTS[0])).startswith(b"HTTP/1.1 200 ")
        assert not reports, reports[:3]
        await server.close(1.0)
        assert server.connections == 0
        return seen

    seen = asyncio.run(asyncio.wait_for(story(), 100))
    assert {b"200", b"400"} <= set(seen), seen
