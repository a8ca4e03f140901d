"""The controller's HTTP: /live /ready /health /metrics and GET /api/v1/status. Answered from the watched
view; the store is not asked.

The rest of the admin API (roles, operations, pages) joins this application under /api/v1.
"""

from __future__ import annotations

from typing import Protocol

import prometheus_client
from aiohttp import web
from prometheus_client.core import GaugeMetricFamily

from controlplane.site import document


class Controller(Protocol):
    """What the routes need of the controller."""

    def status(self) -> document.Status | None:
        """The site's status; None while no view of it has come from the store."""

    @property
    def elected(self) -> bool: ...

    def store_reachable(self) -> bool: ...


def application(controller: Controller) -> web.Application:
    app = web.Application()

    async def live(request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def ready(request: web.Request) -> web.Response:
        return _verdict(controller.status() is not None)

    async def health(request: web.Request) -> web.Response:
        return _verdict(controller.status() is not None and controller.store_reachable())

    async def metrics(request: web.Request) -> web.Response:
        text = prometheus_client.generate_latest(_registry(controller))
        return web.Response(body=text, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def status(request: web.Request) -> web.Response:
        found = controller.status()
        if found is None:
            return web.json_response(
                {"error": "no view of the site yet: the store does not answer"}, status=503
            )
        return web.Response(body=document.encode(found), content_type="application/json")

    for path, handler in (
        ("/live", live),
        ("/ready", ready),
        ("/health", health),
        ("/metrics", metrics),
        ("/api/v1/status", status),
    ):
        app.router.add_get(path, handler)
    return app


def _verdict(good: bool) -> web.Response:
    return web.Response(text="OK") if good else web.Response(text="UNHEALTHY", status=503)


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
        led = GaugeMetricFamily("hft_group_led", "1 while somebody leads", labels=("service",))
        for service in status.services:
            if service.mode == "active_standby":
                epoch.add_metric([service.name], service.epoch or 0)
                led.add_metric([service.name], float(service.leader is not None))
            for i in service.instances:
                passing.add_metric([service.name, i.id, i.host], float(i.well))
        return [elected, reachable, healthy, passing, epoch, led]
