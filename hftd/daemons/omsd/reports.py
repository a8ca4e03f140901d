"""What execd says of our orders: judged, journaled, applied, then told to riskd. In that order, so that what
was told is never forgotten.

positiond and auditd read it from the orders' books and the journal (receivers.py).
"""

from __future__ import annotations

import time

from hftd import runtime
from hftd.daemons.omsd.ledger import Ledger
from hftd.daemons.omsd.receivers import RiskLink
from hftd.daemons.omsd.signature import Signature
from hftd.engine import reasons
from hftd.engine.orders import answers, oms, order, report_check
from hftd.wire import orders
from hftd.wire.orders import OrderState


class Reports:
    def __init__(
        self, context: runtime.Context, ledger: Ledger, risk: RiskLink, signature: Signature
    ) -> None:
        self._context, self._ledger, self._risk, self._signature = context, ledger, risk, signature
        self._order_to_ack = context.histogram("order_to_ack")
        self._sent_ns: dict[str, int] = {}
        """Orders without a first report: when they left."""

    def sent(self, order_id: str) -> None:
        """An order has left; the time to its first report is measured."""
        self._sent_ns[order_id] = time.monotonic_ns()

    def forget_sent(self) -> None:
        self._sent_ns.clear()

    def believed(self, report: orders.Report) -> bool:
        """False when it cannot be true: counted, named, and nothing of it is kept."""
        fault = report_check.fault(report) or self._ledger.oms.contradiction(report)
        if fault:
            self._context.undecodable(fault)
        return not fault

    def take(self, report: orders.Report) -> bool:
        """False when it could not be journaled: it is not acknowledged, and comes again."""
        if self._ledger.full:
            return False
        after = self._ledger.oms.judge(report)
        if after is None:
            return True  # sent again, and nothing new
        own = oms.with_head(report, self._signature.head())
        if not self._ledger.write(own):
            return False
        self._ledger.oms.commit(after, own)
        left_ns = self._sent_ns.pop(report.order_id, None)
        if left_ns is not None:
            self._order_to_ack.record(time.monotonic_ns() - left_ns)
        if own.execution_id:
            self._context.count("fills")
        elif own.state is OrderState.REJECTED:
            self._context.count("rejects")
        self._risk.tell(own)
        return True

    def end(self, known: order.Order, state: OrderState, reason: str) -> bool:
        """An end that the venue did not report; False when it could not be journaled."""
        return self.take(oms.ended(self._signature.head(), known, state, reason))

    def end_all(self, reason: str) -> bool:
        """What we still hold open the venue does not have; False when not all of it could be journaled."""
        return all(
            self.end(known, OrderState.CANCELLED, reason) for known in list(self._ledger.oms.orders.values())
        )

    def refused(self, refusal: orders.Refusal) -> None:
        """execd or the venue did not take a message of ours: an order's own, or the cancel of one."""
        self._context.count("refused_by_execution")
        known = self._ledger.oms.orders.get(refusal.order_id)
        if known is None or refusal.reason == reasons.DUPLICATE:
            return
        if known.state is OrderState.PENDING_NEW:
            self.end(known, OrderState.REFUSED, refusal.reason)
        elif refusal.reason == reasons.UNKNOWN_ORDER:
            self.end(known, OrderState.CANCELLED, refusal.reason)
        else:
            self._ledger.oms.cancel_refused(known.order_id)
            self._risk.tell(answers.refusal(self._signature.head(), known, refusal.reason, refusal.text))
