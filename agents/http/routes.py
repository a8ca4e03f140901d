"""The agent's HTTP, on its unix socket and on TCP: health for checks, metrics, and the whole site for
`hftctl`, all from memory.

Plain routes of design section 10 and those under /v1/site, which any agent answers for the whole site. What
only another host knows (a log, a daemon's answer, its events) is fetched from that host's agent over TCP.
Nothing here asks the store, save a failover (failovers.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web

from agents import metrics, settings
from agents.agent import Agent
from agents.http import log_files
from controlplane.errors import HftctlError, InvalidInput, Retryable, Unavailable
from controlplane.model import InstanceStatus, Mode, Phase
from controlplane.operations import failover
from controlplane.site import document
from hftd.shm import pages

EVENTS_MAX = 1000
HISTORY_MAX = 500
BODY_BYTES_MAX = 64 << 10

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(body: Any, http_status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=http_status, content_type="application/json")


def failing(why: str, http_status: int) -> web.Response:
    return json_response({"error": why}, http_status)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One error shape for all routes; the code says whose turn it is."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return failing(exc.reason, exc.status)
    except InvalidInput as exc:
        return failing(str(exc), 400)
    except Retryable as exc:
        return failing(str(exc), 503)
    except HftctlError as exc:
        return failing(str(exc), 409)


class Http:
    def __init__(self, agent: Agent, failovers: failover.Failovers) -> None:
        self.agent, self.failovers = agent, failovers
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=BODY_BYTES_MAX)
        get, post = app.router.add_get, app.router.add_post
        get("/live", self.live)
        get("/ready", self.ready)
        get("/health", self.health)
        get("/metrics", self.metrics)
        get("/v1/instances", self.instances)
        get("/v1/instances/{id}", self.instance)
        get("/v1/instances/{id}/log", self.log)
        get("/v1/instances/{id}/ask/{what}", self.ask_instance)
        get("/v1/instances/{id}/{check:health|ready|leader|standby}", self.check)
        get("/v1/events", self.own_events)
        get("/v1/site/status", self.site_status)
        get("/v1/site/events", self.site_events)
        get("/v1/site/ask/{service}/{what}", self.ask_service)
        get("/v1/site/history/{service}", self.history)
        post("/v1/site/failover", self.failover)
        post("/v1/shutdown", self.shut_down)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        if self._session is not None:
            await self._session.close()

    # --- this host ------------------------------------------------------------------------------------------

    async def live(self, request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def ready(self, request: web.Request) -> web.Response:
        """Ready when the site has been seen once: then every answer here means something."""
        return plain(self.agent.site is not None)

    async def health(self, request: web.Request) -> web.Response:
        found = self.agent.instances.statuses()
        return plain(self.agent.site is not None and all(instance.health == "passing" for instance in found))

    async def metrics(self, request: web.Request) -> web.Response:
        page = metrics.text(
            self.agent.instances.statuses(), self.agent.instances.gauges(), self.agent.own_metrics()
        )
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def instances(self, request: web.Request) -> web.Response:
        return json_response(self.agent.instances.statuses())

    async def instance(self, request: web.Request) -> web.Response:
        return json_response(self._own(request.match_info["id"]))

    async def check(self, request: web.Request) -> web.Response:
        """200 or 503, with the reason in the body: what a Consul check or a load balancer calls."""
        observed = self._own(request.match_info["id"])
        lease = self.agent.instances.lease_page(observed.id)
        remaining_ms = (
            max(0, lease.valid_until_ns - self.agent.clock.boot_ns()) // 1_000_000
            if lease and lease.wanted is pages.Wanted.LEAD
            else 0
        )
        leads = observed.role == "leader" and observed.phase == Phase.ACTIVE.name.lower() and remaining_ms > 0
        holds = {
            "health": observed.health == "passing",
            "ready": observed.ready,
            "leader": leads,
            "standby": observed.role == "standby" and observed.ready,
        }[request.match_info["check"]]
        body = {
            "instance": observed.id,
            "health": observed.health,
            "ready": observed.ready,
            "role": observed.role,
            "phase": observed.phase,
            "epoch": observed.epoch,
            "lease_remaining_ms": remaining_ms,
            "reason": observed.reason,
        }
        return json_response(body, 200 if holds else 503)

    async def log(self, request: web.Request) -> web.StreamResponse:
        """The last `lines` of an instance's log, or what comes after byte `offset`; X-Next-Offset is where to
        go on.
        """
        name = request.match_info["id"]
        path = self.agent.paths.log(name)
        if not log_files.is_name(name):
            raise web.HTTPNotFound(reason=f"{name!r} is not the name of a log")
        if not path.exists():
            return await self._forward(self._host_of(name), request.path_qs, f"no log of {name} yet")
        if "offset" in request.query:
            part = await asyncio.to_thread(log_files.after, path, _number(request, "offset", 0))
        else:
            part = await asyncio.to_thread(log_files.last, path, _number(request, "lines", 100))
        return web.Response(text=part.text, headers={"X-Next-Offset": str(part.next_offset)})

    async def ask_instance(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        args = {key: value for key, value in request.query.items() if key != "timeout_s"}
        answer = await self.agent.instances.ask(
            name, request.match_info["what"], args, settings.ASK_TIMEOUT_S
        )
        return json_response({"ok": answer.ok, "body": answer.body, "instance": name})

    async def own_events(self, request: web.Request) -> web.Response:
        return json_response(
            self.agent.events.after(_number(request, "after", 0), _number(request, "limit", EVENTS_MAX))
        )

    async def shut_down(self, request: web.Request) -> web.Response:
        """Answered at once; then instances, keeper and agent end in order."""
        self.agent.report("agent.shutdown", by=request.remote or "unix socket")
        self.agent.shutdown.set()
        return json_response({"stopping": len(self.agent.instances)}, 202)

    def _own(self, name: str) -> InstanceStatus:
        found = self.agent.instances.observe(name)
        if found is None:
            raise web.HTTPNotFound(reason=f"instance {name!r} is not on host {self.agent.given.host}")
        return found

    # --- the whole site -------------------------------------------------------------------------------------

    async def site_status(self, request: web.Request) -> web.Response:
        found = self.agent.answers.status()
        if found is None:
            raise Unavailable(
                f"the agent of {self.agent.given.host} has not seen the store yet "
                f"({self.agent.store_health.reason})"
            )
        return json_response(found)

    async def site_events(self, request: web.Request) -> web.Response:
        """Events of all hosts in one line, numbered by time; those of the last moment wait until every host
        has told its own.
        """
        after, limit = _number(request, "after", 0), min(_number(request, "limit", 100), EVENTS_MAX)
        until_ns = self.agent.clock.wall_ns() - int(settings.EVENT_SETTLE_S * 1e9)
        own = msgspec.to_builtins(self.agent.events.after(after, limit))
        others = await asyncio.gather(*(self._events_of(host, after, limit) for host in self._other_hosts()))
        found = [event for part in (own, *others) for event in part if event["n"] <= until_ns]
        found.sort(key=lambda event: event["n"])
        picked = found[:limit] if after else found[-limit:]
        return json_response(
            [
                {
                    "n": e["n"],
                    "at": document.iso(e["n"]),
                    "host": e["host"],
                    "kind": e["kind"],
                    "fields": e["fields"],
                }
                for e in picked
            ]
        )

    async def _events_of(self, host: str, after: int, limit: int) -> list[dict[str, Any]]:
        try:
            body, _, _ = await self._fetch(host, f"/v1/events?after={after}&limit={limit}", timeout_s=1.0)
            found: list[dict[str, Any]] = msgspec.json.decode(body)
        except (Retryable, msgspec.DecodeError):
            return []  # its agent is away: what it knows is told when it is back
        return found

    async def ask_service(self, request: web.Request) -> web.StreamResponse:
        """Ask the leader, or the only instance."""
        service, what = request.match_info["service"], request.match_info["what"]
        site = self.agent.site
        if site is None:
            raise Unavailable("the agent has not seen the store yet")
        spec = site.specs.get(service)
        if spec is None:
            raise web.HTTPNotFound(
                reason=f'service "{service}" is not in site {site.site} (there are '
                f"{', '.join(sorted(site.specs))})"
            )
        slots = {slot.instance: slot for slot in spec.slots()}
        chosen = next(iter(slots))
        if spec.mode is Mode.ACTIVE_STANDBY:
            leader = site.leaders.get(service)
            if leader is None or leader.holder is None or leader.holder.instance not in slots:
                raise Unavailable(f"{service} has no leader now")
            chosen = leader.holder.instance
        query = f"?{request.query_string}" if request.query_string else ""
        target = f"/v1/instances/{quote(chosen)}/ask/{quote(what)}{query}"
        if slots[chosen].host != self.agent.given.host:
            return await self._forward(slots[chosen].host, target, f"{chosen} cannot be asked")
        answer = await self.agent.instances.ask(chosen, what, dict(request.query), settings.ASK_TIMEOUT_S)
        return json_response({"ok": answer.ok, "body": answer.body, "instance": chosen})

    async def history(self, request: web.Request) -> web.Response:
        site, service = self.agent.site, request.match_info["service"]
        if site is None:
            raise Unavailable("the agent has not seen the store yet")
        if service not in site.specs:
            raise web.HTTPNotFound(reason=f'service "{service}" is not in site {site.site}')
        rows = sorted(site.history.get(service, ()), key=lambda row: row.epoch)[-HISTORY_MAX:]
        return json_response([dataclasses.asdict(row) for row in rows])

    async def failover(self, request: web.Request) -> web.Response:
        asked = failover.decode(await request.read())
        try:
            done = await self.failovers.run(asked)
        except InvalidInput as exc:
            return failing(str(exc), 404)
        return json_response(done, 409 if done["outcome"] == "refused" else 200)

    # --- other hosts ----------------------------------------------------------------------------------------

    def _other_hosts(self) -> list[str]:
        site = self.agent.site
        return [host for host in (site.hosts if site else {}) if host != self.agent.given.host]

    def _host_of(self, instance: str) -> str | None:
        site = self.agent.site
        slots = [slot for spec in site.specs.values() for slot in spec.slots()] if site else []
        return next((slot.host for slot in slots if slot.instance == instance), None)

    async def _forward(self, host: str | None, target: str, otherwise: str) -> web.StreamResponse:
        """The other agent's answer as it is."""
        if host is None or host == self.agent.given.host:
            raise web.HTTPNotFound(reason=otherwise)
        body, code, headers = await self._fetch(host, target, timeout_s=settings.ASK_TIMEOUT_S + 1)
        passed = {name: value for name, value in headers.items() if name in ("Content-Type", "X-Next-Offset")}
        return web.Response(body=body, status=code, headers=passed)

    async def _fetch(self, host: str, target: str, timeout_s: float) -> tuple[bytes, int, dict[str, str]]:
        """Raises Retryable when the host's agent does not answer."""
        site = self.agent.site
        record = site.hosts.get(host) if site else None
        if record is None or not record.url:
            raise Retryable(f"host {host}: its agent is not known")
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with self._session.get(
                f"{record.url}{target}", timeout=aiohttp.ClientTimeout(timeout_s)
            ) as answer:
                return await answer.read(), answer.status, dict(answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Retryable(
                f"host {host}: its agent at {record.url} does not answer ({type(exc).__name__})"
            ) from exc


def plain(good: bool) -> web.Response:
    return web.Response(text="OK" if good else "UNHEALTHY", status=200 if good else 503)


def _number(request: web.Request, name: str, default: int) -> int:
    found = request.query.get(name, "")
    if not found:
        return default
    if not found.isdecimal():
        raise InvalidInput(f"{name}={found!r}: a whole number wanted")
    return int(found)
