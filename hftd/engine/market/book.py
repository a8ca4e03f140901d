"""One instrument's order book, rebuilt from a snapshot and the venue's chain of diffs. Pure: no clock, no
socket.

Two chain rules, told apart by the diff itself. A diff that names its predecessor (`previous`, Binance
futures' pu) must follow the one applied last; one that does not (Binance spot, U/u) must begin at or below
the id after it. The first diff after a snapshot must cover the snapshot's id. Diffs that arrive before the
snapshot are kept and judged when it comes; a hole among them is said.

A book is right or it is not there. It is emptied, and waits for a snapshot, as soon as the stream proves it
wrong: a diff does not follow, ids begin again lower, too many diffs in a row are older than the book, its bid
reaches its offer, or the venue's own quote at the same id is another. A snapshot of a book in step is
compared where its id is that of the diff applied last, and taken where it says otherwise; with any other id
it is kept until the next diffs show which of the two they follow. Used by bookd, by `data verify` and by
simd's matching (the same rules, so they agree).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from hftd.engine.market.kept import NO_PRICE_MAX, KeptDiff, Snapshot
from hftd.engine.market.kept import Level as Level
from hftd.wire import market

KEPT_MAX = 20_000
"""Diffs kept while a snapshot is awaited: minutes of the busiest stream. Beyond it the oldest go; the chain
check finds what that breaks."""
SNAPSHOTS_KEPT_MAX = 4
"""Snapshots kept of a book in step: several readers may ask at once, and an answer may come late."""
STALE_MAX = 10_000
"""Diffs in a row that are older than the book: more than a snapshot can be ahead of its diffs, also in a
replay at full speed, where it overtakes all that is on its way. Beyond it the book stands at an id that the
stream does not come to."""
STALE_NS_MAX = 5_000_000_000
"""Diffs that are older than the snapshot and were received this long after it: it was ahead by a part of a
second."""
HEAP_SLACK = 4_096
"""Prices that have left the book but not yet the heap of bests, beyond as many as the book has: then the heap
is made anew."""
_DIFF, _SNAPSHOT, _TICKER = int(market.Kind.DIFF), int(market.Kind.SNAPSHOT), int(market.Kind.TICKER)
_NOTHING = (0, 0, 0, 0)


class Outcome(IntEnum):
    APPLIED = 1
    STALE = 2
    """Older than the book; nothing to do."""
    WAITING = 3
    """The book waits for a snapshot; a diff is kept for it."""
    GAP = 4
    """Diffs are missing before this one (it is kept). The book is empty now and waits for a snapshot. Said
    once until that comes."""
    CROSSED = 5
    """Applied, and the best bid was at or over the best ask then: the book is wrong, empty now, and waits for
    a snapshot."""


APPLIED, STALE, WAITING, GAP, CROSSED = Outcome


class Restored(NamedTuple):
    """A snapshot is the book now, and the diffs that had been kept were judged after it. Whether the book is
    in step then the book itself says.
    """

    applied: int
    stale: int
    """Those that the snapshot already holds; after the first snapshot they were awaited with it, and count
    nowhere else."""
    crossed: int
    """1: a diff left the best bid at or over the best ask, and the book was emptied again."""
    gap: bool
    """The kept diffs do not follow the snapshot: it is too old, another one is needed."""
    resync: bool
    """It ended a gap (or a forgotten chain), or said otherwise than a book in step; False for the first
    one."""


class Ignored(NamedTuple):
    """The snapshot says the same as a book in step, or waits until the next diffs show which of the two they
    follow; or it is crossed, and of no use.
    """

    last: int


COUNTED = (
    "applied",
    "stale",
    "gaps",
    "resyncs",
    "crossed",
    "quotes_compared",
    "quotes_equal",
    "snapshots_compared",
    "snapshots_equal",
)
"""The names of a book's counts, in the order in which they are shown."""


