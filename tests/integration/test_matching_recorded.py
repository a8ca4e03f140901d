"""A minute of the recorded tape through the pure engine: quotes at the touch are filled on both sides, and
the accounts add up.
"""

from __future__ import annotations

from pathlib import Path

from hftd.engine import accounts, matching
from hftd.engine.market import book
from hftd.venues import binance, replay
from hftd.wire import market
from hftd.wire.orders import Kind, OrderState, Side

SECONDS = 60
QUANTITY = 100_000  # 0.001: with prices in whole 0.01 every notional is whole


class Quoter:
    """One instrument: a post-only order at each side's best, moved when the best moves and renewed when it
    ends.
    """

    def __init__(self, symbol: str) -> None:
        self.normalise = binance.Normaliser("", 0, symbol)
        self.book = book.Book()
        self.accounts = accounts.Accounts()
        self.matching = matching.Matching(self.book, self._booked)
        self.fills = {Side.BUY: 0, Side.SELL: 0}
        self.cash = self.placed = self.rejected = 0
        self.quotes: dict[Side, tuple[str, int]] = {}

    def _booked(self, side: Side, price: int, quantity: int) -> str:
        return self.accounts.book("m", "s", side, price, quantity)

    def line(self, raw: bytes, receive_ns: int) -> None:
        message = self.normalise(raw, receive_ns)
        assert isinstance(message, market.Message)
        events: list[matching.Event] = []
        if message.kind == market.Kind.TRADE:
            events = self.matching.traded(*message.bids[0], bool(message.flags & market.BUYER_IS_MAKER))
        elif message.kind == market.Kind.DIFF and self.book.apply(message) is book.APPLIED:
            events = self.matching.changed(message.bids, message.asks)
        elif message.kind == market.Kind.SNAPSHOT and isinstance(self.book.apply(message), book.Restored):
            events = self.matching.restated()
        self.heard(events)
        if message.kind == market.Kind.DIFF and self.book.in_step:
            bid, _, ask, _ = self.book.best()
            assert bid < ask
            self.quote(Side.BUY, bid)
            self.quote(Side.SELL, ask)

    def quote(self, side: Side, price: int) -> None:
        order_id, at = self.quotes.get(side, ("", 0))
        if at == price:
            return
        if order_id:
            self.heard(self.matching.cancel(order_id))
        self.placed += 1
        self.quotes[side] = (f"{self.placed}", price)
        self.heard(self.matching.place(f"{self.placed}", side, Kind.POST_ONLY, price, QUANTITY))

    def heard(self, events: list[matching.Event]) -> None:
        for event in events:
            side = next(side for side, (order_id, _) in self.quotes.items() if order_id == event.order_id)
            if event.quantity:
                self.fills[side] += 1
                self.cash += (-1 if side is Side.BUY else 1) * event.price * event.quantity // accounts.UNIT
            self.rejected += event.state is OrderState.REJECTED
            if event.state in (OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED):
                del self.quotes[side]


def test_quotes_at_the_touch_fill_on_both_sides_in_a_minute_of_tape(recorded: Path) -> None:
    tape = replay.Tape([recorded / "spot", recorded / "usdm"])
    quoters = [Quoter(reference.symbol) for reference in tape.instruments]
    first_ns = 0
    for line in tape:
        assert isinstance(line, replay.Line)
        first_ns = first_ns or line.receive_ns
        if line.receive_ns > first_ns + SECONDS * 1_000_000_000:
            break
        quoters[line.instrument].line(line.raw, line.receive_ns)
    for reference, quoter in zip(tape.instruments, quoters, strict=True):
        assert min(quoter.fills.values()) >= 3 and sum(quoter.fills.values()) >= 12, reference.name
        assert quoter.rejected == 0, "quoted from the venue's own book, a post-only order never takes"
        assert quoter.accounts.of("m", "s").cash == quoter.cash
