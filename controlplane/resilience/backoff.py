"""How long to wait before trying again. Pure: randomness and time are arguments.

`Policy` gives the waits (spread by jitter where a crowd must not come back at once); `Restarts` counts how a
process that died is started again: the first time at once, then slower and slower, and from the start after
it has been healthy for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    first_s: float
    """The first delay."""

    factor: float
    """Each delay is the one before, times this."""

    max_s: float
    """No delay is longer."""

    jitter: float = 0.0
    """Share of each delay that is random: 0 none, 0.5 half to whole, 1 full."""

    at_once: int = 0
    """So many tries before the first delay."""

    def delay_s(self, attempt: int, random: Callable[[], float] = lambda: 1.0) -> float:
        """The wait before try `attempt`, counted from 0. `random` gives 0 <= x < 1 (random.random); without
        it the longest wait.
        """
        steps = attempt - self.at_once
        if steps < 0:
            return 0.0
        # The exponent is bounded: beyond it every delay is max_s anyway and a float would overflow.
        longest_s = min(self.max_s, self.first_s * self.factor ** min(steps, 64))
        return longest_s * (1 - self.jitter * (1 - random()))


RESTART = Policy(first_s=0.2, factor=2.0, max_s=5.0, at_once=1)
"""A crash is mostly the only one: the first restart is free. No jitter: a host has few processes, and tests
and operators can foretell it."""

RESTART_HEALTHY_S = 10.0
"""A process that was healthy for this long starts the policy afresh."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The restarts of one process so far, as a value: `died` gives the next one and the wait."""

    count: int = 0
    """In the present row of failures."""

    def died(self, healthy_s: float, policy: Policy = RESTART) -> tuple[Restarts, float]:
        """The process ended after being healthy for `healthy_s` at the end of its life (0: it never was).
        Returns (new value, seconds to wait).
        """
        row = 0 if healthy_s >= RESTART_HEALTHY_S else self.count
        return Restarts(row + 1), policy.delay_s(row)


@dataclass(slots=True)
class Bucket:
    """A token bucket that starts full. Bounds loops whose every turn may fail at once."""

    burst: float
    """So many goes in a row without a wait."""

    per_s: float
    """Tokens that come back each second."""

    level: float | None = None
    at_s: float = 0.0

    def take(self, now_s: float) -> float:
        """Take one token, on credit if there is none, and return the seconds to wait before the go. `now_s`
        is any monotonic time.
        """
        before = (
            self.burst
            if self.level is None
            else min(self.burst, self.level + (now_s - self.at_s) * self.per_s)
        )
        self.level = before - 1
        self.at_s = now_s
        return max(0.0, -self.level / self.per_s)
