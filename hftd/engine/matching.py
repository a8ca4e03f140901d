"""The venue's matching for one instrument: own orders against the liquidity and the trades of a tape, by
price and then time.

Pure and deterministic: commands (`place`, `cancel`, `cancel_all`) and what the tape did (`changed`,
`restated`, `traded`) come in one order, and each returns the list of events that it caused, in the order in
which they happened. The rules, and nothing else:

- An incoming order takes opposite levels from the best on. What it took stays taken until the tape names that
level again.
- A post-only order that would take is rejected; the rest of an immediate-or-cancel order is cancelled.
- A resting order queues behind what its level displays (less what was taken of it).
- A trade of the tape fills better-priced own orders, then the queue ahead, then ours: at most its quantity in
all, each at its own price.
- A diff lowers the queue ahead to at most the level's new quantity.
- An opposite best at or through our price fills us at our price, each level up to its quantity (and that much
of it is then taken).
- Own never meets own: the order that came last is cancelled where it would meet one, after it took what
stands before that one in the queue.

A resting order is filled by what can be booked exactly, and keeps the rest. A fill is booked before it is an
event: `accept` books it, or says why not, and then the order ends there and nothing was filled. What an order
is to its owner is engine/orders/order.py; who sends and reports is venues/sim.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hftd.engine import accounts, reasons
from hftd.wire.orders import Kind, OrderState, Side

ORDERS_MAX = 1_000
"""Own orders working in one instrument. A strategy keeps two; a runaway one must not make every diff slow."""


class Displayed(Protocol):
    """What the tape shows now: price -> quantity. engine/market/book.py's Book, or a test's two dicts."""

    @property
    def bids(self) -> Mapping[int, int]: ...

    @property
    def asks(self) -> Mapping[int, int]: ...

    def best(self) -> tuple[int, int, int, int]:
        """(bid price, bid quantity, ask price, ask quantity); zeros where a side is empty."""


class Event(NamedTuple):
    """What became of one own order. After FILLED, CANCELLED or REJECTED there is none."""

    order_id: str
    state: OrderState
    filled: int
    """In all."""
    price: int = 0
    """Of this fill; 0 when this is not a fill."""
    quantity: int = 0
    reason: str = ""


@dataclass(slots=True)
class Working:
    """An own order in the book. `ahead` is the displayed quantity that a trade at this price meets first."""

    order_id: str
    side: Side
    price: int
    quantity: int
    ahead: int
    filled: int = 0

    @property
    def remaining(self) -> int:
        return self.quantity - self.filled


Accept = Callable[[Side, int, int], str]
"""(side, price, quantity) -> "" when the fill is booked, else a reason code."""


class Matching:
    def __init__(self, displayed: Displayed, accept: Accept, orders_max: int = ORDERS_MAX) -> None:
        self._displayed = displayed
        self._accept = accept
        self._orders_max = orders_max
        self.orders: dict[str, Working] = {}
        self._queues: dict[Side, dict[int, list[Working]]] = {Side.BUY: {}, Side.SELL: {}}
        """Own orders by price, oldest first."""
        self._taken: dict[Side, dict[int, int]] = {Side.BUY: {}, Side.SELL: {}}
        """Of the displayed bids and asks, what own orders took since the tape last named the level."""

    def __repr__(self) -> str:
        return (
            f"<Matching {len(self.orders)} working, {len(self._displayed.bids)} bids and "
            f"{len(self._displayed.asks)} asks displayed>"
        )

    # --- commands -------------------------------------------------------------------------------------------

    def place(self, order_id: str, side: Side, kind: Kind, price: int, quantity: int) -> list[Event]:
        """Take, then rest, as the kind allows. The first event answers the order."""
        unfit = self._unfit(order_id, price, quantity)
        if unfit:
            return [Event(order_id, OrderState.REJECTED, 0, reason=unfit)]
        met = next(self._through(side, price), None)
        levels = self._opposite(side, price)
        if kind is Kind.POST_ONLY and any(
            self._reachable(level, available, met) for level, available in levels
        ):
            return [Event(order_id, OrderState.REJECTED, 0, reason=reasons.WOULD_TAKE)]
        order = Working(order_id, side, price, quantity, 0)
        events: list[Event] = []
        for level, available in levels:
            amount = min(order.remaining, self._reachable(level, available, met))
            if not amount:
                break
            if not self._fill(order, level, amount, events):
                return events
            self._take(_OPPOSITE[side], level, amount)
            if not order.remaining:
                return events
        if met is not None or kind is Kind.IOC:
            reason = reasons.SELF_MATCH if met is not None else reasons.IOC_REST
            events.append(Event(order_id, OrderState.CANCELLED, order.filled, reason=reason))
            return events
        order.ahead = self._available(side, price)
        self.orders[order_id] = order
        self._queues[side].setdefault(price, []).append(order)
        if not events:
            events.append(Event(order_id, OrderState.WORKING, 0))
        return events

    def cancel(self, order_id: str, reason: str = "") -> list[Event]:
        """One event, or none when no such order works here."""
        order = self.orders.get(order_id)
        if order is None:
            return []
        self._remove(order)
        return [Event(order_id, OrderState.CANCELLED, order.filled, reason=reason)]

    def cancel_all(self, reason: str = "") -> list[Event]:
        """Oldest first."""
        return [event for order_id in list(self.orders) for event in self.cancel(order_id, reason)]

    # --- what the tape did ----------------------------------------------------------------------------------

    def changed(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> list[Event]:
        """A diff named these levels with their new quantities; it has been applied to what is displayed."""
        for side, levels in ((Side.BUY, bids), (Side.SELL, asks)):
            taken, queues = self._taken[side], self._queues[side]
            if not taken and not queues:
                continue
            for price, quantity in levels:
                taken.pop(price, None)
                for order in queues.get(price, ()):
                    order.ahead = min(order.ahead, quantity)
        return self._meet() if self.orders else []

    def restated(self) -> list[Event]:
        """A snapshot replaced all that is displayed: it names every level."""
        for side, shown in ((Side.BUY, self._displayed.bids), (Side.SELL, self._displayed.asks)):
            self._taken[side].clear()
            for price, queue in self._queues[side].items():
                for order in queue:
                    order.ahead = min(order.ahead, shown.get(price, 0))
        return self._meet() if self.orders else []

    def traded(self, price: int, quantity: int, buyer_is_maker: bool) -> list[Event]:
        """A trade of the tape: its taker met the resting side, ours included."""
        side = Side.BUY if buyer_is_maker else Side.SELL
        queues = self._queues[side]
        if not queues:
            return []
        events: list[Event] = []
        for own in sorted(queues, reverse=side is Side.BUY):
            if not quantity or (own < price if side is Side.BUY else own > price):
                break
            passed = 0  # of the displayed queue at this price; own orders stand at different places in it
            for order in list(queues[own]):
                if own == price:
                    step = min(quantity, max(0, order.ahead - passed))
                    passed += step
                    quantity -= step
                amount = _whole(own, min(quantity, order.remaining))
                if amount and self._fill(order, own, amount, events):
                    quantity -= amount
            for order in queues.get(own, ()):
                # Through a better price the whole queue is gone; at the trade's own price what it passed.
                order.ahead = max(0, order.ahead - passed) if own == price else 0
        return events

    # --- within ---------------------------------------------------------------------------------------------

    def _unfit(self, order_id: str, price: int, quantity: int) -> str:
        if price <= 0 or quantity <= 0:
            return reasons.NOT_POSITIVE
        value = accounts.notional(price, quantity)
        if value is None:
            return reasons.NOT_WHOLE
        if not (accounts.fits(price) and accounts.fits(quantity) and accounts.fits(value)):
            return reasons.OVERFLOW
        if order_id in self.orders:
            return reasons.DUPLICATE
        return reasons.TOO_MANY_ORDERS if len(self.orders) >= self._orders_max else ""

    def _available(self, side: Side, price: int) -> int:
        shown = self._displayed.bids if side is Side.BUY else self._displayed.asks
        return max(0, shown.get(price, 0) - self._taken[side].get(price, 0))

    def _opposite(self, side: Side, price: int) -> list[tuple[int, int]]:
        """Opposite levels at or through `price` with something left, best first."""
        across = _OPPOSITE[side]
        bid, _, ask, _ = self._displayed.best()
        if (not ask or ask > price) if side is Side.BUY else (not bid or bid < price):
            return []  # nearly always: the scan below is for the few that cross
        shown = self._displayed.bids if across is Side.BUY else self._displayed.asks
        prices = [level for level in shown if (level <= price if side is Side.BUY else level >= price)]
        prices.sort(reverse=across is Side.BUY)
        return [(level, available) for level in prices if (available := self._available(across, level))]

    def _through(self, side: Side, price: int) -> Iterator[Working]:
        """Own opposite orders at or through `price`, in the order in which they would be met."""
        queues = self._queues[_OPPOSITE[side]]
        for own in sorted(queues, reverse=side is Side.SELL):
            if own > price if side is Side.BUY else own < price:
                return
            yield from queues[own]

    def _reachable(self, level: int, available: int, met: Working | None) -> int:
        """What of a level stands before the own order that would be met."""
        if met is None:
            return available
        if level == met.price:
            return min(available, met.ahead)
        better = level < met.price if met.side is Side.SELL else level > met.price
        return available if better else 0

    def _take(self, side: Side, level: int, amount: int) -> None:
        taken = self._taken[side]
        taken[level] = taken.get(level, 0) + amount
        for order in self._queues[side].get(level, ()):
            order.ahead = max(0, order.ahead - amount)

    def _meet(self) -> list[Event]:
        """Fill own orders that the opposite side of the tape has reached, best price first, then oldest."""
        events: list[Event] = []
        for side in (Side.BUY, Side.SELL):
            queues = self._queues[side]
            if not queues:
                continue
            best = max(queues) if side is Side.BUY else min(queues)
            for level, available in self._opposite(side, best):
                left = available
                for own in sorted(queues, reverse=side is Side.BUY):
                    if own < level if side is Side.BUY else own > level:
                        break
                    for order in list(queues[own]):
                        amount = _whole(own, min(left, order.remaining))
                        if amount and self._fill(order, own, amount, events):
                            left -= amount
                if left < available:
                    self._take(_OPPOSITE[side], level, available - left)
        return events

    def _fill(self, order: Working, price: int, amount: int, events: list[Event]) -> bool:
        """Book one fill. False when it was refused: the order has then ended, REJECTED if nothing had become
        of it, else CANCELLED.
        """
        refused = self._accept(order.side, price, amount)
        working = order.order_id in self.orders
        if refused:
            state = OrderState.CANCELLED if working or order.filled else OrderState.REJECTED
            events.append(Event(order.order_id, state, order.filled, reason=refused))
            self._remove(order)
            return False
        order.filled += amount
        state = OrderState.PARTIALLY_FILLED if order.remaining else OrderState.FILLED
        events.append(Event(order.order_id, state, order.filled, price, amount))
        if not order.remaining:
            self._remove(order)
        return True

    def _remove(self, order: Working) -> None:
        if self.orders.pop(order.order_id, None) is None:
            return  # an incoming order that never rested
        queue = self._queues[order.side][order.price]
        queue.remove(order)
        if not queue:
            del self._queues[order.side][order.price]


def _whole(price: int, quantity: int) -> int:
    """As much of it as can be booked exactly: a resting order, which is whole itself, is filled by that and
    goes on resting. What the tape trades need not be a multiple of what our cash can say.
    """
    if price * quantity % accounts.UNIT:
        quantity -= quantity % (accounts.UNIT // math.gcd(price, accounts.UNIT))
    return quantity


_OPPOSITE = {Side.BUY: Side.SELL, Side.SELL: Side.BUY}
