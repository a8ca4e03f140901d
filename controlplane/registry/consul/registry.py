"""The registry of an owner on Consul: each registration is a leased key of the KV, which keepers decide and
fence by, and a service of the host's own agent, which everybody else finds it by. The two are kept by tasks
of their own, and the failing of one holds up nothing of the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from controlplane.clock import Clock
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry import maintenance
from controlplane.registry.consul.definition import CheckTimes
from controlplane.registry.consul.local_agent import LocalAgent
from controlplane.registry.consul.services import AgentServices, Report
from controlplane.registry.leased import LeasedRegistry
from controlplane.store import Keys
from controlplane.store.consul import ConsulStore


class ConsulRegistry:
    def __init__(
        self,
        store: ConsulStore,
        keys: Keys,
        clock: Clock,
        *,
        ttl_s: float,
        keep_s: float,
        times: CheckTimes,
        report: Report,
    ) -> None:
        """Raises InvalidSettings."""
        self._store, self._keys = store, keys
        self._leased = LeasedRegistry(store, keys, clock, ttl_s=ttl_s, keep_s=keep_s, report=report)
        self._services = AgentServices(LocalAgent(store.agent), keys.site, times, keep_s, report)

    def __repr__(self) -> str:
        return f"<ConsulRegistry {self._leased!r} {self._services!r}>"

    @property
    def trouble(self) -> str:
        return self._services.trouble

    def register(self, registration: Registration) -> None:
        self._leased.register(registration)
        self._services.register(registration)

    def update(self, registration: Registration) -> None:
        self._leased.update(registration)
        self._services.update(registration)

    def deregister(self, service: str, instance: str, process: Process | None = None) -> None:
        self._leased.deregister(service, instance, process)
        self._services.deregister(service, instance, process)

    def held(self) -> Mapping[str, Registration]:
        """What stands in the KV: what a member may be elected, and fenced, by."""
        return self._leased.held()

    def holds(self, instance: str) -> bool:
        return instance in self.held() and instance in self._services.held()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow_maintenance(), name="maintenance")
                kept = [
                    tasks.create_task(self._leased.run(), name="registrations in the KV"),
                    tasks.create_task(self._services.run(), name="registrations at the agent"),
                ]
                await asyncio.wait(kept)
                following.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _follow_maintenance(self) -> None:
        async with contextlib.aclosing(self._store.watch(self._keys.maintenance)) as watch:
            async for snapshot in watch:
                self._services.maintain(maintenance.reasons(snapshot.entries.values()))

    async def close(self) -> None:
        """Both halves, also when one fails. Raises Unavailable."""
        done = await asyncio.gather(self._leased.close(), self._services.close(), return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
