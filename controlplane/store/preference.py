"""Which endpoint of a store is asked first: the one that answered last, for as long as it answers.

When it does not, the next one is asked: any that has not failed within the last second before one that has
(it was just tried), and one that works before one that failed again and again (its circuit breaker is open).
None is ever left out: with every breaker open they are asked in turn, so a store that comes back is found at
once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from controlplane.resilience import backoff
from controlplane.resilience.breaker import Breaker, Settings, State
from controlplane.resilience.outcome import Outcome
from controlplane.resilience.windows import Consecutive

JUST_NOW_NS = 1_000_000_000
"""A call asks each endpoint once; three tries of 0.3 s pass within this."""
SETTINGS = Settings(
    Consecutive(failures=3),
    backoff.Policy(first_s=1.0, factor=2.0, max_s=30.0),
    success_threshold=1,
    half_open_permits=1,
)


class Preference:
    def __init__(self, count: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.first = 0
        """Index of the endpoint to ask."""
        self._now_ns = now_ns
        self._breakers = [Breaker(f"endpoint {index}", SETTINGS) for index in range(count)]
        self._failed_ns: list[int | None] = [None] * count

    def answered(self, index: int) -> None:
        self._failed_ns[index] = None
        self._record(index, Outcome.OK)

    def failed(self, index: int) -> None:
        """It gave no usable answer; another one is first then, if it was the first."""
        self._failed_ns[index] = self._now_ns()
        self._record(index, Outcome.FAIL)
        if index == self.first:
            count = len(self._breakers)
            others = [(index + step) % count for step in range(1, count + 1)]
            self.first = min(others, key=self._badness)

    def _record(self, index: int, outcome: Outcome) -> None:
        now_ns, breaker = self._now_ns(), self._breakers[index]
        permit = breaker.permit(now_ns)
        if permit is not None:  # else it was asked although its breaker is open, as no other was better
            breaker.record(permit, outcome, now_ns)

    def _badness(self, index: int) -> tuple[bool, bool]:
        now_ns, failed_ns, breaker = self._now_ns(), self._failed_ns[index], self._breakers[index]
        breaker.look(now_ns)
        just_now = failed_ns is not None and now_ns - failed_ns < JUST_NOW_NS
        return just_now, breaker.state is State.OPEN
