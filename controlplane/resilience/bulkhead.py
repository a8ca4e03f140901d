"""A bulkhead: so many calls to one neighbour run at once, so many more wait, and the rest are refused.
A neighbour that has become slow then costs this many callers, not all. Pure: it hands out tickets and says
whose turn it is; who waits for a turn, and how, is the caller's.

    ticket = bulkhead.enter()           # None: full, and the queue too
    if not ticket.inside: wait until it is, or give it back with leave()
    ...
    for turn in bulkhead.leave(ticket): wake the owner of turn
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Ticket:
    inside: bool
    """Its owner may call. Turns true when it is its turn."""

    left: bool = False


class Bulkhead:
    """Not for two threads at once without a lock."""

    def __init__(self, name: str, concurrent_max: int = 25, queue_max: int = 0) -> None:
        if concurrent_max < 1 or queue_max < 0:
            raise ValueError(
                f"bulkhead {name}: {concurrent_max} at once and {queue_max} waiting, "
                "at least 1 and 0 are wanted"
            )
        self.name, self.concurrent_max, self.queue_max = name, concurrent_max, queue_max
        self.inside = 0
        self.refused = 0
        self._queue: OrderedDict[int, Ticket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Bulkhead {self.name} {self.inside}/{self.concurrent_max}, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter(self) -> Ticket | None:
        """A ticket that is inside or waits for its turn; None when neither is possible."""
        if self.inside < self.concurrent_max:
            self.inside += 1
            return Ticket(inside=True)
        if len(self._queue) >= self.queue_max:
            self.refused += 1
            return None
        ticket = Ticket(inside=False)
        self._queue[id(ticket)] = ticket
        return ticket

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """The call has ended, or its owner waits no longer. Returns the tickets whose turn it is now: at most
        one. A second time is nothing.
        """
        if ticket.left:
            return []
        ticket.left = True
        if not ticket.inside:
            del self._queue[id(ticket)]
            return []
        if not self._queue:
            self.inside -= 1
            return []
        # The place goes from one to the other: nobody can slip in between.
        _, turn = self._queue.popitem(last=False)
        turn.inside = True
        return [turn]
