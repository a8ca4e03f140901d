"""The machine's own clocks, as a controlplane.clock.Clock."""

from __future__ import annotations

import time

_started = (time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def latest_wall_ns() -> int:
    """UNIX ns, and not less than it was when this process started plus what has passed since: by a clock that
    is set back, what the store has given out would be from the future and would not be believed any more.
    """
    wall_ns, boot_ns = _started
    return max(time.time_ns(), wall_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boot_ns)


class SystemClock:
    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()
