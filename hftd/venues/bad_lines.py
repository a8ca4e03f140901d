"""What marketd says of lines that do not decode: one alarm an instrument, until none has come for a while.

No socket and no clock: time comes in as monotonic ns. Bounded by the number of instruments. What simd says of
a damaged tape: sim_faults.py.
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
        """Count one of this instrument; the alarm that stands from now on."""
        id = f"undecodable:{name}"
        count = self._seen.get(id, (0, 0))[0] + 1
        self._seen[id] = (count, now_ns)
        return Alarm(id, name, f"{count} lines of {name} dropped; the last: {reason}")

    def over(self, now_ns: int) -> list[str]:
        """Ids of alarms that end now; a later bad line begins to count anew."""
        ended = [id for id, (_, last_ns) in self._seen.items() if now_ns - last_ns > STANDS_NS]
        for id in ended:
            del self._seen[id]
        return ended
