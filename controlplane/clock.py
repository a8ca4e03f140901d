"""Time, injected. Deadlines of leases count in boot time (it goes on while the machine sleeps); wall time is
for display only.

Pure modules take `now` as an argument; what must wait or look at a clock takes a `Clock`. Tests use
`FakeClock`.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def boot_ns(self) -> int:
        """CLOCK_BOOTTIME in ns: the same for all processes of one boot; leases and words use only this."""

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC in ns: for durations within a host (tick to order)."""

    def wall_ns(self) -> int:
        """UNIX time in ns: for display, logs and records read by people."""


STEP_NS = 1_000_000_000
"""A wall clock that is slewed does not differ by this much from one that was not, over a floor's day."""


def restamped(stamp_ns: int, age_ns: int, wall_ns: int) -> int:
    """UNIX ns of what happened `age_ns` ago (by a clock that nobody sets) and got this stamp then: the stamp,
    unless the wall clock has been set since. Nothing then began tomorrow, or has lasted less than nothing.
    """
    now_right_ns = wall_ns - age_ns
    return stamp_ns if abs(now_right_ns - stamp_ns) < STEP_NS else max(0, now_right_ns)


class FakeClock:
    """A clock that moves only when told; all three faces advance together."""

    def __init__(self, boot_ns: int = 1_000_000_000, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._boot_ns = boot_ns
        self._wall_ns = wall_ns

    def advance_s(self, seconds: float) -> None:
        self._boot_ns += int(seconds * 1e9)
        self._wall_ns += int(seconds * 1e9)

    def boot_ns(self) -> int:
        return self._boot_ns

    def mono_ns(self) -> int:
        return self._boot_ns

    def wall_ns(self) -> int:
        return self._wall_ns
