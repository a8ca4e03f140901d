"""The simulated venue itself: a depth book and a matching engine for each instrument of the tape, accounts,
and what it has to say about its orders.

No socket and no file: lines of the tape and commands go in, and what became true comes out as records in
`told`, in that order. The book is rebuilt by the same rules as bookd's (venues/binance.py,
engine/market/book.py), matched by engine/matching.py. Who may give commands, what is journaled and how it is
sent: daemons/simd/session.py. When a line is due: daemons/simd/tape.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hftd.engine import accounts, matching, reasons
from hftd.engine.market import book
from hftd.venues import base, binance
from hftd.wire import codec, market, orders, requests
from hftd.wire.orders import OrderState

SNAPSHOT_LEVELS_MAX = 10_000
"""Per side. Real venues give 1,000 and leave the levels beyond them unknown. With the whole book (about 4,000
levels on the recorded day) a reader that resynchronises has every level, and the message is still below the
wire's 1 MiB."""
ENDED_KEPT = 10_000
"""Final reports, for cancels that come late: minutes of a busy strategy."""
_TRADE = int(market.Kind.TRADE)


class Told(NamedTuple):
    record: orders.Place | orders.Report
    keep: bool
    """Journal it before it is sent."""
    tell: bool


@dataclass(slots=True)
class Instrument:
    reference: requests.Instrument
    normalise: base.Normaliser
    book: book.Book
    matching: matching.Matching
    receive_ns: int = 0
    """Of the last line applied."""

    @property
    def tradable(self) -> bool:
        return not self.reference.untradable


