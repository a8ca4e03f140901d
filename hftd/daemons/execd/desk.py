"""What order managers want of execd: orders, cancels and questions, judged, then sent on or refused.

Who may send, over which link: engine/orders/gateway.py. That riskd has approved this very order:
engine/orders/approvals.py. A refused order that replaces another still cancels that one. Past our own lease
no new order leaves, and none while the venue's breaker is open; cancels pass. Who calls: daemon.py.
"""

from __future__ import annotations

import time

from hftd import bus, runtime
from hftd.daemons.execd.attempts import Attempts
from hftd.daemons.execd.venue import Venue
from hftd.engine import reasons
from hftd.engine.orders import answers
from hftd.engine.orders.approvals import Approvals
from hftd.engine.orders.gateway import Gateway, Orphans, Questions
from hftd.wire import codec, orders

Question = orders.CancelAll | orders.OpenOrdersWanted | orders.ExecutionsWanted


class Desk:
    def __init__(
        self,
        context: runtime.Context,
        router: bus.link.Router,
        gateway: Gateway,
        venue: Venue,
        questions: Questions,
        orphans: Orphans,
        approvals: Approvals,
        attempts: Attempts,
    ) -> None:
        self._context, self._router, self._gateway, self._venue = context, router, gateway, venue
        self._questions, self._orphans = questions, orphans
        self._approvals, self._attempts = approvals, attempts
        self._tick_to_order = context.histogram("tick_to_order")

    def place(self, identity: bytes, place: orders.Place) -> None:
        reason = self._gateway.objection(
            identity, place.token, self._context.lease.leads()
        ) or self._approvals.take(place)
        frame = b"" if reason else self._venue.packed(place)
        now_ns = time.monotonic_ns()
        reason = reason or self._send(place.order_id, frame, now_ns)
        if reason:
            self._refuse(identity, place, reason)
            if place.replaced_id:
                self.cancel(identity, orders.cancel_of(place))
            return
        if place.origin_ns:
            self._tick_to_order.record(now_ns - place.origin_ns)
        self._context.count("orders")
        if place.replaced_id:
            self._context.count("cancels")
        self._orphans.heard(now_ns)

    def _send(self, order_id: str, frame: bytes, now_ns: int) -> str:
        """Past the venue's breaker; returns why the order has not left, or ""."""
        awaited = self._venue.awaited
        permit = awaited.permit(now_ns)
        if permit is None:
            return reasons.BREAKER_OPEN
        if not self._venue.send_packed(frame):
            awaited.unsent(permit, now_ns)
            return reasons.NOT_CONNECTED
        awaited.sent(order_id, permit, now_ns)
        return ""

    def rehearse(self, identity: bytes, place: orders.Place) -> None:
        """Here a rehearsal ends: judged and packed, and never sent."""
        if self._gateway.objection(identity, place.token, self._context.lease.leads()):
            self.foreign(identity, place.token)
            return
        self._approvals.rehearse(place)
        self._venue.packed(place)
        self._context.count("rehearsals")

    def foreign(self, identity: bytes, token: codec.TokenOnWire | None) -> None:
        """Count a message that was not taken and gets no refusal, if it is an attempt."""
        if self._gateway.foreign(identity, token):
            self._attempts.refused(reasons.WRONG_LINK)

    def cancel(self, identity: bytes, cancel: orders.Cancel) -> None:
        reason = self._gateway.cancel_objection(identity, cancel.token, cancel.order_id)
        if not reason and not self._venue.send(cancel):
            reason = reasons.NOT_CONNECTED
        if reason:
            self._refuse(identity, cancel, reason)
            return
        self._context.count("cancels")

    def ask(self, identity: bytes, asked: Question) -> None:
        reason = self._gateway.objection(identity, asked.token, leads=True)
        if reason:
            self._refuse(identity, asked, reason)
            return
        self._orphans.heard(time.monotonic_ns())
        number = self._questions.ask(identity, asked.request)
        # Not sent is not answered, and is asked again.
        self._venue.send(codec.replace(asked, request=number))

    def _refuse(self, identity: bytes, refused: orders.Place | orders.Cancel | Question, reason: str) -> None:
        if reason == reasons.STALE_TOKEN:
            self._context.count("stale_token_refusals")
        self._context.count("refused")
        self._attempts.refused(reason)
        about = refused if isinstance(refused, orders.Place | orders.Cancel) else None
        head = self._context.head(self._gateway.on_wire)
        self._router.send(identity, codec.encode(answers.refusal(head, about, reason)))
