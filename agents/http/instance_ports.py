"""Ports of single instances: `health_port` of a service, answered by the agent on the instance's behalf while
its spec says so.

A check that knows only ADDRESS:PORT of a registration (Consul's, a load balancer's) asks there as if the
daemon itself had HTTP: /health and /ready give 200 `OK` or 503 `UNHEALTHY`, /live whether its process runs,
/metrics what the daemon counts. A port that somebody else holds is an alarm, and is tried again; nothing else
waits for it.
"""

from __future__ import annotations

import os

import anyio
from aiohttp import web

from agents import metrics
from agents.agent import Agent
from agents.http.routes import plain
from controlplane.model import InstanceStatus

TRY_AGAIN_S = 2.0


class HealthPorts:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._open: dict[int, tuple[str, web.AppRunner]] = {}
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
        runner = web.AppRunner(application(self._agent, instance), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._agent.given.http_address, port).start()
        except OSError as exc:
            await runner.cleanup()
            self._missing.add(port)
            where = f"{self._agent.given.http_address}:{port}"
            self._agent.alarms.raise_(
                f"health_port.{port}",
                "warning",
                f"health of {instance} is not answered: {where}: {os.strerror(exc.errno or 0)}",
            )
            return
        self._open[port] = (instance, runner)
        self._missing.discard(port)
        self._agent.alarms.clear(f"health_port.{port}")

    async def _close(self, port: int) -> None:
        _, runner = self._open.pop(port)
        await runner.cleanup()


def application(agent: Agent, name: str) -> web.Application:
    """The routes of one instance, from memory as all of the agent's."""

    def observed() -> InstanceStatus:
        found = agent.instances.observe(name)
        if found is None:
            raise web.HTTPServiceUnavailable(text="UNHEALTHY")  # its spec is new, or just gone
        return found

    async def live(request: web.Request) -> web.Response:
        return plain(observed().pid is not None)

    async def ready(request: web.Request) -> web.Response:
        return plain(observed().ready)

    async def health(request: web.Request) -> web.Response:
        return plain(observed().health == "passing")

    async def page(request: web.Request) -> web.Response:
        found = observed()
        return web.Response(
            body=metrics.text([found], agent.instances.gauges()),
            headers={"Content-Type": metrics.CONTENT_TYPE},
        )

    app = web.Application()
    for path, answer in {"/live": live, "/ready": ready, "/health": health, "/metrics": page}.items():
        app.router.add_get(path, answer)
    return app
