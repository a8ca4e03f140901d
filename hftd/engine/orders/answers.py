"""What we say ourselves of an order that goes no further: the report of its end, the refusal of a message.

One constructor each, for riskd, omsd, execd and the venue's desk, so that every field has its name and what
is not said is zero in one place. Pure. Codes and their sentences: reasons.py. Reports of what the venue has
done are made where the venue is (venues/sim.py).
"""

from __future__ import annotations

from typing import Protocol

from hftd.engine import reasons
from hftd.wire import codec, orders


class AnyOrder(Protocol):
    """A Place, engine/order.Order or engine/risk.OpenOrder."""

    @property
    def client_order_id(self) -> str: ...
    @property
    def strategy(self) -> str: ...
    @property
    def market(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> orders.Side: ...
    @property
    def price(self) -> int: ...
    @property
    def quantity(self) -> int: ...


class Named(Protocol):
    """Any of them, or a message about one."""

    @property
    def order_id(self) -> str: ...
    @property
    def client_order_id(self) -> str: ...
    @property
    def strategy(self) -> str: ...


def ended(
    head: codec.Head,
    order: AnyOrder,
    state: orders.OrderState,
    reason: str,
    *,
    text: str | None = None,
    order_id: str = "",
    filled: int = 0,
) -> orders.Report:
    """An end that the venue did not report: refused on the way, or no trace of the order there.

    `text` is the sentence of `reason` unless more is known.
    """
    version, seq, sent_ns, source, token = head
    return orders.Report(
        version=version,
        seq=seq,
        sent_ns=sent_ns,
        source=source,
        token=token,
        report_id=0,
        execution_id=0,
        order_id=order_id,
        client_order_id=order.client_order_id,
        strategy=order.strategy,
        market=order.market,
        symbol=order.symbol,
        side=order.side,
        state=state,
        price=order.price,
        quantity=order.quantity,
        filled=filled,
        last_price=0,
        last_quantity=0,
        reason=reason,
        text=reasons.text(reason) if text is None else text,
        venue_ns=0,
    )


def refusal(head: codec.Head, of: Named | None, reason: str, text: str | None = None) -> orders.Refusal:
    """A message was not taken; `of` None: it was not about one order."""
    text = reasons.text(reason) if text is None else text
    if of is None:
        return orders.Refusal(*head, reason, text)
    return orders.Refusal(
        *head,
        reason,
        text,
        order_id=of.order_id,
        client_order_id=of.client_order_id,
        strategy=of.strategy,
    )
