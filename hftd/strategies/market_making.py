"""Market making: a post-only order at the best bid and one at the best offer of every instrument, moved when
the touch moves.

Each side of each instrument is a small state machine: at most one quote, and at most one more on its way out.
A quote is moved by one message that cancels it and places the next; the origin of that is the tick that moved
the touch. A least time between two orders on a side bounds the message rate. At the inventory limit only the
reducing side is quoted. A side is not quoted while its price is not better than the fair price

    mid + (bid volume - ask volume) x skew

An order that nothing is heard of is cancelled, forgotten and quoted anew, so the strategy recovers from a
fail-over by itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

from controlplane.errors import InvalidInput, InvalidSettings
from hftd.engine import fixed, position
from hftd.engine.orders.order import TERMINAL
from hftd.strategies import base
from hftd.strategies.base import Cancel, Fill, Instrument, Intent, OrderUpdate, Place, Quote
from hftd.wire.orders import Kind, OrderState, Side

PPM = 1_000_000
CANCELS_MAX = 3
"""After this many cancels without an answer an order is forgotten. Should it still be working, its next
report shows that, and it is cancelled as a stray."""


@dataclass(frozen=True, slots=True)
class Parameters:
    order_notional: int
    quantity_step: int
    position_max: int
    inventory_orders_max: int
    skew_ppm: int
    requote_interval_ns: int
    acknowledge_timeout_ns: int
    quote_age_max_ns: int
    top_age_max_ns: int

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Parameters:
        """From the settings' own names and units. Raises InvalidSettings naming the key."""

        def ns(key: str) -> int:
            return round(float(str(given[key])) * 1e9)

        def units(key: str) -> int:
            return fixed.parse(str(given[key]))

        def whole(key: str) -> int:
            return int(str(given[key]))

        try:
            return cls(
                units("order_notional"),
                units("quantity_step"),
                units("max_position"),
                whole("inventory_orders_max"),
                whole("skew_ppm"),
                ns("requote_interval_s"),
                ns("acknowledge_timeout_s"),
                ns("quote_age_max_s"),
                ns("top_age_max_s"),
            )
        except (KeyError, ValueError, InvalidInput) as exc:
            raise InvalidSettings(f"market_making: {exc}") from exc


@dataclass(slots=True)
class _Order:
    number: int
    price: int
    sent_ns: int
    heard: bool = False
    """A report on it has come."""
    news_ns: int = 0
    cancels: int = 0
    cancel_ns: int = 0


@dataclass(slots=True)
class _Side:
    side: Side
    quote: _Order | None = None
    leaving: _Order | None = None
    """Cancelled, but not yet reported as ended. While there is one, the quote is not moved again."""
    placed_ns: int | None = None


@dataclass(slots=True)
class _Market:
    instrument: Instrument
    sides: tuple[_Side, _Side] = field(default_factory=lambda: (_Side(Side.BUY), _Side(Side.SELL)))
    inventory: position.Inventory = field(default_factory=position.Inventory)
    quote: Quote | None = None
    quote_ns: int = 0


