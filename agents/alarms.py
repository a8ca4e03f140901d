"""The alarms that the agent itself raises. What its daemons raise comes in their reports (instances.py)."""

from __future__ import annotations

from collections.abc import Callable

from controlplane.model.bounds import cut
from controlplane.model.observed import Alarm


class Alarms:
    def __init__(self, subject: str, report: Callable[..., None], wall_ns: Callable[[], int]) -> None:
        self._subject, self._report, self._wall_ns = subject, report, wall_ns
        self._standing: dict[str, Alarm] = {}

    def __repr__(self) -> str:
        return f"<Alarms of {self._subject}: {', '.join(sorted(self._standing)) or 'none'}>"

    def raise_(self, id: str, severity: str, text: str) -> None:
        """Raise or keep an alarm: since when it stands does not change, its text may. An event tells its
        beginning.
        """
        standing = self._standing.get(id)
        since_ns = standing.since_ns if standing else self._wall_ns()
        self._standing[id] = Alarm(id, severity, self._subject, cut(text), since_ns)
        if standing is None:
            self._report("alarm.raised", id=id, severity=severity, text=text)

    def clear(self, id: str) -> None:
        stood = self._standing.pop(id, None)
        if stood is not None:
            self._report("alarm.cleared", id=id, text=stood.text)

    def standing(self) -> tuple[Alarm, ...]:
        return tuple(self._standing.values())
