"""What a guarded call was for its breaker: fine, failed, slow, or nothing that says much of the callee. Pure.

`Rules` judges exceptions and results. An exception that is none of `failures` is an answer (the callee works
and says no) and counts as fine; what ends a call from outside (a cancelled task, Ctrl-C) says nothing and
only gives the permit back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Outcome(enum.Enum):
    OK = "ok"
    FAIL = "fail"
    SLOW = "slow"
    """An answer, but too late to be of use; counts for the slow-call rate."""

    IGNORE = "ignore"
    """Neither way: the permit is given back and nothing is counted but this."""


@dataclass(frozen=True, slots=True)
class Rules:
    failures: tuple[type[BaseException], ...] = (Exception,)
    """Exceptions that are the callee's failure."""

    ignored: tuple[type[BaseException], ...] = ()
    """Exceptions that count neither way; looked at before `failures`."""

    result: Callable[[object], Outcome] | None = None
    """Judges what a call returned (an HTTP 503 is a result to its client). None: every result is fine."""

    exception: Callable[[BaseException], Outcome] | None = None
    """Judges exceptions instead of the two tuples."""

    def of_exception(self, exc: BaseException) -> Outcome:
        if self.exception is not None:
            return self.exception(exc)
        if isinstance(exc, self.ignored):
            return Outcome.IGNORE
        if isinstance(exc, self.failures):
            return Outcome.FAIL
        return Outcome.OK if isinstance(exc, Exception) else Outcome.IGNORE

    def of_result(self, result: object) -> Outcome:
        return Outcome.OK if self.result is None else self.result(result)


EVERY_EXCEPTION = Rules()
"""Each `Exception` is a failure, each result fine."""
