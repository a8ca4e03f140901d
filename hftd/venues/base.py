"""What an adapter for a venue's market data is: verbatim frames in, exact normalised messages out. No socket,
no clock.

venues/binance.py is the first; venues/synthetic.py speaks the same frames. A frame is either a message, or
nothing for us, or undecodable: expected outcomes are values, so that one bad frame costs a counter and never
the feed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from controlplane.errors import InvalidInput
from hftd.engine import fixed
from hftd.wire import market


class Undecodable(NamedTuple):
    reason: str


class Normaliser(Protocol):
    def __call__(
        self, raw: bytes, receive_ns: int, origin_ns: int = 0
    ) -> market.Message | Undecodable | None:
        """None: a valid frame without market data, such as the answer to a subscription."""

    def packed(
        self, raw: bytes, receive_ns: int, origin_ns: int
    ) -> tuple[int, int, bytes] | Undecodable | None:
        """The same as (kind, event ns, packed message), for a reader that only passes it on."""


class Numbers(dict[str, int]):
    """engine/fixed.py's `parse` by look-up: prices and quantities repeat, and a hit costs a tenth of the
    parsing.

    Emptied when full, so memory is bounded. Raises InvalidInput for what does not fit 1e-8 exactly, and for
    what is below 0.
    """

    SIZE_MAX = 1 << 14
    """About 1.5 MB for each instrument; eight times as many saved 6 % of the time on the recorded day."""

    def __missing__(self, text: str) -> int:
        value = fixed.parse(text)
        if value < 0:
            raise InvalidInput(f"{text!r} is below 0; no price or quantity is")
        if len(self) >= self.SIZE_MAX:
            self.clear()
        self[text] = value
        return value
