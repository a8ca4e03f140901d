"""One order and its state machine: the table of legal moves, and what a report of the venue does to an order.

Pure. A move that is not in `MOVES` raises IllegalMove: an order's state is evidence for auditors, so nothing
is guessed. A report that tells nothing new (sent again after a fail-over, or overtaken) is not a move, and
is said not to be one. omsd owns the orders and journals them; the venue's side of the same life is
engine/matching.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.errors import Permanent
from hftd.wire import orders
from hftd.wire.orders import OrderState

TERMINAL = frozenset({OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED, OrderState.REFUSED})

MOVES: dict[OrderState, frozenset[OrderState]] = {
    # CANCELLED straight from PENDING_NEW: an IOC that found nothing, or a take-over that found no trace of it
    # at the venue.
    OrderState.PENDING_NEW: frozenset(
        {
            OrderState.WORKING,
            OrderState.PARTIALLY_FILLED,
            OrderState.FILLED,
            OrderState.PENDING_CANCEL,
            OrderState.CANCELLED,
            OrderState.REJECTED,
            OrderState.REFUSED,
        }
    ),
    OrderState.WORKING: frozenset(
        {OrderState.PARTIALLY_FILLED, OrderState.FILLED, OrderState.PENDING_CANCEL, OrderState.CANCELLED}
    ),
    OrderState.PARTIALLY_FILLED: frozenset(
        {OrderState.PARTIALLY_FILLED, OrderState.FILLED, OrderState.PENDING_CANCEL, OrderState.CANCELLED}
    ),
    # Back to WORKING or PARTIALLY_FILLED only when the cancel itself is refused; to UNKNOWN when it is, and
    # the venue has said nothing of the order yet.
    # REJECTED and REFUSED: the cancel had overtaken the order's own answer.
    OrderState.PENDING_CANCEL: frozenset(
        {
            OrderState.PENDING_CANCEL,
            OrderState.WORKING,
            OrderState.PARTIALLY_FILLED,
            OrderState.FILLED,
            OrderState.CANCELLED,
            OrderState.REJECTED,
            OrderState.REFUSED,
            OrderState.UNKNOWN,
        }
    ),
    OrderState.UNKNOWN: frozenset(
        {
            OrderState.WORKING,
            OrderState.PARTIALLY_FILLED,
            OrderState.FILLED,
            OrderState.PENDING_CANCEL,
            OrderState.CANCELLED,
            OrderState.REJECTED,
            OrderState.REFUSED,
        }
    ),
    OrderState.FILLED: frozenset(),
    OrderState.CANCELLED: frozenset(),
    OrderState.REJECTED: frozenset(),
    OrderState.REFUSED: frozenset(),
}


OURS_TO_SAY = frozenset({OrderState.PENDING_NEW, OrderState.PENDING_CANCEL, OrderState.UNKNOWN})
"""States that no venue reports."""


class IllegalMove(Permanent):
    """The order cannot go there; the caller has it wrong, and the order is as it was."""


@dataclass(slots=True)
class Order:
    """What we know of one order. Prices and quantities in units of 1e-8; `filled` never falls and never
    passes `quantity`.
    """

    order_id: str
    client_order_id: str
    strategy: str
    market: str
    symbol: str
    side: orders.Side
    kind: orders.Kind
    price: int
    quantity: int
    epoch: int = 0
    """Of the omsd that made it."""
    state: OrderState = OrderState.PENDING_NEW
    filled: int = 0
    created_ns: int = 0
    """UNIX ns at omsd; for an order that only the venue knew, of its first report."""
    updated_ns: int = 0
    """UNIX ns of the last message that changed it, by its sender's clock."""
    reason: str = ""
    """A code of reasons.py once it is rejected, refused, or cancelled unasked."""
    answered: bool = False
    """The venue has said something of it."""

    @classmethod
    def of(cls, place: orders.Place, order_id: str, epoch: int) -> Order:
        # In the order of the fields above: names cost a third of a microsecond an order.
        return cls(
            order_id,
            place.client_order_id,
            place.strategy,
            place.market,
            place.symbol,
            place.side,
            place.kind,
            place.price,
            place.quantity,
            epoch,
            created_ns=place.sent_ns,
            updated_ns=place.sent_ns,
        )

    @property
    def open(self) -> bool:
        return self.state not in TERMINAL

    @property
    def remaining(self) -> int:
        return self.quantity - self.filled

    def move(self, to: OrderState, reason: str = "") -> None:
        """Take one legal move. Raises IllegalMove."""
        if to not in MOVES[self.state]:
            raise IllegalMove(
                f"order {self.order_id or self.client_order_id}: {self.state.name} to {to.name} is not a "
                "legal move"
            )
        if to is OrderState.FILLED and self.filled != self.quantity:
            raise IllegalMove(f"order {self.order_id}: FILLED with {self.filled} of {self.quantity} filled")
        self.state = to
        if reason:
            self.reason = reason

    def cancel_wanted(self) -> bool:
        """Ask for a cancel: True when one has to be sent, False when nothing is left to cancel. Asking twice
        sends twice: the first may be lost.
        """
        if not self.open:
            return False
        self.move(OrderState.PENDING_CANCEL)
        return True

    def cancel_refused(self) -> None:
        """The cancel was refused, or never sent: back to where the venue's word has put the order, UNKNOWN
        when there is none. Raises IllegalMove when no cancel was pending.
        """
        if self.state is not OrderState.PENDING_CANCEL:
            raise IllegalMove(
                f"order {self.order_id}: a cancel was refused in {self.state.name}, which has none pending"
            )
        if self.filled:
            self.move(OrderState.PARTIALLY_FILLED)
        else:
            self.move(OrderState.WORKING if self.answered else OrderState.UNKNOWN)

    def reported(self, state: OrderState, filled: int, reason: str = "") -> bool:
        """Apply the venue's word: its state and its total of fills. True when that was news.

        Not news: fewer fills than known, or a state that a later one has overtaken; both happen when reports
        are sent again. While a cancel is pending the order stays PENDING_CANCEL until it ends.

        Raises:
            IllegalMove: more filled than ordered, a fill after the end, or a state that no venue reports.
        """
        if filled > self.quantity or filled < 0:
            raise IllegalMove(f"order {self.order_id}: {filled} filled of {self.quantity}")
        if state in OURS_TO_SAY:
            raise IllegalMove(f"order {self.order_id}: reported {state.name}, which is ours to say")
        if not self.open:
            if filled > self.filled or (state in TERMINAL and state is not self.state):
                raise IllegalMove(
                    f"order {self.order_id}: {state.name} with {filled} filled after {self.state.name} with "
                    f"{self.filled}"
                )
            return False
        if filled < self.filled and state not in TERMINAL:
            return False
        if filled < self.filled:
            raise IllegalMove(
                f"order {self.order_id}: {state.name} with {filled} filled, {self.filled} known"
            )
        news = filled > self.filled
        before = self.filled, self.answered
        self.filled, self.answered = filled, True
        to = (
            OrderState.PENDING_CANCEL
            if self.state is OrderState.PENDING_CANCEL and state not in TERMINAL
            else state
        )
        if to is self.state or (to is OrderState.WORKING and self.state is OrderState.PARTIALLY_FILLED):
            return news
        try:
            self.move(to, reason)
        except IllegalMove:
            self.filled, self.answered = before
            raise
        return True
