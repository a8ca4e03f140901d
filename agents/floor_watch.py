"""Is hft-floord there, on a floor that has one? It starts again what dies: the store, the agents, the
controller.

Asked once a second of the lock of the site folder, which every hft-floord holds for as long as it lives.
Where there is no such lock (systemd runs the agents), there is nothing to look at.
"""

from __future__ import annotations

import anyio

from agents import settings
from agents.agent import Agent
from controlplane.host import locks

ALARM = "floord.dead"
_TEXT = (
    "hft-floord has died: what runs goes on, and nobody restarts the store, an agent or the controller when "
    "it dies; `hftctl up` brings another one, which adopts everything"
)


async def look_after_floord(agent: Agent) -> None:
    """Until cancelled."""
    lock = agent.given.site_dir / "floor.lock"
    while True:
        if not lock.exists() or locks.flocked_by(lock) is not None or locks.held(lock):
            agent.alarms.clear(ALARM)
        elif not agent.leaving:
            agent.alarms.raise_(ALARM, "critical", _TEXT)
        await anyio.sleep(settings.STATUS_EVERY_S)
