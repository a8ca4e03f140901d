"""Asking other hosts' agents, for what only they know: over their sockets in the run folder, which the agents
of a machine share. Between machines nothing is fetched: nothing there is encrypted or authenticated yet.
"""

from __future__ import annotations

import asyncio
import functools

from starlette.requests import Request
from starlette.responses import Response

from agents import settings
from agents.agent import Agent
from controlplane.errors import FloorUnreachable, Retryable
from controlplane.http import answers, unix
from controlplane.http.unix import Answer

LIVE = "/live"
PASSED_ON = ("content-type", "x-next-offset")


class OtherHosts:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def names(self) -> list[str]:
        site = self._agent.site
        return [host for host in (site.hosts if site else {}) if host != self._agent.given.host]

    def host_of(self, instance: str) -> str | None:
        site = self._agent.site
        slots = [slot for spec in site.specs.values() for slot in spec.slots()] if site else []
        return next((slot.host for slot in slots if slot.instance == instance), None)

    async def forward(
        self, host: str | None, request: Request, otherwise: str, path: str | None = None
    ) -> Response:
        """The other agent's answer as it is, to the same path unless another is given; NotFound `otherwise`
        when there is no other host to ask.
        """
        if host is None or host == self._agent.given.host:
            raise answers.NotFound(otherwise)
        sent = request.scope["raw_path"], request.scope["query_string"]
        asked_path, query = (part.decode("latin-1") for part in sent)
        target = f"{path or asked_path}{f'?{query}' if query else ''}"
        answer = await self.fetch(host, target, timeout_s=settings.ASK_TIMEOUT_S + 1)
        passed = {name: value for name, value in answer.headers.items() if name in PASSED_ON}
        return Response(answer.body, answer.status, passed)

    async def fetch(
        self, host: str, target: str, timeout_s: float, method: str = "GET", body: bytes = b""
    ) -> Answer:
        """Raises Retryable: the host's agent does not answer, or is on another machine."""
        path = self._agent.paths.http_socket_of(host)
        if not path.exists():
            raise Retryable(f"that is known to the agent of {host} alone, and it is not here: ask on {host}")
        try:
            ask = functools.partial(unix.request, path, method, target, body, timeout_s=timeout_s)
            return await asyncio.to_thread(ask, live=LIVE if method == "GET" else "")
        except FloorUnreachable as exc:
            raise Retryable(f"host {host}: its agent does not answer ({exc})") from exc