class Book:
    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        """price -> quantity, never 0."""
        self.asks: dict[int, int] = {}
        self.last = 0
        """Update id of what was applied last."""
        self.in_step = False
        """False: no snapshot yet, or it was emptied."""
        self.lost = "no snapshot has come"
        """Why it is not in step, or was not when it was last, for people."""
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._began = False
        """A snapshot has been seen at some time: the next one is a resync."""
        self._first_pending = False
        """The snapshot has come, the first diff after it has not."""
        self._event_ns = 0
        """Of the diff applied last, by the venue's clock."""
        self._stale_row = 0
        self._snapshot_ns = self._receive_ns = 0
        """When the snapshot was received that the book began with, or a diff before it that came later; and
        the diff that came last."""
        self._snapshots: deque[Snapshot] = deque(maxlen=SNAPSHOTS_KEPT_MAX)
        """What the next diffs may follow: those that came while the book was in step."""
        self._low, self._high = 0, NO_PRICE_MAX
        """The prices that the book's own snapshot showed: bids from the first, asks up to the second."""
        self._kept: deque[KeptDiff] = deque(maxlen=KEPT_MAX)
        self._kept_last = self._kept_event_ns = 0
        """Of the newest of them."""
        self._hole_said = False
        """Until the next snapshot a hole counts once."""
        self._bid_heap: list[int] = []
        """Negated prices. Prices that have left the book stay until they come to the top: removing is one
        dict operation."""
        self._ask_heap: list[int] = []
        self._best: tuple[int, int, int, int] | None = _NOTHING

    def __repr__(self) -> str:
        return (
            f"<Book {len(self.bids)} bids, {len(self.asks)} asks, last {self.last}, "
            f"{'in step' if self.in_step else 'waiting'}>"
        )

    @property
    def levels(self) -> int:
        return len(self.bids) + len(self.asks)

    @property
    def waiting(self) -> int:
        """Diffs that wait for a snapshot."""
        return 0 if self.in_step else len(self._kept)

    def best(self) -> tuple[int, int, int, int]:
        """(bid price, bid quantity, ask price, ask quantity); zeros where a side is empty."""
        found = self._best
        if found is None:
            heap, book = self._bid_heap, self.bids
            while heap and -heap[0] not in book:
                heapq.heappop(heap)
            bid = -heap[0] if heap else 0
            heap, other = self._ask_heap, self.asks
            while heap and heap[0] not in other:
                heapq.heappop(heap)
            ask = heap[0] if heap else 0
            found = self._best = (bid, book.get(bid, 0), ask, other.get(ask, 0))
        return found

    @property
    def crossed(self) -> bool:
        """Never true: a book that would be is emptied."""
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
        """A DIFF, a SNAPSHOT or a TICKER; None for a quote that says nothing of this book, or the same, and
        for every other kind.
        """
        kind = message.kind
        if kind == _TICKER:
            if message.last != self.last or not message.bids or not message.asks:
                return None
            return None if self.quote(message.last, message.bids[0] + message.asks[0]) else WAITING
        if kind == _DIFF:
            return self.diff(
                message.first,
                message.last,
                message.previous,
                message.bids,
                message.asks,
                message.event_ns,
                message.receive_ns,
            )
        if kind == _SNAPSHOT:
            return self.snapshot(message.last, message.bids, message.asks, message.receive_ns)
        return None

    def diff(
        self,
        first: int,
        last: int,
        previous: int,
        bids: Iterable[Level],
        asks: Iterable[Level],
        event_ns: int = 0,
        receive_ns: int = 0,
    ) -> Outcome | Restored:
        """Restored: the book waits, or diffs are missing before this one, and a snapshot that had been kept
        closes the gap.
        """
        self._receive_ns = receive_ns
        if not self.in_step:
            return self._keep(KeptDiff(first, last, previous, bids, asks, event_ns))
        outcome = self._judge(first, last, previous, event_ns)
        if outcome is APPLIED:
            return self._write(last, bids, asks, event_ns)
        if outcome is STALE and not self._stale_too_long(receive_ns):
            self.counts["stale"] += 1
            return STALE
        return self._break(KeptDiff(first, last, previous, bids, asks, event_ns))

    def snapshot(
        self, last: int, bids: Iterable[Level], asks: Iterable[Level], receive_ns: int = 0
    ) -> Restored | Ignored:
        shown = Snapshot(
            last,
            receive_ns,
            {price: quantity for price, quantity in bids if quantity},
            {price: quantity for price, quantity in asks if quantity},
        )
        if not self.in_step:
            return Ignored(last) if shown.crossed else self._restore(shown)
        if last != self.at_diff:
            if not shown.crossed:
                self._snapshots.append(shown)
            return Ignored(last)
        self.counts["snapshots_compared"] += 1
        if shown.same_as(self.bids, self.asks, self._low, self._high):
            self.counts["snapshots_equal"] += 1
            return Ignored(last)
        if shown.crossed:
            return Ignored(last)
        self.counts["resyncs"] += 1
        self.lost = f"the venue's snapshot of update id {last} says otherwise"
        self._replace(shown)
        return Restored(0, 0, 0, False, True)

    def quote(self, last: int, best: tuple[int, int, int, int]) -> bool:
        """The venue's own best bid and offer. False when it proves the book wrong: then that is empty."""
        if last != self.last or not self.in_step or self._first_pending:
            return True
        self.counts["quotes_compared"] += 1
        if self.best() == best:
            self.counts["quotes_equal"] += 1
            return True
        self.forget(f"the venue's quote at update id {last} is another")
        return False

    def forget(self, why: str) -> None:
        """The book is not to be believed (a gap, a new session, lost frames): empty it and wait for a
        snapshot.
        """
        self.bids, self.asks = {}, {}
        self._bid_heap, self._ask_heap, self._best = [], [], _NOTHING
        self.in_step, self.lost = False, why
        self._snapshots.clear()
        self._kept.clear()
        self._hole_said = False

    # --- diffs ----------------------------------------------------------------------------------------------

    def _judge(self, first: int, last: int, previous: int, event_ns: int) -> Outcome:
        mine = self.last
        if self._first_pending:
            return _follows(mine, first, last, previous)
        if last <= mine and not (last == mine == previous):
            # Sent again, or of a chain that began anew: only the venue's time tells.
            return GAP if event_ns > self._event_ns else STALE
        return APPLIED if (previous == mine if previous else first <= mine + 1) else GAP

    def _stale_too_long(self, receive_ns: int) -> bool:
        self._stale_row += 1
        long = self._first_pending and receive_ns - self._snapshot_ns > STALE_NS_MAX
        return long or self._stale_row > STALE_MAX

    def _write(self, last: int, bids: Iterable[Level], asks: Iterable[Level], event_ns: int) -> Outcome:
        self.last, self._event_ns = last, event_ns
        self._first_pending, self._stale_row = False, 0
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
        self._best = None
        counts = self.counts
        counts["applied"] += 1
        bid, _, ask, _ = self.best()
        if 0 < ask <= bid:
            counts["crossed"] += 1
            self.forget(f"crossed by the diff of update id {last}")
            return CROSSED
        if self._snapshots:  # the chain goes on: what it has passed is of no use any more
            ahead = [shown for shown in self._snapshots if shown.last > last]
            self._snapshots.clear()
            self._snapshots.extend(ahead)
        return APPLIED

    def _break(self, one: KeptDiff) -> Outcome | Restored:
        """A diff that does not follow: a snapshot that had been kept is the book now, or there is none."""
        self.counts["gaps"] += 1
        before, back = self.last, one.last <= self.last
        # Of the chain that this diff is of: ids begin again lower, or some are missing.
        snapshots = [each for each in self._snapshots if (each.last < before if back else each.last > before)]
        self.forget(
            f"ids begin again lower: {one.last} after {before}"
            if back
            else f"diffs are missing between update ids {before} and {one.previous or one.first}"
        )
        self._hole_said = True
        self._put(one)
        self._snapshots.extend(snapshots)
        return self._restore_by(one) or GAP

    def _keep(self, one: KeptDiff) -> Outcome | Restored:
        last, event_ns = self._kept_last, self._kept_event_ns
        hole = False
        if not self._kept:
            self._put(one)
        elif one.last > last:
            hole = not (one.previous == last if one.previous else one.first <= last + 1)
            self._put(one)
        elif event_ns < one.event_ns:  # ids begin again lower: no snapshot to come is of the chain before
            hole = True
            self._kept.clear()
            self._snapshots.clear()
            self._put(one)
        else:
            self._kept.append(one)  # sent again
        found = self._restore_by(one) if self._snapshots else None
        if found is not None:
            return found
        if not hole or self._hole_said:
            return WAITING
        self._hole_said = True
        self.counts["gaps"] += 1
        return GAP

    def _restore_by(self, one: KeptDiff) -> Restored | None:
        """The book is the newest kept snapshot that this diff goes on from. One that it has left behind is of
        no use; one that is ahead of it is not used before a diff has come to it: it may be of the chain
        before.
        """
        judged = [(each, _follows(each.last, one.first, one.last, one.previous)) for each in self._snapshots]
        for each, outcome in reversed(judged):
            if outcome is APPLIED:
                return self._restore(each)
        self._snapshots.clear()
        self._snapshots.extend(each for each, outcome in judged if outcome is STALE)
        return None

    def _put(self, one: KeptDiff) -> None:
        self._kept.append(one)
        self._kept_last, self._kept_event_ns = one.last, one.event_ns

    # --- snapshots ------------------------------------------------------------------------------------------

    def _restore(self, shown: Snapshot) -> Restored:
        resync, kept, said = self._began, list(self._kept), self._hole_said
        self._kept.clear()
        self._hole_said = False
        applied = stale = 0
        if resync:
            newer = [one for one in kept if one.last > shown.last]
            stale, kept = len(kept) - len(newer), newer
            self.counts["resyncs"] += 1
        self.last, self.in_step = shown.last, True
        self._began = self._first_pending = True
        self._stale_row, self._snapshot_ns = 0, max(shown.receive_ns, self._receive_ns)
        self._replace(shown)
        for number, one in enumerate(kept):
            outcome = self._judge(one.first, one.last, one.previous, one.event_ns)
            if outcome is STALE:
                stale += 1
                self.counts["stale"] += 1
                continue
            if outcome is APPLIED:
                applied += 1
                outcome = self._write(one.last, one.bids, one.asks, one.event_ns)
            if outcome is APPLIED:
                continue
            if outcome is GAP:
                self.counts["gaps"] += not said
                self.forget(
                    f"diffs are missing between the snapshot of update id {shown.last} and the diff of "
                    f"{one.last}"
                )
                self._hole_said = True
            for left in kept[number + (outcome is CROSSED) :]:
                self._keep(left)
            return Restored(applied, stale, int(outcome is CROSSED), outcome is GAP, resync)
        return Restored(applied, stale, 0, False, resync)

    def _replace(self, shown: Snapshot) -> None:
        self.bids, self.asks = dict(shown.bids), dict(shown.asks)
        self._low, self._high = shown.low, shown.high
        self._snapshots.clear()
        self._rebuild_heaps()

    def _rebuild_heaps(self) -> None:
        self._bid_heap = [-price for price in self.bids]
        self._ask_heap = list(self.asks)
        heapq.heapify(self._bid_heap)
        heapq.heapify(self._ask_heap)
        self._best = None


def _follows(snapshot: int, first: int, last: int, previous: int) -> Outcome:
    """What the first diff after a snapshot is to it: APPLIED, STALE or GAP."""
    if previous:
        if last < snapshot:
            return STALE
        # The venue says first <= snapshot; ids are sparse there, so a snapshot may also lie between a diff
        # and its predecessor.
        return APPLIED if first <= snapshot or previous <= snapshot else GAP
    if last <= snapshot:
        return STALE
    return APPLIED if first <= snapshot + 1 else GAP