class MarketMaking(base.Strategy):
    name = "market_making"

    def __init__(self, parameters: Mapping[str, object]) -> None:
        self.configure(parameters)
        self._markets: dict[Instrument, _Market] = {}
        self._orders: dict[int, tuple[_Market, _Side]] = {}
        self._number = 0

    def configure(self, parameters: Mapping[str, object]) -> None:
        self.parameters = Parameters.of(parameters)

    # --- what happens ---------------------------------------------------------------------------------------

    def on_book(self, instrument: Instrument, in_step: bool, now_ns: int) -> list[Intent]:
        market = self._market(instrument)
        if in_step or market.quote is None:
            return []
        market.quote = None
        return list(self._settle(market, now_ns))

    def on_quote(self, quote: Quote, now_ns: int) -> list[Intent]:
        market = self._market(quote.instrument)
        market.quote, market.quote_ns = quote, now_ns
        return list(self._settle(market, now_ns, quote.origin_ns, quote.origin_seq))

    def on_order(self, update: OrderUpdate, now_ns: int) -> list[Intent]:
        known = self._orders.get(update.order)
        if known is None:
            # From an earlier run, or forgotten: nothing would ever move it.
            return (
                []
                if update.state in TERMINAL or update.state is OrderState.PENDING_CANCEL
                else [self._stray(update)]
            )
        market, side = known
        if update.state in TERMINAL:
            self._forget(side, update.order)
            return list(self._settle(market, now_ns))
        for order in (side.quote, side.leaving):
            if order is not None and order.number == update.order:
                order.heard, order.news_ns = True, now_ns
        return []

    def on_fill(self, fill: Fill, now_ns: int) -> list[Intent]:
        self._market(fill.instrument).inventory.filled(fill.execution_id, fill.side, fill.quantity)
        return []

    def on_position(
        self, instrument: Instrument, quantity: int, last_execution: int, now_ns: int
    ) -> list[Intent]:
        self._market(instrument).inventory.told(quantity, last_execution)
        return []

    def on_timer(self, now_ns: int) -> list[Intent]:
        return [intent for market in self._markets.values() for intent in self._settle(market, now_ns)]

    # --- what is decided ------------------------------------------------------------------------------------

    def _settle(
        self, market: _Market, now_ns: int, origin_ns: int = 0, origin_seq: int = 0
    ) -> Iterator[Intent]:
        """Bring both sides to where they should be: plain cancels go first, then the side that makes room for
        the other.
        """
        aims: list[tuple[_Side, int | None, _Order | None]] = []
        for side in market.sides:
            price = self._wanted(market, side, now_ns)
            replaced = yield from self._clear(market, side, price, now_ns, origin_ns)
            aims.append((side, price, replaced))
        (_, bid, _), (_, _, offer) = aims
        if bid is not None and offer is not None and bid >= offer.price:
            aims.reverse()  # our new bid must not meet our own offer that is on its way out
        for side, price, replaced in aims:
            if price is None or side.quote is not None or not self._due(side, now_ns):
                continue
            side.quote = _Order(self._number + 1, price, now_ns, news_ns=now_ns)
            side.placed_ns = now_ns
            self._number += 1
            self._orders[self._number] = (market, side)
            old = replaced.number if replaced is not None else 0
            yield Place(
                self._number,
                market.instrument,
                side.side,
                Kind.POST_ONLY,
                price,
                self._quantity(price),
                origin_ns,
                origin_seq,
                old,
            )

    def _clear(
        self, market: _Market, side: _Side, price: int | None, now_ns: int, origin_ns: int
    ) -> Generator[Intent, None, _Order | None]:
        """Cancel what has to go; returns the quote that is to be replaced, if any."""
        timeout_ns = self.parameters.acknowledge_timeout_ns
        if side.leaving is not None and now_ns - side.leaving.cancel_ns >= timeout_ns:
            if side.leaving.cancels >= CANCELS_MAX:
                self._forget(side, side.leaving.number)
            else:
                yield self._cancel(market, side.leaving, now_ns, 0)
        quote = side.quote
        if quote is None:
            return None
        if not quote.heard and now_ns - quote.sent_ns >= timeout_ns:
            # Most likely lost on the way; the cancel is in case it was not.
            yield self._cancel(market, quote, now_ns, 0)
            self._forget(side, quote.number)
            return None
        if side.leaving is not None or not quote.heard:
            return None
        old = now_ns - quote.news_ns >= self.parameters.quote_age_max_ns
        moved = price is not None and (price != quote.price or old) and self._due(side, now_ns)
        if price is not None and not moved:
            return None
        cancel = self._cancel(market, quote, now_ns, origin_ns)
        side.leaving, side.quote = quote, None
        if moved:
            return quote
        yield cancel
        return None

    def _wanted(self, market: _Market, side: _Side, now_ns: int) -> int | None:
        """The price to quote on that side now; None for no quote."""
        quote, limits = market.quote, self.parameters
        if quote is None or now_ns - market.quote_ns >= limits.top_age_max_ns or not market.inventory.known:
            return None
        bid, ask = quote.bid, quote.ask
        if not (0 < bid.price < ask.price and bid.quantity > 0 and ask.quantity > 0):
            return None
        buys = side.side is Side.BUY
        own = bid.price if buys else ask.price
        held = market.inventory.quantity if buys else -market.inventory.quantity
        quantity = self._quantity(own)
        if held + quantity > min(limits.position_max, limits.inventory_orders_max * quantity):
            return None
        if limits.skew_ppm:
            # fair x 2 x PPM, exact: mid and the volumes' difference are both in 1e-8.
            fair = (bid.price + ask.price) * PPM + 2 * (bid.quantity - ask.quantity) * limits.skew_ppm
            if (2 * own * PPM >= fair) if buys else (2 * own * PPM <= fair):
                return None
        return None if own * quantity % fixed.UNIT else own  # else no venue could book the fill exactly

    def _quantity(self, price: int) -> int:
        step = self.parameters.quantity_step
        return max(1, self.parameters.order_notional * fixed.UNIT // price // step) * step

    def _due(self, side: _Side, now_ns: int) -> bool:
        return side.placed_ns is None or now_ns - side.placed_ns >= self.parameters.requote_interval_ns

    def _cancel(self, market: _Market, order: _Order, now_ns: int, origin_ns: int) -> Cancel:
        order.cancels += 1
        order.cancel_ns = now_ns
        return Cancel(order.number, market.instrument, origin_ns=origin_ns)

    def _stray(self, update: OrderUpdate) -> Cancel:
        return Cancel(update.order, update.instrument, update.client_order_id)

    def _forget(self, side: _Side, number: int) -> None:
        self._orders.pop(number, None)
        if side.quote is not None and side.quote.number == number:
            side.quote = None
        if side.leaving is not None and side.leaving.number == number:
            side.leaving = None

    def _market(self, instrument: Instrument) -> _Market:
        found = self._markets.get(instrument)
        if found is None:
            found = self._markets[instrument] = _Market(instrument)
        return found
