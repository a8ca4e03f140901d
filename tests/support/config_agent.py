"""What `hftctl config` asks of an agent: its routes over a store in memory, on a unix socket, in a thread of
its own. Its instances obey as a test says; one answer can be another than the agent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agents.agent import Agent
from agents.http.config_routes import ConfigRoutes
from controlplane import model
from controlplane.http import answers
from controlplane.http.server import Server
from controlplane.model import ServiceSpec
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.operations import shown
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store.memory import Memory, MemoryStore
from tests.support.agents import KEYS, SOON_S, site_folder

T = TypeVar("T")


class ConfigAgent:
    def __init__(self, folder: Path, *specs: ServiceSpec) -> None:
        self.site_dir = folder
        self.in_force: dict[str, int | None] = {
            slot.instance: None for spec in specs for slot in spec.slots()
        }
        """Instance -> the revision that it has; None: whatever is wanted."""
        self.state: dict[str, str] = {}
        """Instance -> its state, where that is not `running`."""
        self.refused: dict[str, str] = {}
        self.instead: dict[str, Response | None] = {}
        """Method and path -> what is answered instead, once; None: nothing."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Path and body of each POST."""
        self.looked = threading.Event()
        """Set at each look at all services."""
        self._specs = specs
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="config agent")

    def __enter__(self) -> ConfigAgent:
        (self.site_dir / "floor.json").write_text(
            json.dumps({"site": "lab", "hosts": ["alpha"], "run_dir": str(self.site_dir / "run")})
        )
        self._thread.start()
        assert self._up.wait(SOON_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    def do(self, work: Callable[[ConfigAgent], Coroutine[Any, Any, T]]) -> T:
        """In the agent's own loop, where its store is."""
        return asyncio.run_coroutine_threadsafe(work(self), self._loop).result(SOON_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self.store = MemoryStore(Memory())
        for spec in self._specs:
            await self.store.put(KEYS.spec(spec.name), model.encode(spec))
        self.follower = Follower(self.store, KEYS)
        following = asyncio.create_task(self.follower.run())
        await self.follower.first_view()
        routes = ConfigRoutes(cast(Agent, self), self.store, KEYS)
        app = answers.application(
            [
                Route("/live", self._live),
                Route("/v1/site/operations", self._operations),
                *routes.to_the_owner(),
            ]
        )

        async def door(scope: Any, receive: Any, send: Any) -> Any:
            name = f"{scope['method']} {scope['path']}"
            if name == "GET /v1/site/config":
                self.looked.set()
            if scope["method"] == "POST":
                self.asked.append((scope["path"], json.loads((await receive())["body"])))
            if name in self.instead:
                found = self.instead.pop(name)
                if found is None:
                    return await self._end.wait()
                return await found(scope, receive, send)
            body = json.dumps(self.asked[-1][1]).encode() if scope["method"] == "POST" else b""

            async def again() -> Any:
                return {"type": "http.request", "body": body, "more_body": False}

            return await app(scope, again, send)

        server = Server(door, report=lambda kind, **fields: None)
        await server.listen_unix(self.site_dir / "run" / "alpha.agent.sock")
        self._up.set()
        await self._end.wait()
        await server.close(1.0)
        following.cancel()
        await asyncio.wait([following])
        await self.store.close()

    @property
    def site(self) -> SiteView | None:
        return self.follower.view

    @property
    def answers(self) -> ConfigAgent:
        return self

    async def _live(self, request: Request) -> Response:
        return PlainTextResponse("OK")

    async def _operations(self, request: Request) -> Response:
        assert self.follower.view is not None
        return answers.json(shown.of(self.follower.view))

    def host_record(self) -> HostRecord:
        return HostRecord(
            "alpha", "127.0.0.1", "http://127.0.0.1:1", "", "boot", 1, instances=self._statuses()
        )

    def _statuses(self) -> tuple[InstanceStatus, ...]:
        return tuple(self._status(each) for each in self.in_force if self.state.get(each) != "unknown")

    def _status(self, instance: str) -> InstanceStatus:
        service, host, _ = instance.rsplit("-", 2)
        view = self.follower.view
        found = view.configs.get(service) if view is not None else None
        wanted = found.wanted(instance) if found is not None else None
        in_force = self.in_force[instance]
        return InstanceStatus(
            instance, service, service, host, 7, self.state.get(instance, "running"), None, "active", 0,
            "passing", "", True, 1, 0, (), "other", {}, "1",
            in_force if in_force is not None else wanted.revision if wanted is not None else 1,
            config_refused=self.refused.get(instance, ""),
            rates={"rejects": 0.0},
        )  # fmt: skip


class Terminal(io.StringIO):
    """As stdin: what is typed at a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def config_agent(*specs: ServiceSpec) -> Iterator[ConfigAgent]:
    with site_folder() as folder, ConfigAgent(folder, *specs) as agent:
        yield agent
