"""What a book (book.py) keeps until it knows what to make of it: diffs that wait for a snapshot, and
snapshots that the next diffs may follow. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Level = tuple[int, int]
"""(price, quantity), units of 1e-8."""

NO_PRICE_MAX = 1 << 63
"""Above every price."""


class KeptDiff(NamedTuple):
    first: int
    last: int
    previous: int
    bids: Iterable[Level]
    asks: Iterable[Level]
    event_ns: int


class Snapshot(NamedTuple):
    last: int
    receive_ns: int
    bids: dict[int, int]
    """price -> quantity, never 0."""
    asks: dict[int, int]

    @property
    def crossed(self) -> bool:
        """No book of a venue is; it is not used."""
        return bool(self.bids) and bool(self.asks) and max(self.bids) >= min(self.asks)

    @property
    def low(self) -> int:
        """It knows all bids from here on; the whole side where it has none."""
        return min(self.bids, default=0)

    @property
    def high(self) -> int:
        return max(self.asks, default=NO_PRICE_MAX)

    def same_as(self, bids: dict[int, int], asks: dict[int, int], low: int, high: int) -> bool:
        """Does a book that knows all bids from `low` and all asks up to `high` show the same, within the
        prices that both know?
        """
        low, high = max(low, self.low), min(high, self.high)
        return _from(low, bids) == _from(low, self.bids) and _up_to(high, asks) == _up_to(high, self.asks)


def _from(low: int, levels: dict[int, int]) -> dict[int, int]:
    return {price: quantity for price, quantity in levels.items() if price >= low}


def _up_to(high: int, levels: dict[int, int]) -> dict[int, int]:
    return {price: quantity for price, quantity in levels.items() if price <= high}
