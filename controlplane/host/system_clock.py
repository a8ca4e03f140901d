"""The machine's own clocks, as a controlplane.clock.Clock."""

from __future__ import annotations

import time


class SystemClock:
    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()
