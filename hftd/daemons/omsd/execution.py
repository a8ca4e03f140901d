"""omsd's link to execd: what is sent there, when it was last heard, and which of its reports are journaled.

A report is acknowledged (ReportsSeen) only once it is journaled here. Orders leave through `send_packed` with
the very bytes that were journaled. Who fences execd and when: lead.py; what comes back: reports.py.
"""

from __future__ import annotations

import time

from hftd import bus, runtime
from hftd.daemons.omsd.signature import Signature
from hftd.engine.orders.awaited import Awaited
from hftd.settings import OrdersSettings
from hftd.wire import codec, orders

BACKFILL = 0
"""Request number of executions asked for positiond; those of a take-over begin at 3."""


class Execution:
    def __init__(self, context: runtime.Context, settings: OrdersSettings, signature: Signature) -> None:
        self._context, self._service, self._signature = context, settings.execution, signature
        guarded = context.breakers.add(f"{context.service}.{settings.execution}", settings.breaker.breaker())
        self.awaited = Awaited(guarded, settings.breaker)
        self.dealer = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.send_packed = self.dealer.send
        self.heard_ns = 0
        self._journaled = self._acknowledged = 0
        """execd's report ids."""

    def configure(self, settings: OrdersSettings) -> None:
        self.awaited.configure(settings.breaker)

    def found(self) -> bool:
        """execd's endpoint may have changed; True when we are connected to another one now."""
        endpoint = self._context.endpoint(self._service, "orders")
        if endpoint == self.dealer.endpoint:
            return False
        self.awaited.another_process(time.monotonic_ns())
        self.dealer.connect(endpoint)
        return True

    def permit(self) -> int | None:
        """For one order; None while execd's breaker is open. Cancels need none."""
        return self.awaited.permit(time.monotonic_ns())

    def send_order(self, order_id: str, payload: bytes, permit: int) -> bool:
        """False when execd cannot be reached; the order was not sent."""
        sent, now_ns = self.send_packed(payload), time.monotonic_ns()
        if sent:
            self.awaited.sent(order_id, permit, now_ns)
        else:
            self.awaited.unsent(permit, now_ns)
        return sent

    def send(self, message: orders.TowardsExecution) -> bool:
        """False when execd cannot be reached; the message was not sent."""
        return self.dealer.send(codec.encode(message))

    def heard(self) -> None:
        self.heard_ns = time.monotonic_ns()

    def heard_of(self, order_id: str) -> None:
        self.awaited.answered(order_id, self.heard_ns)

    def tick(self, now_ns: int) -> None:
        self.awaited.tick(now_ns, self.heard_ns)

    # --- what it is told of us ------------------------------------------------------------------------------

    def fence(self) -> None:
        self.send(self._signature.fence(self.dealer.identity))

    def keep_alive(self) -> None:
        self.send(self._signature.attach(self.dealer.identity))

    def ask_all(self, request: int, after_execution: int) -> None:
        """Cancel everything, then tell what is open and which executions there were since; the link keeps
        their order.
        """
        head = self._signature.head
        self.send(orders.CancelAll(*head(), request))
        self.send(orders.OpenOrdersWanted(*head(), request + 1))
        self.ask_executions(request + 2, after_execution)

    def ask_executions(self, request: int, after_execution: int) -> None:
        self.send(orders.ExecutionsWanted(*self._signature.head(), request, after_execution))

    # --- its reports ----------------------------------------------------------------------------------------

    def journaled(self, report_id: int) -> None:
        """The last one counts, as the link keeps their order: one with a wrong id mutes none behind it."""
        self._journaled = report_id

    def forget_reports(self) -> None:
        """execd may count anew."""
        self._journaled = self._acknowledged = 0

    def acknowledge(self) -> None:
        """Each turn: one acknowledgement for all reports read."""
        if self._journaled != self._acknowledged and self.send(
            orders.ReportsSeen(*self._signature.head(), self._journaled)
        ):
            self._acknowledged = self._journaled
