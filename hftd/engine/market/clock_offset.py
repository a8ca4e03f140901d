"""Receive time minus the venue's event time, as a running median. Negative beyond network noise means a clock
is wrong. Pure; used by marketd.
"""

from __future__ import annotations

import statistics
from collections import deque

SAMPLES_MAX = 1_001
"""This many of the newest messages: a second or two of one busy market."""
SAMPLES_MIN = 25
"""Below this a median says nothing."""


class ClockOffset:
    def __init__(self) -> None:
        self._samples_ns: deque[int] = deque(maxlen=SAMPLES_MAX)
        self.add = self._samples_ns.append

    def median_ns(self) -> int | None:
        if len(self._samples_ns) < SAMPLES_MIN:
            return None
        return int(statistics.median_low(self._samples_ns))
