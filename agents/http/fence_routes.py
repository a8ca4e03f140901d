"""Routes about fences: how the receivers of a group stand to the store, and setting them to it. Under
/v1/site for the whole site, under /v1/fences for this host, which is what agents ask one another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agents import host_fences, settings
from agents.agent import Agent
from agents.http.other_hosts import OtherHosts
from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Refused, Retryable, Unavailable
from controlplane.http import answers, peer
from controlplane.operations import fence_reset
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

HOST_TIMEOUT_S = 2 * settings.ASK_TIMEOUT_S + 1.0
"""Of another host: its receivers are looked at, then set."""


class FenceRoutes:
    def __init__(self, agent: Agent, others: OtherHosts, store: Store, keys: Keys) -> None:
        self._agent, self._others, self._store, self._keys = agent, others, store, keys
        self._here = host_fences.HostFences(agent.given.host, agent.paths, agent.instances, store, keys)
        self._resets = fence_reset.FenceResets(store, keys, agent.follower, self._reset_on)

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/fences/{service}", self.show_here),
            Route("/v1/fences/{service}/reset/{operation}", self.reset_here, methods=["POST"]),
            Route("/v1/site/fences/{service}", self.show),
            Route("/v1/site/fences/{service}/reset", self.reset, methods=["POST"]),
        ]

    # --- this host ------------------------------------------------------------------------------------------

    async def show_here(self, request: Request) -> Response:
        return answers.json(await self._here.show(request.path_params["service"]))

    async def reset_here(self, request: Request) -> Response:
        """Only for a reset that the store says is under way; who asked for it is in its record."""
        service, operation = request.path_params["service"], request.path_params["operation"]
        return answers.json(await self._here.reset(service, operation))

    # --- the site -------------------------------------------------------------------------------------------

    async def show(self, request: Request) -> Response:
        service = request.path_params["service"]
        view = self._view(service)
        if why_not := fence_reset.judge(view, service):
            raise Refused(why_not)
        store = await fence_reset.held(self._store, self._keys, service)
        parts = await asyncio.gather(*(self._show_on(host, service) for host in fence_reset.hosts_of(view)))
        rows = [row for part in parts for row in part]
        return answers.json({"service": service, "store": fence_reset.shown(store), "receivers": rows})

    async def _show_on(self, host: str, service: str) -> Sequence[Mapping[str, Any]]:
        try:
            if host == self._agent.given.host:
                return await self._here.show(service)
            return await self._fetch(host, f"/v1/fences/{quote(service)}", "GET")
        except Retryable as exc:
            return [{"instance": None, "host": host, "stands": f"not known: {exc}"}]

    async def reset(self, request: Request) -> Response:
        """Runs to its end though its client goes away, as a failover does."""
        asked = fence_reset.decode(await request.body())
        asked.service = request.path_params["service"]
        asked.actor = peer.name(request.scope)  # the kernel's word, whatever the request says
        try:
            done = await self._resets.run(asked)
        except InvalidInput as exc:
            return answers.failing(str(exc), 404)
        self._agent.report(
            "fence.reset",
            service=asked.service,
            outcome=done["outcome"],
            actor=asked.actor,
            reason=asked.reason,
            operation=done["operation"],
            receivers=[row["instance"] for row in done["receivers"] if row["outcome"] == "reset"],
        )
        return answers.json(done, 409 if done["outcome"] == "refused" else 200)

    async def _reset_on(self, host: str, service: str, operation: str) -> Sequence[Mapping[str, Any]]:
        if host == self._agent.given.host:
            return await self._here.reset(service, operation)
        target = f"/v1/fences/{quote(service)}/reset/{quote(operation)}"
        return await self._fetch(host, target, "POST")

    async def _fetch(self, host: str, target: str, method: str) -> list[dict[str, Any]]:
        """Raises Retryable, Refused."""
        answer = await self._others.fetch(host, target, HOST_TIMEOUT_S, method)
        if answer.status < 400:
            return host_fences.decode_rows(answer.body)
        said = answer.body.decode("utf-8", "replace")
        with contextlib.suppress(msgspec.DecodeError):  # then its text is all there is to say
            said = str(model.decode(dict[str, Any], answer.body).get("error", said))
        error: type[HftctlError] = Retryable if answer.status >= 500 else Refused
        raise error(f"host {host}: {said}")

    def _view(self, service: str) -> SiteView:
        view = self._agent.site
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        if service not in view.specs:
            there = ", ".join(sorted(view.specs))
            raise answers.NotFound(f'service "{service}" is not in site {view.site} (there are {there})')
        return view
