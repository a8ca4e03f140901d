"""Routes about this host as a whole: what checks and Prometheus call, the host's own events, and its end."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from agents import metrics
from agents.agent import Agent
from controlplane.http import answers
from controlplane.site.event_stream import Position

EVENTS_MAX = 1000
AFTER_START = "start"


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
            Route("/v1/checks", self.checks),
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
        """This host's own, oldest first. `after=N`: numbered above N; with `run` (of the event with that
        number) also when the numbers have begun again. `after=start`: since this agent started.
        """
        events, limit = self._agent.events, min(answers.number(request, "limit", EVENTS_MAX), EVENTS_MAX)
        if request.query_params.get("after") == AFTER_START:
            return answers.json(events.of_this_run(limit))
        after, run = answers.number(request, "after", 0), request.query_params.get("run")
        if run is not None:
            return answers.json(events.behind(Position(run, after), limit))
        return answers.json(events.after(after, limit) if after else events.latest(limit))

    async def checks(self, request: Request) -> Response:
        """Of this host's instances, a row each."""
        return answers.json(self._agent.board.rows())

    async def shut_down(self, request: Request) -> Response:
        """Answered at once; then instances, keeper and agent end in order."""
        self._agent.report("agent.shutdown", by="unix socket")
        self._agent.shutdown.set()
        return answers.json({"stopping": len(self._agent.instances)}, 202)
