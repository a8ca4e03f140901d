"""Is the store well, and how old is the view of the site? Asked once a second, its cluster every five; shown
in status, raised as alarms in an operator's words (site/store_troubles.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable

import anyio

from agents import settings
from agents.agent import Agent
from agents.alarms import Alarms
from controlplane.errors import HftctlError
from controlplane.site import store_troubles
from controlplane.store import Store

VIEW_OLD_S = 5.0
"""A watch confirms itself more often than this; an older view means that the store does not answer."""
CONDITION_EVERY_S = 5.0


async def ask_store_health(agent: Agent, store: Store) -> None:
    """Until cancelled. A store that refuses or does not answer is a state to show, never an end of this."""
    judge = store_troubles.Judge()
    condition = None
    standing: set[str] = set()
    asked_mono_s = -CONDITION_EVERY_S
    while True:
        try:
            health = await store.health()
        except HftctlError as exc:
            health = dataclasses.replace(agent.store_health, healthy=False, latency_ms=None, reason=str(exc))
        now_mono_s = time.monotonic()
        if now_mono_s - asked_mono_s >= CONDITION_EVERY_S or not health.healthy:
            asked_mono_s = now_mono_s
            # `health` says why nobody answers; what its cluster said last stands until it says otherwise.
            with contextlib.suppress(HftctlError):
                condition = await store.condition()
        health = dataclasses.replace(health, condition=condition)
        standing = settle(agent.alarms, standing, judge.look(health, now_mono_s))
        agent.store_health = dataclasses.replace(health, leader_changes=judge.leader_changes)
        look_at_age(agent)
        agent.look_at_configuration()
        await anyio.sleep(settings.STATUS_EVERY_S)


def settle(alarms: Alarms, standing: set[str], found: Iterable[store_troubles.Trouble]) -> set[str]:
    """Raise what was found, clear what stood and is over; returns what stands now."""
    now = set()
    for trouble in found:
        alarms.raise_(trouble.id, trouble.severity, trouble.text)
        now.add(trouble.id)
    for id in standing - now:
        alarms.clear(id)
    return now


def look_at_age(agent: Agent) -> None:
    """An old view is served, and said to be old. Where there is none, the last good specs are in force."""
    age_s = agent.follower.age_s()
    if age_s <= VIEW_OLD_S:
        agent.alarms.clear("store.silent")
        return
    text = f"the store has not confirmed the view of the site for {age_s:.0f} s; what is shown is that old"
    agent.alarms.raise_("store.silent", "critical", text)
    agent.run_from_disk()
