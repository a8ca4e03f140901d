"""A book is right or it is not there, whatever is lost, comes twice, comes late, or begins again: a small
venue with everything that a recorder may do to its stream, drawn by Hypothesis.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hftd.engine.market import book

BASES = (10**9, 10**6, 10**3)
"""Where the ids of each life of the venue begin: lower each time, and far apart."""
STEP_NS = 100_000_000


class Diff(NamedTuple):
    first: int
    last: int
    previous: int
    bids: list[book.Level]
    asks: list[book.Level]
    event_ns: int


class Shown(NamedTuple):
    last: int
    bids: dict[int, int]
    asks: dict[int, int]


class Venue:
    """One symbol: bids 100 to 109, asks 110 to 119, a diff for each change."""

    def __init__(self, futures: bool) -> None:
        self.futures, self.life, self.now_ns = futures, 0, STEP_NS
        self.bids, self.asks = {109: 1}, {110: 1}
        self.last = BASES[0]
        self.was: dict[int, Shown] = {}
        """Event time of each diff -> the whole book after it."""
        self.diffs: list[Diff] = []
        self.snapshots: list[Shown] = []

    def change(self, number: int) -> Diff:
        side, price, quantity = number % 2, number // 2 % 10, number // 20 % 4
        levels = [(price + (110 if side else 100), quantity)]
        for price, quantity in levels:
            book_side = self.asks if side else self.bids
            book_side[price] = quantity
            if not quantity:
                del book_side[price]
        self.now_ns += STEP_NS
        first, previous = self.last + 1 + (number % 3 if self.futures else 0), self.last
        self.last = first + number % 3
        made = Diff(
            first,
            self.last,
            previous if self.futures else 0,
            [] if side else levels,
            levels if side else [],
            self.now_ns,
        )
        self.was[self.now_ns] = self.shown()
        self.diffs.append(made)
        return made

    def shown(self) -> Shown:
        return Shown(self.last, dict(self.bids), dict(self.asks))

    def restart(self) -> None:
        if self.life + 1 < len(BASES):
            self.life += 1
            self.last = BASES[self.life]
            self.bids, self.asks = {105: 9}, {115: 9}


def give(one: book.Book, made: Diff) -> None:
    one.diff(made.first, made.last, made.previous, made.bids, made.asks, made.event_ns, made.event_ns)


def answer(one: book.Book, shown: Shown, receive_ns: int) -> None:
    one.snapshot(shown.last, shown.bids.items(), shown.asks.items(), receive_ns)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "diff",
                "diff",
                "diff",
                "lost",
                "again",
                "ask",
                "answer",
                "answer",
                "answer late",
                "restart",
                "quote",
            ]
        ),
        st.integers(0, 79),
    ),
    max_size=60,
)


@given(st.booleans(), OPERATIONS)
@settings(max_examples=600, deadline=None)
@example(
    False, [("ask", 0), ("answer", 0), ("diff", 21), ("lost", 41), ("ask", 0), ("answer", 0), ("diff", 25)]
)
@example(
    True, [("ask", 0), ("answer", 0), ("diff", 21), ("restart", 0), ("diff", 41), ("ask", 0), ("answer", 0)]
)
def test_a_book_in_step_is_the_venues_whatever_happens_to_the_stream(
    futures: bool, operations: list[tuple[str, int]]
) -> None:
    venue, one = Venue(futures), book.Book()
    for what, number in operations:
        match what:
            case "diff":
                give(one, venue.change(number))
            case "lost":
                venue.change(number)
            case "again" if venue.diffs:
                give(one, venue.diffs[-1 - number % min(5, len(venue.diffs))])
            case "ask":
                venue.snapshots.append(venue.shown())
            case "answer" if venue.snapshots:
                answer(one, venue.snapshots[-1], venue.now_ns)
            case "answer late" if venue.snapshots:
                answer(one, venue.snapshots[number % len(venue.snapshots)], venue.now_ns)
            case "restart":
                venue.restart()
            case "quote":
                bid, ask = max(venue.bids, default=0), min(venue.asks, default=0)
                best = (bid, venue.bids.get(bid, 0), ask, venue.asks.get(ask, 0))
                assert one.quote(venue.last, best), "a right quote never contradicts a right book"
        if one.at_diff:
            assert Shown(one.last, one.bids, one.asks) == venue.was[one._event_ns]
        if not one.in_step:
            assert one.levels == 0 and one.lost
    # Whatever happened: snapshots for as long as it waits, and within some seconds it is the venue's.
    answer(one, venue.shown(), venue.now_ns)
    for number in range(book.STALE_NS_MAX // STEP_NS + 3):
        give(one, venue.change(21 + number % 7))
        if not one.in_step:
            answer(one, venue.shown(), venue.now_ns)
    give(one, venue.change(27))
    assert one.in_step and (one.bids, one.asks) == (venue.bids, venue.asks)
