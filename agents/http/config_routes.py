"""Routes of configuration: what is wanted and in force, from this agent's view; and an operator's change of a
service's document or of a plain key. On the unix socket alone; the actor is the peer's user, as the kernel
tells it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agents.agent import Agent
from controlplane.config import documents
from controlplane.errors import InvalidInput, TooLarge, Unavailable
from controlplane.http import answers, peer
from controlplane.model.config import ConfigRevision, ServiceConfig
from controlplane.operations import config_change
from controlplane.site import config_document
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

SHOWN_S = 1.0
"""For the store's watch to tell what was written; it takes milliseconds. The answer is the same without."""


class ConfigRoutes:
    def __init__(self, agent: Agent, store: Store, keys: Keys) -> None:
        self._agent = agent
        self._changes = config_change.ConfigChange(store, keys, self._view)

    def _view(self) -> SiteView | None:
        """With what this host's daemons said a moment ago, which the store may not have yet."""
        site = self._agent.site
        return None if site is None else site.with_host(self._agent.answers.host_record())

    def to_the_owner(self) -> list[Route]:
        return [
            Route("/v1/site/config", self.services),
            Route("/v1/site/config/{service}", self.service),
            Route("/v1/site/config/{service}/history", self.history),
            Route("/v1/site/config/{service}/diff", self.diff),
            Route("/v1/site/config/{service}", self.change, methods=["POST"]),
            Route("/v1/site/keys", self.keys),
            Route("/v1/site/keys/{key:path}", self.key),
            Route("/v1/site/keys/{key:path}", self.change_key, methods=["POST"]),
        ]

    # --- looking --------------------------------------------------------------------------------------------

    async def services(self, request: Request) -> Response:
        view = self._seen()
        return answers.json({"site": view.site, "services": config_document.services(view)})

    async def service(self, request: Request) -> Response:
        """`revision`: with the document of that one instead of the one that is wanted."""
        wanted = answers.number(request, "revision", 0) or None
        name = request.path_params["service"]
        return _found(lambda: config_document.service(self._seen(), name, wanted))

    async def history(self, request: Request) -> Response:
        """Each revision with what it changed of the one before it; that of the oldest is not known."""
        name = request.path_params["service"]

        def rows() -> list[config_document.Row]:
            view = self._seen()
            known = config_document.revisions(view, name)
            return [
                row | {"changes": _changes(known.get(row["base"]), known[row["revision"]])}
                for row in config_document.history(view, name)
            ]

        return _found(rows)

    async def diff(self, request: Request) -> Response:
        """`from` and `to`: revisions; the wanted one, and the one that it changed, when left out."""
        name = request.path_params["service"]
        asked = {end: answers.number(request, end, 0) for end in ("from", "to")}

        def between() -> config_document.Row:
            view = self._seen()
            newest = asked["to"] or config_document.wanted(view, name)
            oldest = asked["from"] or config_document.base(view, name, newest)
            old, new = (config_document.of_revision(view, name, each) for each in (oldest, newest))
            return {"service": name, "from": oldest, "to": newest, "changes": _changes(old, new)}

        return _found(between)

    async def keys(self, request: Request) -> Response:
        view = self._seen()
        return answers.json({"site": view.site, "keys": config_document.keys(view)})

    async def key(self, request: Request) -> Response:
        return _found(lambda: config_document.key(self._seen(), request.path_params["key"]))

    # --- changing -------------------------------------------------------------------------------------------

    async def change(self, request: Request) -> Response:
        """Runs to its end though its client goes away: what has been written must be recorded."""
        asked = config_change.decode(await request.body())
        asked.service = request.path_params["service"]
        asked.actor = peer.name(request.scope)  # the kernel's word, whatever the request says

        def shown(view: SiteView, done: config_document.Row) -> bool:
            found = view.configs.get(asked.service, ServiceConfig())
            rollout = found.rollout.operation if found.rollout is not None else ""
            return bool(
                rollout == done["operation"] or config_document.wanted(view, asked.service) >= done["to"]
            )

        return await self._done(self._changes.run(asked), shown)

    async def change_key(self, request: Request) -> Response:
        asked = config_change.decode_key(await request.body())
        asked.actor = peer.name(request.scope)
        key = request.path_params["key"]

        def shown(view: SiteView, done: config_document.Row) -> bool:
            found = view.plain.get(key)
            return bool(found is None if asked.delete else found and found.value == done["value"])

        return await self._done(self._changes.run_key(key, asked), shown)

    async def _done(
        self, change: Awaitable[config_document.Row], shown: Callable[[SiteView, config_document.Row], bool]
    ) -> Response:
        """Once this agent shows it, so that whoever asks it next is told of it."""
        try:
            done = await change
        except TooLarge as exc:
            return answers.failing(str(exc), 413)
        except Unavailable as exc:
            if not exc.ambiguous:
                raise
            return answers.json({"operation": None, "outcome": "unknown", "reason": str(exc)}, 503)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_S):
                await self._until(lambda view: not done["operation"] or shown(view, done))
        return answers.json(done, 409 if done["outcome"] == "refused" else 200)

    async def _until(self, holds: Callable[[SiteView], bool]) -> None:
        follower = self._agent.follower
        while True:
            changed, view = follower.changed, follower.view
            if view is not None and holds(view):
                return
            await changed.wait()

    def _seen(self) -> SiteView:
        view = self._view()
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        return view


def _changes(old: ConfigRevision | None, new: ConfigRevision) -> list[dict[str, Any]] | None:
    if old is None:
        return None
    return [
        {"path": each.path, "old": each.old, "new": each.new}
        for each in documents.difference(old.document, new.document)
    ]


def _found(make: Callable[[], Any]) -> Response:
    try:
        return answers.json(make())
    except InvalidInput as exc:  # nothing of that name
        return answers.failing(str(exc), 404)
