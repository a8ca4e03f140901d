"""The calls to the host's own Consul agent. Each may be said twice without harm, so one whose answer was lost
is simply said again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from controlplane.errors import InvalidInput, Unavailable
from controlplane.registry.consul import definition
from controlplane.store.consul.calls import Calls
from controlplane.store.consul.http import Broken, Server

PROBE_S = 0.5
"""Of asking whether a process serves, before it is registered; what does not answer so soon begins
critical."""


class LocalAgent:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @property
    def address(self) -> str:
        return self._calls.addresses[0]

    async def services(self, site: str) -> Mapping[str, definition.Service]:
        """What it holds of the site, by id; of another's token, nothing. Raises as Calls.ask does."""
        only = {"filter": f'"{definition.site_tag(site)}" in Tags'}
        answer = await self._calls.ask("GET", "agent/services", only)
        found: dict[str, definition.Service] = _decoded(definition.services, answer.body, "agent/services")
        return found

    async def checks(self, site: str) -> Mapping[str, definition.Check]:
        only = {"filter": f'"{definition.site_tag(site)}" in ServiceTags'}
        answer = await self._calls.ask("GET", "agent/checks", only)
        found: dict[str, definition.Check] = _decoded(definition.checks, answer.body, "agent/checks")
        return found

    async def service(self, instance: str) -> definition.Service | None:
        answer = await self._calls.ask("GET", f"agent/service/{instance}")
        return _decoded(_service, answer.body, "agent/service") if answer.status == 200 else None

    async def register(self, service: Mapping[str, Any], check: Mapping[str, Any] | None) -> None:
        """In place of what it held under the id. The check of that name keeps its state, and so do others."""
        body = json.dumps({**service, **({"Check": check} if check is not None else {})}).encode()
        await self._calls.ask("PUT", "agent/service/register", body=body, good=frozenset({200}))

    async def deregister(self, instance: str) -> None:
        """What it does not hold is fine."""
        await self._calls.ask("PUT", f"agent/service/deregister/{instance}")

    async def maintain(self, instance: str, reason: str) -> None:
        """Into maintenance; with an empty reason, out of it."""
        query = {"enable": "true", "reason": reason} if reason else {"enable": "false"}
        await self._calls.ask("PUT", f"agent/service/maintenance/{instance}", query)


_service = msgspec.json.Decoder(definition.Service)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unavailable(f"consul agent: {what}: an answer that no Consul gives: {exc}") from exc


async def serves_now(url: str) -> bool:
    """Whether what Consul will probe answers well at this moment."""
    found = urlsplit(url)
    try:
        if found.scheme == "https" or found.hostname is None or found.port is None:
            return False  # Consul's first probe says
        address = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
        async with asyncio.timeout(PROBE_S):
            if found.scheme == "tcp":
                _, writer = await asyncio.open_connection(found.hostname, found.port)
                writer.close()
                return True
            server = Server(f"{address}:{found.port}", None)
            target = quote(found.path or "/", safe="/%") + (f"?{found.query}" if found.query else "")
            answer = await server.ask("GET", target, "")
            await server.close()
            return 200 <= answer.status < 300
    except (Broken, InvalidInput, OSError, TimeoutError, ValueError):
        return False
