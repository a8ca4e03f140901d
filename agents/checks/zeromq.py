"""A ping to a ROUTER or REP: a DEALER of its own for each look, so that no late answer counts for another.

The frames sent are (empty, `send`), which a REP takes as a request; docs/health-checks.md has what a ROUTER
has to do.
"""

from __future__ import annotations

import asyncio

import zmq

from agents.checks.target import Result, Target, cut
from controlplane.model.checks import ZmqCheck

ANSWER_BYTES_MAX = 65_536


class Pings:
    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    async def probe(self, check: ZmqCheck, target: Target) -> Result:
        """Waits for ever when nobody answers."""
        endpoint = target.filled(check.endpoint)
        if "://" not in endpoint:
            known = target.endpoints.get(endpoint)
            if known is None:
                there = ", ".join(sorted(target.endpoints)) or "none"
                return Result(
                    "critical", f'the instance reports no endpoint "{endpoint}" (it reports {there})'
                )
            endpoint = known
        if self._context is None:
            self._context = zmq.Context()
        try:
            socket = self._context.socket(zmq.DEALER)
        except zmq.ZMQError as exc:
            return Result("critical", f"no socket to ask with: {exc}")
        try:
            for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 1), (zmq.RCVHWM, 1)):
                socket.setsockopt(option, value)
            socket.setsockopt(zmq.MAXMSGSIZE, ANSWER_BYTES_MAX)
            socket.connect(endpoint)
            socket.send_multipart([b"", target.filled(check.send).encode()], zmq.DONTWAIT)
            frames = await _received(socket)
        except zmq.ZMQError as exc:
            return Result("critical", f"{endpoint}: {exc}")
        finally:
            socket.close()
        content = b" ".join(frame for frame in frames if frame)
        if check.expect and check.expect.encode() not in content:
            return Result("critical", f'{endpoint} answers without "{check.expect}": {cut(content[:200])}')
        return Result("passing", f"{endpoint} answers: {cut(content[:200]) or 'nothing in it'}")

    def close(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


async def _received(socket: zmq.Socket[bytes]) -> list[bytes]:
    loop = asyncio.get_running_loop()
    fd = int(socket.getsockopt(zmq.FD))
    while True:
        try:
            return socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            pass
        news = loop.create_future()
        loop.add_reader(fd, _settle, news)  # edges: what came before was tried for just now
        try:
            await news
        finally:
            loop.remove_reader(fd)


def _settle(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
