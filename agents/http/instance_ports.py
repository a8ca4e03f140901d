"""Ports of single instances: `health_port` of a service, answered by the agent on the instance's behalf while
its spec says so.

A check that knows only ADDRESS:PORT of a registration (Consul's, a load balancer's) asks there as if the
daemon itself had HTTP: /health and /ready give 200 `OK` or 503 `UNHEALTHY`, /live whether its process runs
and its loop turns, /metrics what the daemon counts. A port that another process holds is an alarm, and is
tried again; nothing else waits for it.
"""

from __future__ import annotations

import socket

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agents import metrics
from agents.agent import Agent
from agents.http import instance_routes
from controlplane.errors import InUse
from controlplane.http import answers
from controlplane.http.limits import Limits
from controlplane.http.server import Server
from controlplane.model.observed import InstanceStatus

TRY_AGAIN_S = 2.0
STOP_S = 0.1
"""Every answer is from memory: what has not left by then has a client that does not read."""
LIMITS = Limits(connections_max=16)
"""A check, a load balancer and a scraper; an agent may have dozens of these ports."""


class HealthPorts:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._open: dict[int, tuple[str, Server]] = {}
        self._missing: set[int] = set()

    def __repr__(self) -> str:
        return (
            f"<HealthPorts of {self._agent.given.host}: "
            f"{', '.join(str(port) for port in sorted(self._open)) or 'none'}>"
        )

    async def run(self) -> None:
        """Until cancelled: have just the ports open that the specs of this host name."""
        news = self._agent.follower.news("specs")
        try:
            await self._agent.follower.first_view()
            await self._settle(self._wanted())
            while True:
                with anyio.move_on_after(TRY_AGAIN_S) as waited:
                    await news.next()
                if self._missing or not waited.cancelled_caught:
                    await self._settle(self._wanted())
        finally:
            with anyio.CancelScope(shield=True):
                for port in list(self._open):
                    await self._close(port)

    def _wanted(self) -> dict[int, str]:
        site, host = self._agent.site, self._agent.given.host
        specs = site.specs.values() if site else ()
        return {
            port: slot.instance for spec in specs for slot, port in spec.health_ports() if slot.host == host
        }

    async def _settle(self, wanted: dict[int, str]) -> None:
        for port in [port for port, (instance, _) in self._open.items() if wanted.get(port) != instance]:
            await self._close(port)
        for port in self._missing - set(wanted):
            self._agent.alarms.clear(f"health_port.{port}")
        self._missing &= set(wanted)
        for port, instance in wanted.items():
            if port not in self._open:
                await self._listen(port, instance)

    async def _listen(self, port: int, instance: str) -> None:
        server = Server(application(self._agent, instance), report=self._agent.report, limits=LIMITS)
        given = self._agent.given
        names = (given.host, given.http_address, socket.gethostname(), *given.http_names)
        try:
            await server.listen_tcp(self._agent.given.http_address, port, names=names)
        except InUse as exc:
            self._missing.add(port)
            self._agent.alarms.raise_(
                f"health_port.{port}", "warning", f"health of {instance} is not answered: {exc}"
            )
            return
        self._open[port] = (instance, server)
        self._missing.discard(port)
        self._agent.alarms.clear(f"health_port.{port}")

    async def _close(self, port: int) -> None:
        _, server = self._open.pop(port)
        await server.close(STOP_S)


def application(agent: Agent, name: str) -> ASGIApp:
    """The routes of one instance, from memory as all of the agent's."""

    def observed() -> InstanceStatus | None:
        """None while its spec is new, or just gone."""
        return agent.instances.observe(name)

    async def live(request: Request) -> Response:
        return answers.verdict(agent.instances.turns(name))

    async def ready(request: Request) -> Response:
        found = observed()
        return answers.verdict(found is not None and found.ready)

    async def health(request: Request) -> Response:
        found = observed()
        return answers.verdict(found is not None and found.health == "passing")

    async def checked(request: Request) -> Response:
        found = observed()
        state = found.health if found is not None else "critical"
        return PlainTextResponse(state, instance_routes.OF_HEALTH.get(state, 503))

    async def page(request: Request) -> Response:
        found = observed()
        if found is None:
            return answers.verdict(False)
        return answers.page(metrics.text([found], agent.instances.gauges()), metrics.CONTENT_TYPE)

    return answers.application(
        [
            Route("/live", live),
            Route("/ready", ready),
            Route("/health", health),
            Route(f"/v1/instances/{name}/health", checked),  # what Consul asks at any instance's address
            Route("/metrics", page),
        ]
    )
