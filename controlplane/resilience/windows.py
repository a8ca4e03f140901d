"""What a circuit breaker remembers of the calls behind it, and when that is enough to open. Pure.

Three kinds, chosen by their settings: `Consecutive` counts failures in a row, `Count` looks at the last so
many calls, `Time` at those of the last so many seconds. The two with a window open at a failure rate or a
slow-call rate, once there are enough calls to speak of a rate. All three answer the same four questions
(`Window`), so that breaker.py knows no difference between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FOREVER_NS = 1 << 62
"""146 years."""


class Window(Protocol):
    def add(self, now_ns: int, failed: bool, slow: bool) -> str:
        """Count one call; returns why that is too much, or "" while it is not. Only a call that failed or
        was slow is ever too much: a success opens no breaker, also when it makes the calls enough.
        """

    def add_plain(self, at_ns: int, calls: int) -> None:
        """Count so many calls that were neither failed nor slow, one after the other."""

    def until_ns(self, now_ns: int) -> int:
        """Calls up to this moment are counted alike; FOREVER_NS when time does not matter."""

    def rates(self, now_ns: int) -> tuple[int, int, int]:
        """(calls, failed, slow) that are in it now."""


@dataclass(frozen=True, slots=True)
class Consecutive:
    failures: int = 5
    """So many in a row, without a success between them."""

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"failures: {self.failures}, at least 1 is wanted")

    def window(self) -> Window:
        return _Row(self.failures)


@dataclass(frozen=True, slots=True)
class _Rates:
    failure_rate: float = 0.5
    """Share of the calls that failed at which the breaker opens; above 1: never."""

    slow_rate: float = 2.0
    """Share of the calls that were slow at which it opens; above 1: never, which is the default."""

    min_calls: int = 20
    """Of fewer calls no rate is taken: one failure in one call is 100 %."""

    def __post_init__(self) -> None:
        if self.min_calls < 1:
            raise ValueError(f"min_calls: {self.min_calls}, at least 1 is wanted")
        for name, rate in (("failure_rate", self.failure_rate), ("slow_rate", self.slow_rate)):
            if not rate > 0:
                raise ValueError(f"{name}: {rate}, above 0 is wanted (above 1 switches it off)")

    def too_much(self, calls: int, failed: int, slow: int) -> str:
        if calls < self.min_calls:
            return ""
        if failed and failed >= self.failure_rate * calls:
            return f"{failed} of {calls} calls failed"
        if slow and slow >= self.slow_rate * calls:
            return f"{slow} of {calls} calls were slow"
        return ""


@dataclass(frozen=True, slots=True)
class Count(_Rates):
    calls: int = 100
    """The last so many are looked at."""

    def __post_init__(self) -> None:
        _Rates.__post_init__(self)
        if self.calls < self.min_calls:
            raise ValueError(
                f"min_calls: {self.min_calls}, at most the window's {self.calls} calls are wanted"
            )

    def window(self) -> Window:
        return _Ring(self)


BUCKETS = 10
"""Of a time window. What leaves it leaves a tenth at a time: fine enough for a rate, and cheap to keep."""


@dataclass(frozen=True, slots=True)
class Time(_Rates):
    seconds: float = 10.0
    """Calls of the last so many seconds are looked at, to a tenth of that."""

    def __post_init__(self) -> None:
        _Rates.__post_init__(self)
        if not self.seconds >= 0.001:
            raise ValueError(f"seconds: {self.seconds}, at least 0.001 is wanted")

    def window(self) -> Window:
        return _Buckets(self)


Kind = Consecutive | Count | Time


class _Row:
    __slots__ = ("_failures_max", "_in_a_row")

    def __init__(self, failures_max: int) -> None:
        self._failures_max = failures_max
        self._in_a_row = 0

    def add(self, now_ns: int, failed: bool, slow: bool) -> str:
        self._in_a_row = self._in_a_row + 1 if failed else 0
        return f"{self._in_a_row} failures in a row" if self._in_a_row >= self._failures_max else ""

    def add_plain(self, at_ns: int, calls: int) -> None:
        self._in_a_row = 0

    def until_ns(self, now_ns: int) -> int:
        return FOREVER_NS

    def rates(self, now_ns: int) -> tuple[int, int, int]:
        return self._in_a_row, self._in_a_row, 0


def carried_over(old: Window, kind: Kind) -> Window:
    """A window of this kind: a row of failures goes on, of anything else nothing is counted yet."""
    made = kind.window()
    if isinstance(old, _Row) and isinstance(made, _Row):
        made._in_a_row = old._in_a_row
    return made


class _Ring:
    """Two bits a call, the oldest overwritten."""

    __slots__ = ("_calls", "_failed", "_next", "_settings", "_slots", "_slow")

    def __init__(self, settings: Count) -> None:
        self._settings = settings
        self._slots = bytearray(settings.calls)
        self._next = self._calls = self._failed = self._slow = 0

    def add(self, now_ns: int, failed: bool, slow: bool) -> str:
        self._put(failed, slow)
        return self._settings.too_much(self._calls, self._failed, self._slow) if failed or slow else ""

    def _put(self, failed: bool, slow: bool) -> None:
        old = self._slots[self._next]
        self._slots[self._next] = failed | slow << 1
        self._next = (self._next + 1) % len(self._slots)
        self._calls = min(self._calls + 1, len(self._slots))
        self._failed += failed - (old & 1)
        self._slow += slow - (old >> 1)

    def add_plain(self, at_ns: int, calls: int) -> None:
        for _ in range(min(calls, len(self._slots))):
            self._put(False, False)

    def until_ns(self, now_ns: int) -> int:
        return FOREVER_NS

    def rates(self, now_ns: int) -> tuple[int, int, int]:
        return self._calls, self._failed, self._slow


class _Buckets:
    """Sums for each tenth of the window, and of all that are in it."""

    __slots__ = ("_bucket_ns", "_buckets", "_calls", "_failed", "_newest", "_settings", "_slow")

    def __init__(self, settings: Time) -> None:
        self._settings = settings
        self._bucket_ns = int(settings.seconds * 1e9) // BUCKETS
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]
        self._newest = 0
        self._calls = self._failed = self._slow = 0

    def _advance(self, now_ns: int) -> list[int]:
        """Forget what is too old; returns the bucket of now. A time before the newest counts as it."""
        if now_ns < (self._newest + 1) * self._bucket_ns:
            return self._buckets[self._newest % BUCKETS]
        at = now_ns // self._bucket_ns
        for each in range(max(self._newest + 1, at - BUCKETS + 1), at + 1):
            gone = self._buckets[each % BUCKETS]
            self._calls -= gone[0]
            self._failed -= gone[1]
            self._slow -= gone[2]
            gone[:] = (0, 0, 0)
        self._newest = at
        return self._buckets[at % BUCKETS]

    def add(self, now_ns: int, failed: bool, slow: bool) -> str:
        bucket = self._advance(now_ns)
        bucket[0] += 1
        bucket[1] += failed
        bucket[2] += slow
        self._calls += 1
        self._failed += failed
        self._slow += slow
        return self._settings.too_much(self._calls, self._failed, self._slow) if failed or slow else ""

    def add_plain(self, at_ns: int, calls: int) -> None:
        self._advance(at_ns)[0] += calls
        self._calls += calls

    def until_ns(self, now_ns: int) -> int:
        self._advance(now_ns)
        return (self._newest + 1) * self._bucket_ns

    def rates(self, now_ns: int) -> tuple[int, int, int]:
        self._advance(now_ns)
        return self._calls, self._failed, self._slow
