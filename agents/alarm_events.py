"""The alarms of this host's daemons as events: `status` shows what stands now, here is what stays of it.

What an agent before this one has told as raised is taken from the host's events, so that it is not told
again, and its end is. The agent's own alarms tell their own (alarms.py); why the site is not healthy beside
alarms: reason_events.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agents.events import Event
from controlplane.model.observed import Alarm

AWAY_S = 3.0
"""One that is back sooner was not over: what hovers about its bound must not fill the events."""


class AlarmEvents:
    """Of this host's daemons; what is for information only is left out."""

    def __init__(self, report: Callable[..., None], told: Iterable[Event]) -> None:
        self._report = report
        self._standing: dict[str, dict[str, tuple[str, str]]] = {}
        """Instance -> alarm -> (severity, text), as told."""
        self._away: dict[tuple[str, str], float] = {}
        """Instance and alarm -> monotonic seconds since when it does not stand, and its end is not told."""
        for event in told:
            instance, id = str(event.fields.get("instance", "")), str(event.fields.get("id", ""))
            if instance and event.kind == "alarm.raised":
                said = str(event.fields.get("severity", "")), str(event.fields.get("text", ""))
                self._standing.setdefault(instance, {})[id] = said
            elif instance and event.kind == "alarm.cleared":
                self._standing.get(instance, {}).pop(id, None)

    def __repr__(self) -> str:
        return f"<AlarmEvents: {sum(map(len, self._standing.values()))} stand>"

    def look(self, instance: str, alarms: Iterable[Alarm], now_mono_s: float) -> None:
        """All that stand now, as its process has just said; to be called for each of its statuses."""
        standing = self._standing.setdefault(instance, {})
        now = {each.id: (each.severity, each.text) for each in alarms if each.severity != "info"}
        for id, (severity, text) in now.items():
            self._away.pop((instance, id), None)
            if standing.get(id, ("", ""))[0] != severity:
                self._report("alarm.raised", instance=instance, id=id, severity=severity, text=text)
            standing[id] = severity, text
        for id in standing.keys() - now.keys():
            if now_mono_s - self._away.setdefault((instance, id), now_mono_s) >= AWAY_S:
                self._over(instance, id)

    def ended(self, instance: str) -> None:
        """Its process has: what it said of itself is over, and the next one says what still stands."""
        for id in list(self._standing.get(instance, {})):
            self._over(instance, id)

    def _over(self, instance: str, id: str) -> None:
        self._away.pop((instance, id), None)
        _, text = self._standing[instance].pop(id)
        self._report("alarm.cleared", instance=instance, id=id, text=text)
