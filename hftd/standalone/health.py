"""What Consul asks of a daemon that registers itself, answered on loopback: well means that its loop says
once a second that it is ready. The answer is given by the thread beside the loop, so that a stuck loop is
seen.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controlplane.http import answers
from controlplane.http.limits import Limits
from controlplane.http.server import Server

STALE_S = 3.0
"""Three statuses that did not come, as an agent counts."""
STOP_S = 0.1
LIMITS = Limits(connections_max=16)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Serving:
    port: int
    server: Server

    async def close(self) -> None:
        await self.server.close(STOP_S)


class Health:
    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._ready = False
        self._heard_mono_s = 0.0

    def heard(self, *, ready: bool) -> None:
        """The daemon has said how it is."""
        self._ready, self._heard_mono_s = ready, time.monotonic()

    @property
    def well(self) -> bool:
        return self._ready and time.monotonic() - self._heard_mono_s < STALE_S

    def url(self, port: int) -> str:
        return f"http://{LOOPBACK}:{port}/v1/instances/{quote(self._instance)}/health"

    async def serve(self, port: int) -> Serving:
        """Raises InUse: the port is another's."""

        async def health(request: Request) -> Response:
            return answers.verdict(self.well)

        routes = [Route("/health", health), Route(f"/v1/instances/{self._instance}/health", health)]
        server = Server(answers.application(routes), limits=LIMITS, report=lambda kind, **fields: None)
        names = [socket.gethostname()]
        return Serving(await server.listen_tcp(LOOPBACK, port, names=names), server)
