"""When a check runs: each on a grid of its own, which its name fixes, and a little beside it by chance.

So a thousand checks of one interval are spread over it from the first moment, on every host alike, and two
that happen to lie together drift apart: nothing runs in lockstep, and no target is asked by every host at
once.
"""

from __future__ import annotations

import hashlib
import math

JITTER = 0.1
"""Share of the interval that is chance, half of it on either side of the grid."""
FIRST_WITHIN_S = 2.0
"""The first look waits no longer, whatever the interval: until then nothing is known."""
GAP = 0.25
"""Share of the interval that lies between two looks at least, however long the first one took."""


def phase(key: str) -> float:
    """Where in its interval a check lies: 0 to below 1, the same for a key everywhere and always."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / (1 << 48)


def first_s(key: str, interval_s: float, now_s: float) -> float:
    """When a new check runs first."""
    return now_s + phase(key) * min(interval_s, FIRST_WITHIN_S)


def next_s(key: str, interval_s: float, now_s: float, random: float) -> float:
    """When a check runs that has just ended at `now_s`; `random`: 0 to below 1. From GAP to 1.35 intervals
    from now.
    """
    offset_s = phase(key) * interval_s
    jitter_s = JITTER * interval_s
    turn = math.ceil((now_s + GAP * interval_s + jitter_s / 2 - offset_s) / interval_s)
    return offset_s + turn * interval_s + (random - 0.5) * jitter_s
