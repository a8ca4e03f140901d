"""One instrument's order book, rebuilt from a snapshot and the venue's chain of diffs. Pure: no clock, no
socket.

Two chain rules, told apart by the diff itself. A diff that names its predecessor (`previous`, Binance
futures' pu) must follow the one applied last; one that does not (Binance spot, U/u) must begin at or below
the id after it. The first diff after a snapshot must cover the snapshot's id. Diffs that arrive before the
snapshot are kept and judged when it comes. After a gap nothing is applied until a new snapshot: a book is
right or it is not there. Used by bookd, by `data verify` and by simd's matching (the same rules, so they
agree).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from hftd.wire import market

Level = tuple[int, int]
"""(price, quantity), units of 1e-8."""

KEPT_MAX = 20_000
"""Diffs kept while a snapshot is awaited: minutes of the busiest stream. Beyond it the oldest go; the chain
check finds what that breaks."""
HEAP_SLACK = 4_096
"""Prices that have left the book but not yet the heap of bests, beyond as many as the book has: then the heap
is made anew."""


class Outcome(IntEnum):
    APPLIED = 1
    STALE = 2
    """Older than the book; nothing to do."""
    WAITING = 3
    """Kept: the book waits for a snapshot."""
    GAP = 4
    """Diffs are missing before this one (it is kept). The book is empty now and waits for a snapshot. Said
    once."""


APPLIED, STALE, WAITING, GAP = Outcome


class Restored(NamedTuple):
    """What a snapshot did: the diffs that had been kept were judged against it."""

    applied: int
    stale: int
    crossed: int
    """Of the applied, those that left the best bid at or over the best ask."""
    gap: bool
    """The kept diffs do not follow the snapshot: it is too old, another one is needed."""
    resync: bool
    """It ended a gap (or a forgotten chain); False for the first one. Diffs kept since then that it already
    holds are only dropped."""


class Ignored(NamedTuple):
    """The book is in step; its chain proves it, and a snapshot may hold less than all levels."""

    last: int


class KeptDiff(NamedTuple):
    first: int
    last: int
    previous: int
    bids: Iterable[Level]
    asks: Iterable[Level]


class Book:
    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        """price -> quantity, never 0."""
        self.asks: dict[int, int] = {}
        self.last = 0
        """Update id of what was applied last."""
        self.in_step = False
        """False: no snapshot yet, or a gap; the book is empty."""
        self._began = False
        """A snapshot has been seen at some time: the next one is a resync."""
        self._first_pending = False
        """The snapshot has come, the first diff after it has not."""
        self._kept: deque[KeptDiff] = deque(maxlen=KEPT_MAX)
        self._bid_heap: list[int] = []
        """Negated prices. Prices that have left the book stay until they come to the top: removing is one
        dict operation."""
        self._ask_heap: list[int] = []

    def __repr__(self) -> str:
        return (
            f"<Book {len(self.bids)} bids, {len(self.asks)} asks, last {self.last}, "
            f"{'in step' if self.in_step else 'waiting'}>"
        )

    @property
    def levels(self) -> int:
        return len(self.bids) + len(self.asks)

    def best(self) -> tuple[int, int, int, int]:
        """(bid price, bid quantity, ask price, ask quantity); zeros where a side is empty."""
        heap, book = self._bid_heap, self.bids
        while heap and -heap[0] not in book:
            heapq.heappop(heap)
        bid = -heap[0] if heap else 0
        heap, other = self._ask_heap, self.asks
        while heap and heap[0] not in other:
            heapq.heappop(heap)
        ask = heap[0] if heap else 0
        return (bid, book.get(bid, 0), ask, other.get(ask, 0))

    @property
    def crossed(self) -> bool:
        """Never true of a book that was rebuilt without loss."""
        bid, _, ask, _ = self.best()
        return 0 < ask <= bid

    @property
    def at_diff(self) -> int:
        """Update id of the diff applied last; 0 where none has been since the snapshot."""
        return self.last if self.in_step and not self._first_pending else 0

    def depth(self, levels_max: int) -> tuple[list[Level], list[Level]]:
        """The best levels of both sides, best first."""
        bids, asks = (
            heapq.nlargest(levels_max, self.bids.items()),
            heapq.nsmallest(levels_max, self.asks.items()),
        )
        return bids, asks

    # --- what the venue sends -------------------------------------------------------------------------------

    def apply(self, message: market.Message) -> Outcome | Restored | Ignored | None:
        """A DIFF or a SNAPSHOT; None for every other kind."""
        if message.kind == market.Kind.DIFF:
            return self.diff(message.first, message.last, message.previous, message.bids, message.asks)
        if message.kind == market.Kind.SNAPSHOT:
            return self.snapshot(message.last, message.bids, message.asks)
        return None

    def diff(
        self, first: int, last: int, previous: int, bids: Iterable[Level], asks: Iterable[Level]
    ) -> Outcome:
        if not self.in_step:
            self._kept.append(KeptDiff(first, last, previous, bids, asks))
            return WAITING
        outcome = self._judge(first, last, previous)
        if outcome is APPLIED:
            self._write(last, bids, asks)
        elif outcome is GAP:
            self.forget()
            self._kept.append(KeptDiff(first, last, previous, bids, asks))
        return outcome

    def snapshot(self, last: int, bids: Iterable[Level], asks: Iterable[Level]) -> Restored | Ignored:
        if self.in_step:
            return Ignored(last)
        resync, kept = self._began, list(self._kept)
        counts, crossed = {APPLIED: 0, STALE: 0, WAITING: 0, GAP: 0}, 0
        if resync:
            kept = [one for one in kept if one.last > last]
            counts[STALE] = len(self._kept) - len(kept)
        self.bids = {price: quantity for price, quantity in bids if quantity}
        self.asks = {price: quantity for price, quantity in asks if quantity}
        self._rebuild_heaps()
        self.last, self.in_step, self._began, self._first_pending = last, True, True, True
        self._kept.clear()
        for one in kept:
            outcome = self.diff(*one)
            counts[outcome] += 1
            crossed += outcome is APPLIED and self.crossed
        return Restored(counts[APPLIED], counts[STALE], crossed, counts[GAP] > 0, resync)

    def forget(self) -> None:
        """The chain is broken (a gap, a new session, lost frames): empty the book and wait for a snapshot."""
        self.bids, self.asks = {}, {}
        self._bid_heap, self._ask_heap = [], []
        self.in_step = False
        self._kept.clear()

    def _judge(self, first: int, last: int, previous: int) -> Outcome:
        if previous:
            if self._first_pending:
                if last < self.last:
                    return STALE
                # The venue says first <= snapshot; ids are sparse there, so a snapshot may also lie between a
                # diff and its predecessor.
                return APPLIED if first <= self.last or previous <= self.last else GAP
            if previous == self.last:
                return APPLIED
            return STALE if last <= self.last else GAP
        if last <= self.last:
            return STALE
        return APPLIED if first <= self.last + 1 else GAP

    def _write(self, last: int, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        self.last = last
        self._first_pending = False
        book, heap, push = self.bids, self._bid_heap, heapq.heappush
        for price, quantity in bids:
            if not quantity:
                book.pop(price, None)
            else:
                if price not in book:
                    push(heap, -price)
                book[price] = quantity
        book, other = self.asks, self._ask_heap
        for price, quantity in asks:
            if not quantity:
                book.pop(price, None)
            else:
                if price not in book:
                    push(other, price)
                book[price] = quantity
        if len(heap) + len(other) > 2 * (len(self.bids) + len(book)) + HEAP_SLACK:
            self._rebuild_heaps()

    def _rebuild_heaps(self) -> None:
        self._bid_heap = [-price for price in self.bids]
        self._ask_heap = list(self.asks)
        heapq.heapify(self._bid_heap)
        heapq.heapify(self._ask_heap)
