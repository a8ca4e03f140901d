"""What riskd wants of us: orders and cancels, judged, journaled, then sent to execd. Nothing leaves that is
not in the journal; the books of an order follow once it has left.

What an order may do is engine/orders/oms.py's to say; whether we may take it at all, here: only while we lead
and are active, while the site's kill switch is not set, while there is room in the journal, and while execd's
circuit breaker lets orders pass. Taking risk away passes while execd can be reached, whatever the lease page,
the switch, the disk and the breaker say. What comes back: reports.py.
"""

from __future__ import annotations

from controlplane.model import Phase
from hftd import runtime
from hftd.daemons.omsd.execution import Execution
from hftd.daemons.omsd.kill_switch import KillSwitch
from hftd.daemons.omsd.ledger import Ledger
from hftd.daemons.omsd.receivers import RiskLink
from hftd.daemons.omsd.reports import Reports
from hftd.daemons.omsd.signature import Signature
from hftd.engine import reasons
from hftd.engine.orders import answers, oms, order, takeover
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState


class Desk:
    def __init__(
        self,
        context: runtime.Context,
        ledger: Ledger,
        execution: Execution,
        risk: RiskLink,
        reports: Reports,
        lead: takeover.Takeover,
        signature: Signature,
        kill_switch: KillSwitch,
    ) -> None:
        """`lead` says how far our lead is; only read here."""
        self._context, self._ledger, self._execution = context, ledger, execution
        self._risk, self._reports, self._lead, self._signature = risk, reports, lead, signature
        self._kill_switch = kill_switch

    def on_message(self, frame: bytes) -> None:
        """What riskd sends. A message that it has no business to send is counted and dropped."""
        message = orders.decode_coming_back(frame)
        match message:
            case orders.Place():
                self._place(message)
                self._context.tick_passed(message.origin_ns)
            case orders.Cancel():
                self._cancel(message)
            case orders.Rehearsal():
                self._rehearse(message.place)
            case orders.Attached():
                self._risk.answered(message)
            case orders.Refusal(reason=reasons.NOT_ATTACHED) if self._lead.phase is Phase.ACTIVE:
                self._tell_again(message.order_id)
            case orders.Refusal():
                self._context.count("refused_by_risk")
            case _:
                self._context.count("unexpected")

    # --- orders ---------------------------------------------------------------------------------------------

    def _closed(self) -> str:
        """Why no order is taken now, whatever it is; "" when we are open."""
        if self._lead.phase is not Phase.ACTIVE or not self._context.lease.leads():
            return reasons.NOT_ACTIVE
        if self._kill_switch.on:
            return reasons.KILL_SWITCH
        return "" if self._ledger.takes_orders else reasons.JOURNAL_FULL

    def _place(self, place: orders.Place) -> None:
        reason = self._closed() or self._ledger.oms.objection(place)
        permit = None if reason else self._execution.permit()
        if permit is None:
            self._refuse(place, reason or reasons.BREAKER_OPEN)
            return
        replaced = self._to_replace(place) if place.replaces else None
        sequence = self._ledger.journal.last_seq + 1
        placed = oms.numbered(self._signature.head(), self._context.service, place, sequence, replaced)
        payload = codec.encode(placed)
        if not self._ledger.write(placed, payload):
            self._execution.awaited.breaker.release(permit)
            self._refuse(place, reasons.JOURNAL_FULL)
            return
        if not self._context.lease.leads():
            self._execution.awaited.breaker.release(permit)
            self._too_late(placed)
            return
        # What is journaled may leave; the books of it follow.
        sent = self._execution.send_order(placed.order_id, payload, permit)
        self._ledger.oms.apply(placed)
        self._context.count("orders")
        self._reports.sent(placed.order_id)
        if replaced:
            self._context.count("cancels")
        if not sent:
            if replaced:
                self._ledger.oms.cancel_refused(replaced.order_id)
                self._refuse_cancel(orders.cancel_of(placed), reasons.NOT_CONNECTED)
            self._reports.end(
                self._ledger.oms.orders[placed.order_id], OrderState.REFUSED, reasons.NOT_CONNECTED
            )

    def _too_late(self, placed: orders.Place) -> None:
        """The lease ran out while the order was being journaled (a slow disk): it must not leave any more.
        That it did not is journaled too. What it replaces is cancelled all the same.
        """
        self._ledger.oms.apply(codec.replace(placed, replaced_id=""))
        self._context.count("refused")
        self._context.count("late_after_journal")
        self._reports.end(self._ledger.oms.orders[placed.order_id], OrderState.REFUSED, reasons.NOT_ACTIVE)
        if placed.replaces:
            self._cancel(orders.cancel_of(placed))

    def _rehearse(self, place: orders.Place) -> None:
        """Everything that an order costs here but the journal, and none of what it does."""
        self._closed()
        self._ledger.oms.rehearse(place)
        if self._lead.phase is not Phase.ACTIVE:
            return
        self._context.count("rehearsals")
        head = self._signature.head()
        rehearsed = oms.numbered(head, self._context.service, place, 0, None)
        self._execution.send(orders.Rehearsal(*head, rehearsed))

    def _refuse(self, place: orders.Place, reason: str) -> None:
        self._context.count("refused")
        if reason == reasons.STALE_TOKEN:
            self._context.count("stale_token_refusals")
        elif reason == reasons.KILL_SWITCH:
            self._context.count("kill_switch_refusals")
        report = answers.ended(
            self._signature.head(), place, OrderState.REFUSED, reason, order_id=place.order_id
        )
        if self._lead.phase is Phase.ACTIVE and not self._ledger.full:
            self._ledger.write(report)  # for the audit
        self._risk.tell(report)
        if place.replaces:
            self._cancel(orders.cancel_of(place))

    def _to_replace(self, place: orders.Place) -> order.Order | None:
        """The order that is cancelled first; None when there is none any more, which is said as to any
        cancel.
        """
        cancel = orders.cancel_of(place)
        known = self._ledger.oms.find(cancel)
        if known is not None and known.open:
            return known
        self._cancel(cancel)
        return None

    # --- cancels --------------------------------------------------------------------------------------------

    def _cancel(self, cancel: orders.Cancel) -> None:
        if not self._lead.leading:
            self._refuse_cancel(cancel, reasons.NOT_ACTIVE)
            return
        known = self._ledger.oms.find(cancel)
        if known is None or not known.open:
            self._refuse_cancel(cancel, reasons.UNKNOWN_ORDER if known is None else reasons.ORDER_CLOSED)
            return
        wanted = codec.replace(
            codec.under(cancel, self._signature.head()),
            order_id=known.order_id,
            client_order_id=known.client_order_id,
        )
        payload = codec.encode(wanted)
        if self._lead.taken and not self._ledger.full:
            self._ledger.write(wanted, payload)
        sent = self._execution.send_packed(payload)
        self._ledger.oms.apply(wanted)
        self._context.count("cancels")
        if not sent:
            self._ledger.oms.cancel_refused(known.order_id)
            self._refuse_cancel(wanted, reasons.NOT_CONNECTED)

    def _refuse_cancel(self, cancel: orders.Cancel, reason: str) -> None:
        self._risk.tell(answers.refusal(self._signature.head(), cancel, reason))

    def _tell_again(self, order_id: str) -> None:
        """riskd was restarted and does not know us: attach, then how the order stands."""
        self._risk.open()
        known = self._ledger.oms.orders.get(order_id) or self._ledger.oms.closed.get(order_id)
        if known is not None:
            self._risk.tell(oms.ended(self._signature.head(), known, known.state, known.reason))
