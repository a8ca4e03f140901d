"""Pre-trade risk: may this order leave? Size, position (with all that works), price collar, message rate;
every refusal has a code.

Pure: time comes in as monotonic ns, market data and positions as calls. An order counts in its limits from
the moment it is approved until it is reported ended. Taking risk away always passes: a cancel is counted,
never refused. Codes and their sentences: reasons.py. Who asks: daemons/riskd; whose signature the approval
is: wire/orders.Approval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hftd.engine import fixed, position, reasons
from hftd.engine.orders.approvals import Macs
from hftd.engine.orders.order import TERMINAL
from hftd.wire import codec
from hftd.wire.orders import Place, Report, Side

PPM = 1_000_000
ENDED_MAX = 20_000
"""Ids of ended orders that are remembered: a report that comes late must not bring one back to life."""


@dataclass(frozen=True, slots=True)
class Limits:
    revision: int
    """Of the configuration that they come from; stands in every approval."""
    position_max: int
    """Units of 1e-8 of the instrument."""
    order_size_max: int
    price_collar_ppm: int
    price_age_max_ns: int
    messages_per_s: int
    message_burst: int
    open_orders_max: int


@dataclass(frozen=True, slots=True)
class Refused:
    code: str
    text: str
    """The sentence of the code, with what was found and what the limit is."""


def refuse(code: str, found: str = "") -> Refused:
    return Refused(code, f"{reasons.text(code)}: {found}" if found else reasons.text(code))


@dataclass(slots=True)
class OpenOrder:
    client_order_id: str
    strategy: str
    market: str
    symbol: str
    side: Side
    price: int
    quantity: int
    route: int
    """The term of the order manager that has it (engine/orders/term.py); higher is newer."""
    filled: int = 0
    heard: bool = False
    """Any report has come: the order manager took it."""

    @classmethod
    def of(cls, order: Place | Report, route: int) -> OpenOrder:
        # In the order of the fields above: names cost half a microsecond an order.
        return cls(
            order.client_order_id,
            order.strategy,
            order.market,
            order.symbol,
            order.side,
            order.price,
            order.quantity,
            route,
        )

    @property
    def remaining(self) -> int:
        return self.quantity - self.filled


class Bucket:
    """A token bucket in integers: `level` is in messages x 1e9, so that a nanosecond refills exactly `per_s`
    of it.
    """

    __slots__ = ("_at_ns", "_full", "_per_s", "level")

    def __init__(self, per_s: int, burst: int, now_ns: int) -> None:
        self._per_s, self._full = per_s, burst * 1_000_000_000
        self.level, self._at_ns = self._full, now_ns

    def configure(self, per_s: int, burst: int, now_ns: int) -> None:
        """Another rate and size from now on. What is in it stays, as far as it fits: a larger one fills by
        its rate.
        """
        self._refill(now_ns)
        self._per_s, self._full = per_s, burst * 1_000_000_000
        self.level = max(-self._full, min(self._full, self.level))

    def _refill(self, now_ns: int) -> None:
        self.level = min(self._full, self.level + max(0, now_ns - self._at_ns) * self._per_s)
        self._at_ns = max(self._at_ns, now_ns)

    def take(self, now_ns: int, *, always: bool = False) -> bool:
        """False when it is empty; `always` takes all the same, down to one whole bucket of debt."""
        self._refill(now_ns)
        if self.level < 1_000_000_000 and not always:
            return False
        self.level = max(self.level - 1_000_000_000, -self._full)
        return True


@dataclass(slots=True)
class _Touch:
    bid: int
    ask: int
    update: int
    """Of the book that it was read from."""
    at_ns: int
    """When the book last moved."""


class _Exposure:
    __slots__ = ("inventory", "working")

    def __init__(self) -> None:
        self.inventory = position.Inventory()
        self.working = {Side.BUY: 0, Side.SELL: 0}


class Risk:
    def __init__(self, limits: Limits, macs: Macs) -> None:
        self.limits, self._macs = limits, macs
        self._touches: dict[tuple[str, str], _Touch] = {}
        self._exposures: dict[tuple[str, str], _Exposure] = {}
        self.orders: dict[str, OpenOrder] = {}
        """Those that have not ended, by client order id; changed only here."""
        self._ended: dict[str, None] = {}
        self._buckets: dict[str, Bucket] = {}

    def configure(self, limits: Limits, now_ns: int) -> None:
        """Every order that is judged from now on is judged by these. Orders that were approved before stay,
        and count in them: where they are too much already, only what takes risk away passes.
        """
        self.limits = limits
        for bucket in self._buckets.values():
            bucket.configure(limits.messages_per_s, limits.message_burst, now_ns)

    # --- what it knows --------------------------------------------------------------------------------------

    def on_top(self, market: str, symbol: str, bid: int, ask: int, update: int, now_ns: int) -> None:
        """Best bid and offer of the book at this update id; either 0 (a side is empty, or the book is out of
        step): no price is known. A top that is only said again is no younger for it: its age counts from the
        last update of the book.
        """
        key = (market, symbol)
        if bid <= 0 or ask <= 0:
            self._touches.pop(key, None)
            return
        known = self._touches.get(key)
        if known is None or (known.bid, known.ask, known.update) != (bid, ask, update):
            self._touches[key] = _Touch(bid, ask, update, now_ns)

    def on_position(
        self, market: str, symbol: str, quantity: int, last_execution: int, *, doubtful: bool = False
    ) -> None:
        self._exposure((market, symbol)).inventory.told(quantity, last_execution, doubtful=doubtful)

    def on_report(self, report: Report, route: int) -> None:
        """Take what no longer works out of the limits, and what was filled into the position."""
        key = (report.market, report.symbol)
        if report.execution_id:
            self._exposure(key).inventory.filled(report.execution_id, report.side, report.last_quantity)
        order = self.orders.get(report.client_order_id)
        if report.state in TERMINAL:
            if order is not None:
                self._drop(order)
            return
        if report.client_order_id in self._ended:
            return
        if order is None:
            # From before this process: another process approved it, and its exposure is ours.
            order = OpenOrder.of(report, route)
            self._add(order)
        order.heard = True
        if report.filled > order.filled:
            self._exposure(key).working[order.side] -= report.filled - order.filled
            order.filled = report.filled

    # --- what it decides ------------------------------------------------------------------------------------

    def approve(self, place: Place, route: int, now_ns: int) -> Refused | None:
        """None: approved, and counted in all limits from now on."""
        if not self._bucket(place.strategy, now_ns).take(now_ns):
            return refuse(reasons.MESSAGE_RATE, f"more than {self.limits.messages_per_s} a second")
        refused = self.judge(place, now_ns)
        if refused is None:
            self._add(OpenOrder.of(place, route))
        return refused

    def signed(self, head: codec.Head, place: Place, approval: int) -> Place:
        """The order as it leaves us: our envelope and our approval.

        What omsd and execd say of an order later (ids of ours, the gateway's token) no strategy may say.
        """
        token = head[4]
        return codec.replace(
            codec.under(place, head),
            approval=(
                None if token is None else self._macs.approval(place, approval, token, self.limits.revision)
            ),
            order_id="",
            gateway=None,
            replaced_id="",
        )

    def on_cancel(self, strategy: str, now_ns: int) -> None:
        self._bucket(strategy, now_ns).take(now_ns, always=True)

    def withdraw(self, client_order_id: str) -> OpenOrder | None:
        """Drop and return an approved order that the order manager did not take; None when it is not open, or
        was taken.
        """
        order = self.orders.get(client_order_id)
        if order is None or order.heard:
            return None
        self._drop(order)
        return order

    def forget(self, client_order_id: str) -> None:
        """The order manager says that it has ended; its report was lost."""
        order = self.orders.get(client_order_id)
        if order is not None:
            self._drop(order)

    def abandon(self, route: int) -> list[OpenOrder]:
        """Drop and return the orders of order managers older than `route`: the new one has cancelled them all
        at the venue.
        """
        gone = [order for order in self.orders.values() if order.route < route]
        for order in gone:
            self._drop(order)
        return gone

    def __iter__(self) -> Iterator[OpenOrder]:
        """Orders that have not ended, in the order of their approval."""
        return iter(self.orders.values())

    def exposures(self) -> list[tuple[str, str, int, int, int]]:
        """(market, symbol, position, working buys, working sells)."""
        return [
            (market, symbol, each.inventory.quantity, each.working[Side.BUY], each.working[Side.SELL])
            for (market, symbol), each in sorted(self._exposures.items())
        ]

    def judge(self, place: Place, now_ns: int) -> Refused | None:
        """What the limits of one order say; nothing is counted."""
        limits = self.limits
        if place.price <= 0 or place.quantity <= 0:
            return refuse(reasons.NOT_POSITIVE)
        if place.client_order_id in self.orders or place.client_order_id in self._ended:
            return refuse(reasons.DUPLICATE, place.client_order_id)
        if len(self.orders) >= limits.open_orders_max:
            return refuse(
                reasons.TOO_MANY_ORDERS,
                f"{len(self.orders)} have not ended; the limit is {limits.open_orders_max}",
            )
        if place.quantity > limits.order_size_max:
            return refuse(
                reasons.ORDER_SIZE,
                f"{fixed.text(place.quantity)}; the limit is {fixed.text(limits.order_size_max)}",
            )
        return self._collar(place, now_ns) or self._position(place)

    # --- below: one limit each ------------------------------------------------------------------------------

    def _position(self, place: Place) -> Refused | None:
        """The worst case: everything that works on this side fills, nothing on the other."""
        exposure = self._exposures.get((place.market, place.symbol))
        if exposure is None or not exposure.inventory.known:
            return refuse(reasons.NO_POSITION)
        if exposure.inventory.doubtful:
            return refuse(reasons.NO_POSITION, "positiond could not book an execution of this instrument")
        held = exposure.inventory.quantity if place.side is Side.BUY else -exposure.inventory.quantity
        after = held + exposure.working[place.side] + place.quantity
        if after > self.limits.position_max:
            return refuse(
                reasons.POSITION_LIMIT,
                f"would reach {fixed.text(after)} if all orders filled; the limit is "
                f"{fixed.text(self.limits.position_max)}",
            )
        return None

    def _collar(self, place: Place, now_ns: int) -> Refused | None:
        touch = self._touches.get((place.market, place.symbol))
        if touch is None:
            return refuse(reasons.NO_PRICE)
        if now_ns - touch.at_ns > self.limits.price_age_max_ns:
            return refuse(reasons.STALE_PRICE, f"{(now_ns - touch.at_ns) // 1_000_000} ms old")
        twice_mid = touch.bid + touch.ask
        away = abs(2 * place.price - twice_mid)
        if away * PPM > self.limits.price_collar_ppm * twice_mid:
            return refuse(
                reasons.PRICE_COLLAR,
                f"{away * PPM // twice_mid} ppm away; the limit is {self.limits.price_collar_ppm}",
            )
        return None

    def _exposure(self, key: tuple[str, str]) -> _Exposure:
        found = self._exposures.get(key)
        if found is None:
            found = self._exposures[key] = _Exposure()
        return found

    def _bucket(self, strategy: str, now_ns: int) -> Bucket:
        found = self._buckets.get(strategy)
        if found is None:
            found = self._buckets[strategy] = Bucket(
                self.limits.messages_per_s, self.limits.message_burst, now_ns
            )
        return found

    def _add(self, order: OpenOrder) -> None:
        self.orders[order.client_order_id] = order
        self._exposure((order.market, order.symbol)).working[order.side] += order.remaining

    def _drop(self, order: OpenOrder) -> None:
        del self.orders[order.client_order_id]
        self._ended[order.client_order_id] = None
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._exposure((order.market, order.symbol)).working[order.side] -= order.remaining
