"""The reasons for which the site is not healthy as events: `status` shows what stands now, here is what stays
of it.

What an agent before this one has told as begun is taken from the host's events, so that it is not told again,
and its end is. Alarms are left out: whoever raises one tells it (alarms.py, alarm_events.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import anyio

from agents import events
from agents.agent import Agent
from controlplane.site import reasons

LOOK_EVERY_S = 0.5
"""What stood for less may have no event; a look takes about a millisecond."""
LOOK_SHARE = 50
"""Of a large site, looks come so much further apart than they take."""
SETTLE_S = 30.0
"""Until the site has been healthy once, or for so long, nothing new is told: while a floor comes up
everything is a reason."""
RAISED, CLEARED = "reason.raised", "reason.cleared"


class ReasonEvents:
    """Each host's agent tells what is wrong with its own instances; the rest is told by that of the first
    host, by name, that is not silent.
    """

    def __init__(self, host: str, report: Callable[..., None], told: Iterable[events.Event]) -> None:
        self._host, self._report = host, report
        self._told: dict[tuple[str, str], tuple[str, int]] = {}
        """Key of a reason -> its text, and UNIX ns since when."""
        self._settled_mono_s: float | None = None
        for event in told:
            key = str(event.fields.get("of", "")), str(event.fields.get("subject", ""))
            if event.kind == RAISED:
                self._told[key] = str(event.fields.get("text", "")), event.at_ns or event.n
            elif event.kind == CLEARED:
                self._told.pop(key, None)

    def __repr__(self) -> str:
        return f"<ReasonEvents of {self._host}: {len(self._told)} stand>"

    def look(
        self,
        found: Sequence[reasons.Reason],
        hosts: Iterable[str],
        now_mono_s: float,
        now_wall_ns: int,
    ) -> None:
        """At each look: what stands now, and the hosts whose agents report, this one among them."""
        if self._settled_mono_s is None:
            self._settled_mono_s = now_mono_s + SETTLE_S
        if not found:
            self._settled_mono_s = now_mono_s
        now = {each.key: each for each in self._own(found, min(hosts, default=self._host) == self._host)}
        stands = {each.key for each in found}
        for key in self._told.keys() - now.keys():
            text, since_ns = self._told.pop(key)
            if key in stands:
                continue  # the first host is back, and tells it from here on
            lasted_s = round(max(0, now_wall_ns - since_ns) / 1e9, 1)
            self._report(CLEARED, of=key[0], subject=key[1], text=text, lasted_s=lasted_s)
        if now_mono_s < self._settled_mono_s:
            return
        for key in now.keys() - self._told.keys():
            self._told[key] = now[key].text, now_wall_ns
            self._report(RAISED, of=key[0], subject=key[1], text=now[key].text)

    def _own(self, found: Sequence[reasons.Reason], speaks_for_all: bool) -> Iterator[reasons.Reason]:
        for each in found:
            if each.kind != reasons.ALARM and (each.host == self._host if each.host else speaks_for_all):
                yield each


async def tell_reasons(agent: Agent) -> None:
    """Until cancelled."""
    told = ReasonEvents(agent.given.host, agent.report, agent.events.after(0, events.RING_MAX))
    while True:
        began_cpu_s = time.thread_time()
        known = None if agent.leaving else agent.answers.reasons()
        if known is not None:
            found, heard = known
            told.look(found, heard, time.monotonic(), agent.clock.wall_ns())
        await anyio.sleep(max(LOOK_EVERY_S, LOOK_SHARE * (time.thread_time() - began_cpu_s)))