class Venue:
    def __init__(
        self,
        instruments: Iterable[requests.Instrument],
        kept: accounts.Accounts,
        last_execution: int,
        source: str,
        wall_ns: Callable[[], int],
    ) -> None:
        self.accounts, self.last_execution = kept, last_execution
        self.told: deque[Told] = deque()
        self.working: dict[str, orders.Place] = {}
        self.closed = False
        """The tape has ended: no more orders are taken."""
        self.book_news: list[tuple[str, str]] = []
        """Books that were lost, and why, or are in step again (""); whoever gives the lines takes it after
        each."""
        self._ended: dict[str, orders.Report] = {}
        self._source, self._wall_ns = source, wall_ns
        self._instruments = {each.id: self._instrument(each) for each in instruments}
        self._by_name = {
            (each.reference.market, each.reference.symbol): each for each in self._instruments.values()
        }

    def __repr__(self) -> str:
        return (
            f"<Venue {len(self._instruments)} instruments, {len(self.working)} orders working, "
            f"{self.last_execution} executions>"
        )

    def _instrument(self, reference: requests.Instrument) -> Instrument:
        shown = book.Book()

        def accept(side: orders.Side, price: int, quantity: int) -> str:
            return self.accounts.book(reference.market, reference.symbol, side, price, quantity)

        # The symbol is checked here, too: marketd drops another instrument's frame, but does not know which
        # file and line it came from.
        return Instrument(
            reference,
            binance.Normaliser(reference.market, reference.id, reference.symbol),
            shown,
            matching.Matching(shown, accept),
        )

    @property
    def instruments(self) -> list[requests.Instrument]:
        return [each.reference for each in self._instruments.values()]

    # --- the tape -------------------------------------------------------------------------------------------

    def line(self, instrument: int, receive_ns: int, raw: bytes) -> str:
        """Apply one line; returns why it could not be applied, or ""."""
        of = self._instruments[instrument]
        message = of.normalise(raw, receive_ns)
        of.receive_ns = receive_ns
        if message is None:
            return ""
        if isinstance(message, base.Undecodable):
            return message.reason
        if message.kind == _TRADE:
            price, quantity = what = message.bids[0]
            new = of.normalise.trades.take(message.trade_or_bar, message.event_ns, what)
            if new and of.matching.orders:
                self._say(of.matching.traded(price, quantity, bool(message.flags & market.BUYER_IS_MAKER)))
            return ""
        outcome = self._apply(of, message)
        if outcome is book.APPLIED:
            if of.matching.orders:
                self._say(of.matching.changed(message.bids, message.asks))
        elif isinstance(outcome, book.Restored):
            self._say(of.matching.restated())
        return ""

    def rebuild(self, instrument: int, receive_ns: int, raw: bytes) -> None:
        """Apply one line that was sent before a crash: only the book needs it, and nothing is reported."""
        if b"@trade" in raw[:64]:
            return  # it does not move the book
        of = self._instruments[instrument]
        message = of.normalise(raw, receive_ns)
        of.receive_ns = receive_ns
        if isinstance(message, market.Message):
            self._apply(of, message)

    def _apply(
        self, of: Instrument, message: market.Message
    ) -> book.Outcome | book.Restored | book.Ignored | None:
        shown = of.book
        before = shown.in_step
        outcome = shown.apply(message)
        if shown.in_step is not before:
            self.book_news.append((of.reference.name, "" if shown.in_step else shown.lost))
        return outcome

    def end(self) -> int:
        """The tape has ended: cancel all working orders and take no more; returns how many were cancelled."""
        self.closed = True
        return self.cancel_all(reasons.TAPE_END)

    # --- questions ------------------------------------------------------------------------------------------

    def snapshot(self, instrument: int) -> tuple[int, bytes] | None:
        """(receive time of the last line, the venue's snapshot); None for an unknown instrument, or one whose
        book is not in step.
        """
        of = self._instruments.get(instrument)
        if of is None or not of.book.in_step:
            return None
        bids, asks = of.book.depth(SNAPSHOT_LEVELS_MAX)
        return of.receive_ns, binance.snapshot(of.book.last, bids, asks)

    def open_orders(self) -> list[orders.OpenOrder]:
        """Oldest first."""
        return [
            orders.OpenOrder(
                order_id=place.order_id,
                client_order_id=place.client_order_id,
                strategy=place.strategy,
                market=place.market,
                symbol=place.symbol,
                side=place.side,
                price=place.price,
                quantity=place.quantity,
                filled=self._matching(place).orders[place.order_id].filled,
            )
            for place in self.working.values()
        ]

    def open_accounts(self) -> list[orders.Account]:
        return [
            orders.Account(name, symbol, account.quantity, account.cash)
            for name, symbol, account in self.accounts
        ]

    def last_words(self, order_id: str) -> orders.Report | None:
        """The final report on an order, while it is kept."""
        return self._ended.get(order_id)

    def knows(self, order_id: str) -> bool:
        return order_id in self.working or order_id in self._ended

    # --- commands -------------------------------------------------------------------------------------------

    def place(self, place: orders.Place) -> None:
        of = self._by_name.get((place.market, place.symbol))
        if of is None or not of.tradable:
            self.reject(place, reasons.UNKNOWN_INSTRUMENT)
        elif self.closed:
            self.reject(place, reasons.TAPE_END)
        elif not of.book.in_step:
            self.reject(place, reasons.NO_PRICE)
        else:
            events = of.matching.place(place.order_id, place.side, place.kind, place.price, place.quantity)
            if events[0].state is not OrderState.REJECTED:
                self.told.append(Told(place, keep=True, tell=False))
            self.working[place.order_id] = place
            self._say(events)

    def reject(self, place: orders.Place, reason: str) -> None:
        self._tell(place, matching.Event(place.order_id, OrderState.REJECTED, 0, reason=reason))

    def cancel(self, order_id: str, reason: str = "") -> bool:
        """False when no such order is working."""
        place = self.working.get(order_id)
        if place is None:
            return False
        self._say(self._matching(place).cancel(order_id, reason))
        return True

    def cancel_all(self, reason: str, only: Callable[[orders.Place], bool] = lambda _: True) -> int:
        chosen = [order_id for order_id, place in self.working.items() if only(place)]
        for order_id in chosen:
            self.cancel(order_id, reason)
        return len(chosen)

    def restarted(self, lost: Iterable[tuple[orders.Place, int]]) -> None:
        """Cancel the orders that were working when the last process ended, and report it to their owner."""
        for place, filled in lost:
            self._tell(
                place,
                matching.Event(place.order_id, OrderState.CANCELLED, filled, reason=reasons.VENUE_RESTART),
            )

    # --- inside ---------------------------------------------------------------------------------------------

    def _matching(self, place: orders.Place) -> matching.Matching:
        return self._by_name[place.market, place.symbol].matching

    def _say(self, events: Iterable[matching.Event]) -> None:
        for event in events:
            self._tell(self.working[event.order_id], event)

    def _tell(self, place: orders.Place, event: matching.Event) -> None:
        if event.quantity:
            self.last_execution += 1
        now_ns = self._wall_ns()
        report = orders.Report(
            *codec.head(self._source, now_ns),
            report_id=0,
            execution_id=self.last_execution if event.quantity else 0,
            order_id=place.order_id,
            client_order_id=place.client_order_id,
            strategy=place.strategy,
            market=place.market,
            symbol=place.symbol,
            side=place.side,
            state=event.state,
            price=place.price,
            quantity=place.quantity,
            filled=event.filled,
            last_price=event.price,
            last_quantity=event.quantity,
            reason=event.reason,
            text=reasons.text(event.reason) if event.reason else "",
            venue_ns=now_ns,
        )
        self.told.append(
            Told(report, keep=event.state not in (OrderState.WORKING, OrderState.REJECTED), tell=True)
        )
        if event.state in (OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED):
            self.working.pop(place.order_id, None)
            self._ended[place.order_id] = report
            if len(self._ended) > ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
