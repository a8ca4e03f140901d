"""The route by which an operator forces circuit breakers, or lets them decide again. What they are now is in
the status.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agents.agent import Agent
from controlplane.errors import InvalidInput
from controlplane.http import answers, peer
from controlplane.operations import breaker_override
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store


class BreakerRoutes:
    def __init__(self, agent: Agent, store: Store, keys: Keys) -> None:
        self._agent = agent
        self._overrides = breaker_override.BreakerOverrides(store, keys, self._view)

    def _view(self) -> SiteView | None:
        """With what this host's daemons said a moment ago, which the store may not have yet."""
        site = self._agent.site
        return None if site is None else site.with_host(self._agent.answers.host_record())

    def to_the_owner(self) -> list[Route]:
        return [Route("/v1/site/breakers/{name}", self.override, methods=["POST"])]

    async def override(self, request: Request) -> Response:
        asked = breaker_override.decode(await request.body())
        asked.name = request.path_params["name"]
        asked.actor = peer.name(request.scope)  # the kernel's word, whatever the request says
        try:
            return answers.json(await self._overrides.run(asked))
        except InvalidInput as exc:
            return answers.failing(str(exc), 404)
