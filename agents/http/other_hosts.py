"""Asking other hosts' agents, at the URLs of their host records: for what only they know."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from agents import settings
from agents.agent import Agent
from controlplane.errors import Retryable
from controlplane.http import answers, client
from controlplane.http.unix import Answer

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

    async def fetch(self, host: str, target: str, timeout_s: float) -> Answer:
        """Raises Retryable when the host's agent does not answer."""
        site = self._agent.site
        record = site.hosts.get(host) if site else None
        if record is None or not record.url:
            raise Retryable(f"host {host}: its agent is not known")
        try:
            return await client.get(f"{record.url}{target}", timeout_s=timeout_s)
        except Retryable as exc:
            raise Retryable(f"host {host}: its agent at {record.url} does not answer ({exc})") from exc
