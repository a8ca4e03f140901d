"""What a strategy is: pure callbacks that return what it wants done. No clock, no socket, no ids of the
outside world.

It numbers its own orders from 1; daemons/strategyd.py turns a number into a client order id that is never
used again, sends the order, and reports what became of it. Prices and quantities are integers in units of
1e-8, times are monotonic ns. A strategy must cope with reports that come late, twice or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hftd.wire.orders import Kind, OrderState, Side


class Instrument(NamedTuple):
    market: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.market}:{self.symbol}"


class Level(NamedTuple):
    """Price and quantity; quantity 0 where the side is empty."""

    price: int
    quantity: int


class Quote(NamedTuple):
    """bookd's best bid and offer."""

    instrument: Instrument
    bid: Level
    ask: Level
    origin_ns: int
    """CLOCK_MONOTONIC ns at which marketd read the frame that caused it."""
    origin_seq: int


class Trade(NamedTuple):
    instrument: Instrument
    price: int
    quantity: int
    taker: Side


class OrderUpdate(NamedTuple):
    """What became of one of our orders. `order` is 0 for one that is not ours, or no longer known;
    `client_order_id` names it.
    """

    order: int
    client_order_id: str
    instrument: Instrument
    side: Side
    state: OrderState
    filled: int
    reason: str


class Fill(NamedTuple):
    order: int
    instrument: Instrument
    side: Side
    price: int
    quantity: int
    execution_id: int


@dataclass(frozen=True, slots=True)
class Place:
    order: int
    instrument: Instrument
    side: Side
    kind: Kind
    price: int
    quantity: int
    origin_ns: int
    """Of the quote that caused it; 0 when no frame did (a timer, a report)."""
    origin_seq: int
    replaces: int = 0
    """Number of an own order to cancel first, in the same message; 0: none."""


@dataclass(frozen=True, slots=True)
class Cancel:
    order: int
    instrument: Instrument
    client_order_id: str = ""
    """Given when `order` is 0."""
    origin_ns: int = 0


Intent = Place | Cancel


class Strategy:
    """Does nothing; a strategy overrides what it needs. Every callback returns intents, which are carried out
    in order.
    """

    name = "idle"

    def configure(self, parameters: Mapping[str, object]) -> None:
        """Take new parameters, before or while trading. Raises InvalidSettings and keeps the old ones."""

    def on_book(self, instrument: Instrument, in_step: bool, now_ns: int) -> list[Intent]:
        """The instrument's book is in step with the venue; or it waits for a snapshot, and what was known of
        it no longer holds.
        """
        return []

    def on_quote(self, quote: Quote, now_ns: int) -> list[Intent]:
        return []

    def on_trade(self, trade: Trade, now_ns: int) -> list[Intent]:
        return []

    def on_order(self, update: OrderUpdate, now_ns: int) -> list[Intent]:
        return []

    def on_fill(self, fill: Fill, now_ns: int) -> list[Intent]:
        """Before the on_order of the same report."""
        return []

    def on_position(
        self, instrument: Instrument, quantity: int, last_execution: int, now_ns: int
    ) -> list[Intent]:
        """positiond's figure: the net quantity after all fills of this instrument up to `last_execution`."""
        return []

    def on_timer(self, now_ns: int) -> list[Intent]:
        return []
