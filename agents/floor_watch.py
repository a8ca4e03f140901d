"""Is hft-floord there, and does it turn, on a floor that has one? It starts again what dies: the store, the
agents, the controller.

Asked once a second. Dead: nobody holds the lock of the site folder, which every hft-floord holds for as long
as it lives. Hung: it does not beat (controlplane/host/locks.py). Where there is no such lock (systemd runs
the agents), there is nothing to look at.
"""

from __future__ import annotations

import time
from pathlib import Path

import anyio

from agents import settings
from agents.agent import Agent
from controlplane.host import locks

DEAD, HUNG = "floord.dead", "floord.hung"
HUNG_AFTER_S = 3.0
"""Six beats; told within 8 s, with the look and the host record."""
_MEANS = "what runs goes on, and nobody restarts the store, an agent or the controller when it dies"


async def look_after_floord(agent: Agent) -> None:
    """Until cancelled."""
    lock = agent.given.site_dir / "floor.lock"
    watch = locks.BeatWatch(agent.given.run_dir / locks.FLOORD_BEAT)
    while True:
        trouble = {DEAD: "", HUNG: ""} if agent.leaving else look(lock, watch, time.monotonic())
        for alarm, text in trouble.items():
            if text:
                agent.alarms.raise_(alarm, "critical", text)
            else:
                agent.alarms.clear(alarm)
        await anyio.sleep(settings.STATUS_EVERY_S)


def look(lock: Path, watch: locks.BeatWatch, now_mono_s: float) -> dict[str, str]:
    """Alarm -> its text; empty: it does not stand."""
    silent_s = watch.silent_s(now_mono_s)
    pid = locks.flocked_by(lock)
    if lock.exists() and pid is None and not locks.held(lock):
        text = f"hft-floord has died: {_MEANS}; `hftctl up` brings another one, which adopts everything"
        return {DEAD: text, HUNG: ""}
    if not lock.exists() or silent_s < HUNG_AFTER_S:
        return {DEAD: "", HUNG: ""}
    named = f" (pid {pid})" if pid else ""
    text = (
        f"hft-floord{named} hangs, no sign of life for {silent_s:.0f} s: {_MEANS}; if it is stopped (ps: T), "
        f"kill -CONT {pid or 'its pid'}; else kill -9, and `hftctl up` brings another one, which adopts "
        "everything"
    )
    return {DEAD: "", HUNG: text}
