"""The controller's HTTP: /live /ready /health /metrics, and over its unix socket GET /api/v1/status. Answered
from the watched view; the store is not asked. /live: this loop turns. /ready: it has seen the site. /health:
the site is healthy, as `status` says; if not, 503 with the reasons.

The rest of the admin API (roles, operations, pages) joins this application under /api/v1.
"""

from __future__ import annotations

from typing import Protocol

import prometheus_client
from prometheus_client.core import GaugeMetricFamily
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from controlplane.http import answers, peer
from controlplane.site import document, look, reasons


class Controller(Protocol):
    """What the routes need of the controller."""

    def status(self) -> document.StatusDocument | None:
        """The site's status; None while no view of it has come from the store."""

    def reasons(self) -> list[reasons.Reason] | None:
        """Why the site is not healthy; None as above."""

    @property
    def elected(self) -> bool: ...

    def store_reachable(self) -> bool: ...


def application(controller: Controller) -> ASGIApp:
    async def live(request: Request) -> Response:
        return answers.verdict(True)

    async def ready(request: Request) -> Response:
        return answers.verdict(controller.reasons() is not None)

    async def health(request: Request) -> Response:
        found = controller.reasons()
        if found is None:
            return answers.verdict(False, ["no view of the site yet: the store does not answer"])
        to_the_owner = peer.of(request.scope) is not None
        return answers.verdict(not found, [each.text if to_the_owner else each.brief for each in found])

    async def metrics(request: Request) -> Response:
        text = prometheus_client.generate_latest(_registry(controller))
        return answers.page(text, prometheus_client.CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        found = controller.status()
        if found is None:
            return answers.failing("no view of the site yet: the store does not answer", 503)
        return answers.page(document.encode(found), "application/json")

    return answers.by_door(
        [
            Route("/live", live),
            Route("/ready", ready),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        [Route("/api/v1/status", status)],
    )


def _registry(controller: Controller) -> prometheus_client.CollectorRegistry:
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(controller))
    prometheus_client.ProcessCollector(namespace="hft_controld", registry=registry)
    return registry


class _Collector:
    """A snapshot of the view as metrics; made anew for each scrape, so nothing is ever stale."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> list[GaugeMetricFamily]:
        controller, status = self._controller, self._controller.status()
        elected = GaugeMetricFamily(
            "hft_controller_elected", "1 while this controller is the elected one", float(controller.elected)
        )
        reachable = GaugeMetricFamily(
            "hft_store_reachable", "1 while the store answers", float(controller.store_reachable())
        )
        if status is None:
            return [elected, reachable]
        healthy = GaugeMetricFamily(
            "hft_site_healthy", "1 while every service is as desired", float(status.healthy)
        )
        passing = GaugeMetricFamily(
            "hft_instance_passing",
            "1 while the instance is ready and passing",
            labels=("service", "instance", "host"),
        )
        epoch = GaugeMetricFamily("hft_group_epoch", "Epoch of the group's leader", labels=("service",))
        led = GaugeMetricFamily("hft_group_led", "1 while an instance leads", labels=("service",))
        for service in status.services:
            if service.mode == "active_standby":
                epoch.add_metric([service.name], service.epoch or 0)
                led.add_metric([service.name], float(service.leader is not None))
            for i in service.instances:
                passing.add_metric([service.name, i.id, i.host], float(look.well(i)))
        return [elected, reachable, healthy, passing, epoch, led]
