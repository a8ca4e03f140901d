"""What the agent writes into the store: its host record, once a second and at each change (a daemon's phase
among them, which only its heartbeat page tells), at once when a daemon has taken or refused changed settings.

The host record hangs on a lease, so that a host whose agent is gone leaves the site's hosts. A store that
does not answer is an alarm and another try, nothing more: no daemon notices.
"""

from __future__ import annotations

import time

import anyio

from agents import settings
from agents.agent import Agent
from controlplane import model
from controlplane.errors import HftctlError, LeaseLost
from controlplane.store import Keys, Lease, Store

ALARM_AFTER_S = 2.0
"""A store that elects a new leader is away for about a second."""


class HostRecords:
    def __init__(self, agent: Agent, store: Store, keys: Keys) -> None:
        self._agent, self._store, self._keys = agent, store, keys
        self._lease: Lease | None = None
        self._kept_mono_s = 0.0
        self._written_mono_s = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        due, acknowledged = self._agent.record_due, self._agent.acknowledged
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_at_phases)
            while True:
                await self.write_once()
                with anyio.move_on_after(settings.STATUS_EVERY_S):
                    await due.wait()
                    with anyio.move_on_after(settings.CHANGE_GATHER_S):
                        await acknowledged.wait()
                        if not self._agent.config_news.settled():
                            await anyio.sleep(settings.ACKNOWLEDGED_GATHER_S)
                due.clear()
                acknowledged.clear()

    async def _look_at_phases(self) -> None:
        """Other hosts call a leader active when this host's own status does, or a moment later: who asks two
        agents is not told two things for a second.
        """
        seen = self._agent.instances.phases()
        while True:
            await anyio.sleep(settings.CHANGE_GATHER_S)
            found = self._agent.instances.phases()
            if found != seen:
                seen = found
                self._agent.record_due.set()

    async def write_once(self) -> None:
        key = self._keys.host(self._agent.given.host)
        try:
            lease = await self._kept()
            await self._store.put(key, model.encode(self._agent.answers.host_record()), lease=lease)
        except LeaseLost:
            self._lease = None
            self._agent.record_due.set()
        except HftctlError as exc:
            if time.monotonic() - self._written_mono_s > ALARM_AFTER_S:
                self._agent.alarms.raise_(
                    "store.unreachable", "critical", f"the host record cannot be written: {exc}"
                )
        else:
            self._written_mono_s = time.monotonic()
            self._agent.alarms.clear("store.unreachable")

    async def withdraw(self) -> None:
        """Take the record away: the host goes down on purpose."""
        if self._lease is not None:
            await self._lease.revoke()
            self._lease = None

    async def _kept(self) -> Lease:
        now_mono_s = time.monotonic()
        if self._lease is None:
            self._lease, self._kept_mono_s = await self._store.lease(settings.HOST_LEASE_S), now_mono_s
        elif now_mono_s - self._kept_mono_s > settings.HOST_LEASE_S / 3:
            await self._lease.keep_alive()
            self._kept_mono_s = now_mono_s
        return self._lease
