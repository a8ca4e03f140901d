"""Routes about one instance: its state, the checks that Consul and load balancers call, its log, and what
only the daemon itself can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from agents import settings
from agents.agent import Agent
from agents.http.other_hosts import OtherHosts
from controlplane.errors import InvalidInput
from controlplane.health import without_outputs
from controlplane.host import log_reading
from controlplane.http import answers, peer
from controlplane.model import Phase
from controlplane.model.observed import InstanceStatus
from hftd.shm import pages

LINES = 100
"""Of a log, unless asked for more or fewer."""


OF_HEALTH = {"passing": 200, "warning": 429, "critical": 503}
"""As Consul's checks take them: 429 is warning, and leaves an instance in service."""


class Call(msgspec.Struct, frozen=True):
    """What comes in for a check of kind ttl."""

    state: str
    output: str = ""


class InstanceRoutes:
    def __init__(self, agent: Agent, others: OtherHosts) -> None:
        self._agent, self._others = agent, others

    def to_everybody(self) -> list[BaseRoute]:
        return [
            Route("/v1/instances", self.instances),
            Route("/v1/instances/{id}", self.instance),
            Route("/v1/instances/{id}/health", self.health),
            Route("/v1/instances/{id}/ready", self.ready),
            Route("/v1/instances/{id}/leader", self.leader),
            Route("/v1/instances/{id}/standby", self.standby),
        ]

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/instances/{id}/log", self.log),
            Route("/v1/instances/{id}/ask/{what}", self.ask),
            Route("/v1/instances/{id}/checks", self.checks),
            Route("/v1/instances/{id}/checks/{name}", self.call_in, methods=["POST"]),
        ]

    async def instances(self, request: Request) -> Response:
        return answers.json([self._shown(each, request) for each in self._agent.instances.statuses()])

    async def instance(self, request: Request) -> Response:
        return answers.json(self._observed(request))

    async def health(self, request: Request) -> Response:
        observed = self._observed(request)
        own = [
            {"check": row.check, "kind": row.kind, "state": row.state}  # outputs are for the owner
            for row in self._agent.board.rows(observed.id)
        ]
        otherwise = OF_HEALTH.get(observed.health, 503)
        return self._check(observed, observed.health == "passing", otherwise, {"checks": own})

    async def ready(self, request: Request) -> Response:
        observed = self._observed(request)
        return self._check(observed, observed.ready)

    async def leader(self, request: Request) -> Response:
        observed = self._observed(request)
        active = observed.phase == Phase.ACTIVE.name.lower()
        leads = observed.role == "leader" and active and self._lease_remaining_ms(observed) > 0
        return self._check(observed, leads)

    async def standby(self, request: Request) -> Response:
        observed = self._observed(request)
        return self._check(observed, observed.role == "standby" and observed.ready)

    def _check(
        self,
        observed: InstanceStatus,
        holds: bool,
        otherwise: int = 503,
        more: Mapping[str, object] | None = None,
    ) -> Response:
        """200 or `otherwise`, with the reason in the body."""
        body = {
            "instance": observed.id,
            "health": observed.health,
            "ready": observed.ready,
            "role": observed.role,
            "phase": observed.phase,
            "epoch": observed.epoch,
            "lease_remaining_ms": self._lease_remaining_ms(observed),
            "reason": observed.reason,
            **(more or {}),
        }
        return answers.json(body, 200 if holds else otherwise)

    def _lease_remaining_ms(self, observed: InstanceStatus) -> int:
        lease = self._agent.instances.lease_page(observed.id)
        if lease is None or lease.wanted is not pages.Wanted.LEAD:
            return 0
        return max(0, lease.valid_until_ns - self._agent.clock.boot_ns()) // 1_000_000

    async def checks(self, request: Request) -> Response:
        """Its checks with their output, which only the floor's own user may read."""
        return answers.json(self._agent.board.rows(self._observed(request).id))

    async def call_in(self, request: Request) -> Response:
        """Something says how it is, for a check of kind ttl: the body is {"state": S, "output": TEXT}."""
        name = self._observed(request).id
        try:
            said = msgspec.json.decode(await request.body(), type=Call)
        except msgspec.DecodeError as exc:
            raise InvalidInput(f'wanted {{"state": "passing", "output": "..."}}: {exc}') from exc
        self._agent.board.call(name, request.path_params["name"], said.state, said.output)
        return answers.json({"instance": name, "check": request.path_params["name"], "state": said.state})

    async def log(self, request: Request) -> Response:
        """The last `lines` of an instance's log, or what comes after `offset`; X-Next-Offset is where to go
        on, also in a log that is rotated meanwhile.
        """
        name = request.path_params["id"]
        if not log_reading.is_name(name):
            raise answers.NotFound(f"{name!r} is not the name of a log")
        path = self._agent.paths.log(name)
        if not path.exists():
            return await self._others.forward(self._others.host_of(name), request, f"no log of {name} yet")
        if "offset" in request.query_params:
            place = log_reading.place(request.query_params["offset"])
            if place is None:
                raise InvalidInput("offset: neither X-Next-Offset of an earlier answer nor a number of bytes")
            part = await asyncio.to_thread(log_reading.after, path, place)
        else:
            part = await asyncio.to_thread(log_reading.last, path, answers.number(request, "lines", LINES))
        return PlainTextResponse(part.content, headers={"X-Next-Offset": str(part.next)})

    async def ask(self, request: Request) -> Response:
        name, what = request.path_params["id"], request.path_params["what"]
        args = {key: value for key, value in request.query_params.items() if key != "timeout_s"}
        answer = await self._agent.instances.ask(name, what, args, settings.ASK_TIMEOUT_S)
        return answers.json({"ok": answer.ok, "body": answer.body, "instance": name})

    def _observed(self, request: Request) -> InstanceStatus:
        name = request.path_params["id"]
        found = self._agent.instances.observe(name)
        if found is None:
            raise answers.NotFound(f"instance {name!r} is not on host {self._agent.given.host}")
        return self._shown(found, request)

    def _shown(self, observed: InstanceStatus, request: Request) -> InstanceStatus:
        """Over TCP, where every local user asks, without what checks have printed."""
        if peer.of(request.scope) is not None:
            return observed
        return replace(observed, reason=without_outputs(observed.reason))
