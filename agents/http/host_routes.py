"""Routes about this host as a whole: what checks and Prometheus call, the host's own events, and its end."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agents import metrics
from agents.agent import Agent
from controlplane.http import answers

EVENTS_MAX = 1000


class HostRoutes:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def to_everybody(self) -> list[BaseRoute]:
        return [
            Route("/live", self.live),
            Route("/ready", self.ready),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/events", self.events),
            Route("/v1/shutdown", self.shut_down, methods=["POST"]),
        ]

    async def live(self, request: Request) -> Response:
        """This loop turns, or nobody would answer."""
        return answers.verdict(True)

    async def ready(self, request: Request) -> Response:
        """Ready when the site has been seen once: from then on every answer here means something."""
        return answers.verdict(self._agent.site is not None)

    async def health(self, request: Request) -> Response:
        """Of this host: its instances, and what critical alarms its agent and its daemons have raised. Of
        the whole site the controller answers.
        """
        agent = self._agent
        passing = all(instance.health == "passing" for instance in agent.instances.statuses())
        alarms = (*agent.instances.alarms(), *agent.alarms.standing())
        critical = any(alarm.severity == "critical" for alarm in alarms)
        return answers.verdict(agent.site is not None and passing and not critical)

    async def metrics(self, request: Request) -> Response:
        instances = self._agent.instances
        page = metrics.text(instances.statuses(), instances.gauges(), self._agent.own_metrics())
        return answers.page(page, metrics.CONTENT_TYPE)

    async def events(self, request: Request) -> Response:
        after, limit = answers.number(request, "after", 0), answers.number(request, "limit", EVENTS_MAX)
        return answers.json(self._agent.events.after(after, limit))

    async def shut_down(self, request: Request) -> Response:
        """Answered at once; then instances, keeper and agent end in order."""
        self._agent.report("agent.shutdown", by="unix socket")
        self._agent.shutdown.set()
        return answers.json({"stopping": len(self._agent.instances)}, 202)
