"""The alarms that the agent itself raises. What its daemons raise comes in their reports (instances.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from controlplane.clock import Clock, restamped
from controlplane.model.bounds import cut
from controlplane.model.observed import Alarm


class Alarms:
    def __init__(self, subject: str, report: Callable[..., None], clock: Clock) -> None:
        self._subject, self._report, self._clock = subject, report, clock
        self._standing: dict[str, Alarm] = {}
        self._since_boot_ns: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Alarms of {self._subject}: {', '.join(sorted(self._standing)) or 'none'}>"

    def raise_(self, id: str, severity: str, text: str) -> None:
        """Raise or keep an alarm: since when it stands does not change, its text may. An event tells its
        beginning.
        """
        standing = self._standing.get(id)
        since_ns = standing.since_ns if standing else self._clock.wall_ns()
        self._since_boot_ns.setdefault(id, self._clock.boot_ns())
        self._standing[id] = Alarm(id, severity, self._subject, cut(text), since_ns)
        if standing is None:
            self._report("alarm.raised", id=id, severity=severity, text=text)

    def clear(self, id: str) -> None:
        self._since_boot_ns.pop(id, None)
        if self._standing.pop(id, None) is not None:
            self._report("alarm.cleared", id=id)

    def standing(self) -> tuple[Alarm, ...]:
        """Each since when it stands by the wall clock as it is now: it may have been set meanwhile."""
        wall_ns, boot_ns = self._clock.wall_ns(), self._clock.boot_ns()
        for id, alarm in self._standing.items():
            age_ns = boot_ns - self._since_boot_ns[id]
            since_ns = restamped(alarm.since_ns, age_ns, wall_ns)
            if since_ns != alarm.since_ns:
                self._standing[id] = replace(alarm, since_ns=since_ns)
        return tuple(self._standing.values())
