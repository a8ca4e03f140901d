"""Routes about the whole site, which any agent answers: its status, its events in one line, a service's
answer and history, and an operator's failover.
"""

from __future__ import annotations

import dataclasses
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agents import settings
from agents.agent import Agent
from agents.http.other_hosts import OtherHosts
from agents.http.site_checks import SiteChecks
from agents.http.site_events import SiteEvents
from controlplane.errors import InvalidInput, Unavailable
from controlplane.http import answers, peer
from controlplane.model import Mode
from controlplane.operations import failover, fence_reset, shown
from controlplane.registry import endpoint_rows
from controlplane.site.view import SiteView

HISTORY_MAX = 500


class SiteRoutes:
    def __init__(self, agent: Agent, others: OtherHosts, failovers: failover.Failovers) -> None:
        self._agent, self._others, self._failovers = agent, others, failovers
        self._events = SiteEvents(agent, others)
        self._checks = SiteChecks(agent, others)

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/site/status", self.status),
            Route("/v1/site/endpoints/{service}", self.endpoints),
            Route("/v1/site/events", self.events),
            Route("/v1/site/checks", self.checks),
            Route("/v1/site/ask/{service}/{what}", self.ask),
            Route("/v1/site/history/{service}", self.history),
            Route("/v1/site/operations", self.operations),
            Route("/v1/site/failover", self.failover, methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        found = self._agent.answers.status()
        if found is None:
            raise Unavailable(
                f"the agent of {self._agent.given.host} has not seen the store yet "
                f"({self._agent.store_health.reason})"
            )
        return answers.json(found)

    async def endpoints(self, request: Request) -> Response:
        """What discovery has of one service, in order of instance."""
        site, service = self._site(), request.path_params["service"]
        found, status = self._agent.discovery.serving(service), self._agent.answers.status()
        try:
            return answers.json(endpoint_rows.of_service(site, service, found, status))
        except InvalidInput as exc:
            raise answers.NotFound(str(exc)) from exc

    async def events(self, request: Request) -> Response:
        """Events of all hosts in one line. `after`: the `cursor` of the last event that the reader has. Those
        of the last moment wait until every host has told its own.
        """
        return answers.json(await self._events.told(request))

    async def checks(self, request: Request) -> Response:
        """Every check of every instance, asked of each host's agent."""
        rows = await self._checks.rows()
        return answers.json({"site": self._agent.given.site, "checks": rows})

    async def ask(self, request: Request) -> Response:
        """Ask the leader, or the only instance."""
        service, what = request.path_params["service"], request.path_params["what"]
        site = self._site()
        spec = site.specs.get(service)
        if spec is None:
            raise _no_such(site, service)
        slots = {slot.instance: slot for slot in spec.slots()}
        chosen = next(iter(slots))
        if spec.mode is Mode.ACTIVE_STANDBY:
            leader = site.leaders.get(service)
            if leader is None or leader.holder is None or leader.holder.instance not in slots:
                raise Unavailable(f"{service} has no leader now")
            chosen = leader.holder.instance
        host = slots[chosen].host
        if host != self._agent.given.host:
            target = f"/v1/instances/{quote(chosen)}/ask/{quote(what)}"
            return await self._others.forward(host, request, f"{chosen} cannot be asked", target)
        args = dict(request.query_params)
        answer = await self._agent.instances.ask(chosen, what, args, settings.ASK_TIMEOUT_S)
        return answers.json({"ok": answer.ok, "body": answer.body, "instance": chosen})

    async def history(self, request: Request) -> Response:
        site, service = self._site(), request.path_params["service"]
        if service not in site.specs:
            raise _no_such(site, service)
        rows = fence_reset.history(site, service)[-HISTORY_MAX:]
        return answers.json([dataclasses.asdict(row) for row in rows])

    async def operations(self, request: Request) -> Response:
        """All that the store has, oldest first, and the hand-overs that nobody asked for."""
        return answers.json(shown.of(self._site()))

    async def failover(self, request: Request) -> Response:
        """Runs to its end though its client goes away: what has been written must be settled and recorded."""
        asked = failover.decode(await request.body())
        asked.actor = peer.name(request.scope)  # the kernel's word, whatever the request says
        try:
            done = await self._failovers.run(asked)
        except InvalidInput as exc:
            return answers.failing(str(exc), 404)
        return answers.json(done, 409 if done["outcome"] == "refused" else 200)

    def _site(self) -> SiteView:
        if self._agent.site is None:
            raise Unavailable("the agent has not seen the store yet")
        return self._agent.site


def _no_such(site: SiteView, service: str) -> answers.NotFound:
    there = ", ".join(sorted(site.specs)) or "none"
    return answers.NotFound(f'service "{service}" is not in site {site.site} (there are {there})')
