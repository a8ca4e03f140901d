"""An adapter for a venue's market data: verbatim frames in, exact normalised messages out. No socket, no
clock.

venues/binance.py is the first; venues/synthetic.py speaks the same frames. A frame is a message, or of no
interest, or undecodable. These are all values, not exceptions: one bad frame costs a counter, never the feed.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

from controlplane.errors import InvalidInput
from hftd.engine import fixed
from hftd.engine.market import trade_ids
from hftd.wire import market


class Undecodable(NamedTuple):
    reason: str


class Normaliser(Protocol):
    skipped: Counter[str]
    """What it is -> frames without market data of ours."""
    trades: trade_ids.TradeIds
    """Has the ids of bookings; the caller gives it those of the trades that it takes."""

    def __call__(
        self, raw: bytes, receive_ns: int, origin_ns: int = 0
    ) -> market.Message | Undecodable | None:
        """None: a valid frame without market data of ours, such as the answer to a subscription, a stream
        that is not read, or a booking among the trades.
        """

    def packed(
        self, raw: bytes, receive_ns: int, origin_ns: int
    ) -> tuple[int, int, bytes] | Undecodable | None:
        """The same as (kind, event ns, packed message), for a caller that only passes it on."""


class Numbers(dict[str, int]):
    """engine/fixed.py's `parse`, memoised: prices and quantities repeat, and a hit costs a tenth of parsing.

    Emptied when full, so memory is bounded. Raises InvalidInput for a value that is negative or does not fit
    1e-8 exactly.
    """

    SIZE_MAX = 1 << 14
    """About 1.5 MB for each instrument; eight times as many saved 6 % of the time on the recorded day."""

    def __missing__(self, text: str) -> int:
        value = fixed.parse(text)
        if value < 0:
            raise InvalidInput(f"{text!r} is negative; prices and quantities are not")
        if len(self) >= self.SIZE_MAX:
            self.clear()
        self[text] = value
        return value
