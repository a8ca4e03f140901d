"""Up to which execution it is certain that we know them all, and when the venue is asked for its list again.

Pure. An execution that comes by itself says nothing of those before it: its report may have been lost on the
way. The venue's list has no holes. So a list is asked for from the mark on, at a take-over and, while we
lead, soon after each execution and now and then without one; when the venue has nothing more to tell, its end
is the mark.
Ids only have to rise: those of a real venue are sparse. Who asks: daemons/omsd/confirmation.py.
"""

from __future__ import annotations

EVERY_NS = 1_000_000_000
"""Between two lists: what was lost is missed for about this long, and each execution is told once more."""
IDLE_EVERY_NS = 5_000_000_000
"""The same while nothing was executed, as far as we know."""
RETRY_NS = 1_000_000_000
"""For a list that has not come."""
LATE_NS = 5_000_000_000
"""Without a list for so long after an execution: an alarm."""


class Confirmed:
    def __init__(self, up_to: int) -> None:
        self.up_to = up_to
        self._after: int | None = None
        """Of the list that is being asked for; None: none is."""
        self._asked_ns = self._open_ns = 0
        """When it was last asked for; since when there are executions above the mark (0: there are none)."""

    def __repr__(self) -> str:
        return f"<Confirmed to {self.up_to}{'' if self._after is None else f', asked after {self._after}'}>"

    def set(self, up_to: int) -> None:
        """A take-over has had the whole list up to here, or a leader has; what was asked before is void."""
        self.up_to, self._after, self._open_ns = up_to, None, 0

    def due(self, last_execution: int, now_ns: int) -> int | None:
        """After which execution the venue is to be asked now; None: not now. `last_execution`: the highest
        that is known."""
        behind = last_execution > self.up_to
        self._open_ns = (self._open_ns or now_ns) if behind else 0
        wait_ns = RETRY_NS if self._after is not None else EVERY_NS if behind else IDLE_EVERY_NS
        if now_ns - self._asked_ns < wait_ns:
            return None
        self._asked_ns = now_ns
        self._after = self.up_to if self._after is None else self._after
        return self._after

    def told(self, end: int, now_ns: int) -> int | None:
        """The venue's answer: one page, by its highest id; 0 for an empty one. After which to ask for the
        next page; None when that was the last, or nobody had asked.
        """
        if self._after is None:
            return None
        if end > self._after:
            self._after, self._asked_ns = end, now_ns
            return self._after
        self.up_to, self._after, self._open_ns = self._after, None, 0
        return None

    def late(self, now_ns: int) -> bool:
        """The venue has confirmed nothing for too long."""
        return self._open_ns != 0 and now_ns - self._open_ns >= LATE_NS
