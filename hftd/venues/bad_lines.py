"""What marketd says about lines that do not decode: one alarm per instrument, which stands until none has
come for a while.

No socket and no clock: times are monotonic ns, handed in. Bounded by the number of instruments. What simd
says about a damaged tape: sim_faults.py.
"""

from __future__ import annotations

from typing import NamedTuple

STANDS_NS = 60_000_000_000
"""The alarm stays this long after the last bad line."""


class Alarm(NamedTuple):
    id: str
    subject: str
    text: str


class BadLines:
    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        """Alarm id -> (bad lines, when the last one came)."""

    def take(self, name: str, reason: str, now_ns: int) -> Alarm:
        """Count a bad line of this instrument; returns the alarm as it stands now."""
        id = f"undecodable:{name}"
        count = self._seen.get(id, (0, 0))[0] + 1
        self._seen[id] = (count, now_ns)
        return Alarm(id, name, f"{name}: lines dropped: {count}; the last: {reason}")

    def over(self, now_ns: int) -> list[str]:
        """Ids of the alarms that end now. A later bad line starts a new count."""
        ended = [id for id, (_, last_ns) in self._seen.items() if now_ns - last_ns > STANDS_NS]
        for id in ended:
            del self._seen[id]
        return ended
