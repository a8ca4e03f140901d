"""Routes by which an operator registers what is not the floor's, and takes instances out of service. On the
unix socket alone; the actor is the peer's user, as the kernel tells it.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agents.agent import Agent
from controlplane.http import answers, peer
from controlplane.operations import registration
from controlplane.store import Keys, Store


class RegistrationRoutes:
    def __init__(self, agent: Agent, store: Store, keys: Keys) -> None:
        self._agent = agent
        self._registrations = registration.Registrations(store, keys, agent.follower)

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/site/register", self.register, methods=["POST"]),
            Route("/v1/site/deregister", self.deregister, methods=["POST"]),
            Route("/v1/site/maintenance", self.maintain, methods=["POST"]),
        ]

    async def register(self, request: Request) -> Response:
        asked = registration.decode(registration.RegisterRequest, await request.body())
        asked.actor = peer.name(request.scope)
        return self._answer(await self._registrations.register(asked), asked.actor)

    async def deregister(self, request: Request) -> Response:
        asked = registration.decode(registration.DeregisterRequest, await request.body())
        asked.actor = peer.name(request.scope)
        return self._answer(await self._registrations.deregister(asked), asked.actor)

    async def maintain(self, request: Request) -> Response:
        asked = registration.decode(registration.MaintenanceRequest, await request.body())
        asked.actor = peer.name(request.scope)
        return self._answer(await self._registrations.maintain(asked), asked.actor)

    def _answer(self, done: dict[str, Any], actor: str) -> Response:
        said = {name: value for name, value in done.items() if name != "kind"}
        self._agent.report(f"registry.{done['kind']}", actor=actor, **said)
        return answers.json(done, 409 if done["outcome"] == "refused" else 200)
