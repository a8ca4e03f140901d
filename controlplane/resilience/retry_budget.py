"""How much may be tried again: at most a share of the calls, and only what is said to be idempotent. Pure.

Retries help while few calls fail; when many do, they double the load of a neighbour that is already down.
Each call puts a little into the budget and each retry takes a whole one out, so however many fail, there is
at most one retry for ten calls. A call that is not known to be idempotent (an order, a transfer, a cancel
that replaces) is never retried: an answer that was lost does not say that nothing happened. Breakers sit
inside: a retry asks for its own permit.
"""

from __future__ import annotations

PARTS = 10_000
"""A share is kept in these, so that no sum of floats drifts."""


class RetryBudget:
    """Not for two threads at once without a lock."""

    def __init__(self, share: float = 0.1, saved_max: int = 10) -> None:
        """At most `share` of the calls may be retries; `saved_max` of them can come in one go after a time
        of few.
        """
        if not 0 <= share <= 1 or saved_max < 1:
            raise ValueError(
                f"retry budget: share {share} of calls and {saved_max} saved, 0..1 and >= 1 wanted"
            )
        self._each = int(share * PARTS)
        self._saved_max = saved_max * PARTS
        self._saved = 0
        self.calls = self.retries = self.refused = 0

    def called(self) -> None:
        """A first try was made."""
        self.calls += 1
        self._saved = min(self._saved_max, self._saved + self._each)

    def may_retry(self, *, idempotent: bool) -> bool:
        """Take one retry out of the budget; False when it is empty or the call must not be repeated."""
        if not idempotent or self._saved < PARTS:
            self.refused += 1
            return False
        self._saved -= PARTS
        self.retries += 1
        return True
