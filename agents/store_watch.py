"""Is the store well, and how old is the view of the site? Asked once a second, shown in status, raised as an
alarm.
"""

from __future__ import annotations

import dataclasses

import anyio

from agents import settings
from agents.agent import Agent
from controlplane.errors import HftctlError
from controlplane.store import Store

VIEW_OLD_S = 5.0
"""A watch confirms itself more often than this; an older view means that the store does not answer."""


async def ask_store_health(agent: Agent, store: Store) -> None:
    """Until cancelled. A store that refuses or does not answer is a state to show, never an end of this."""
    while True:
        try:
            agent.store_health = await store.health()
        except HftctlError as exc:
            agent.store_health = dataclasses.replace(
                agent.store_health, healthy=False, latency_ms=None, reason=str(exc)
            )
        look_at_age(agent)
        await anyio.sleep(settings.STATUS_EVERY_S)


def look_at_age(agent: Agent) -> None:
    """An old view is served, and said to be old. Where there is none, the last good specs are in force."""
    age_s = agent.follower.age_s()
    if age_s <= VIEW_OLD_S:
        agent.alarms.clear("store.silent")
        return
    text = f"the store has not confirmed the view of the site for {age_s:.0f} s; what is shown is that old"
    agent.alarms.raise_("store.silent", "critical", text)
    agent.run_from_disk()
