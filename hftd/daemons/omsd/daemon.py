"""omsd: owns the orders. It takes approved orders from riskd, journals them before they leave to execd, and
tells everyone what becomes of them.

Wiring only: who is called when a message, a turn or a tick comes. Orders and cancels: desk.py. What execd
says of them: reports.py, over execution.py. Taking and losing the lead: lead.py. The journal and its room:
ledger.py. Whom omsd tells: receivers.py, audit_tail.py. Standbys: replication.py. What an order may do:
engine/orders/oms.py.
"""

from __future__ import annotations

import time
from typing import Any

from controlplane.model import Phase
from controlplane.model.config import KILL_SWITCH
from hftd import runtime
from hftd.daemons.omsd import confirmation
from hftd.daemons.omsd.audit_tail import AuditTail
from hftd.daemons.omsd.confirmation import Confirmation
from hftd.daemons.omsd.desk import Desk
from hftd.daemons.omsd.execution import BACKFILL, Execution
from hftd.daemons.omsd.kill_switch import KillSwitch
from hftd.daemons.omsd.lead import LOST_TOUCH, Lead
from hftd.daemons.omsd.ledger import Ledger
from hftd.daemons.omsd.receivers import Receivers
from hftd.daemons.omsd.replication import Replication
from hftd.daemons.omsd.reports import Reports
from hftd.daemons.omsd.signature import Signature
from hftd.engine.orders import oms, takeover
from hftd.settings import OrdersSettings
from hftd.storage import journal as journals
from hftd.wire import orders

TICK_S = 0.02
TELL_AFTER_NS = 1_000_000
"""After the first new record: by then a burst is through. Nobody's acknowledgement is waited for, so this
only bounds how far the others lag."""


class Omsd:
    def __init__(self, context: runtime.Context, settings: OrdersSettings) -> None:
        self.context, self.settings = context, settings
        self.signature = signature = Signature(context)
        self.ledger = ledger = Ledger(context, settings, signature)
        self.execution = Execution(context, settings, signature)
        self.receivers = Receivers(
            context,
            (settings.risk, settings.positions, settings.audit),
            ledger.journal,
            orders_of=lambda: ledger.oms,
            confirmed=lambda: self.confirmation.up_to,
            make_head=signature.head,
            make_attach=signature.attach,
            ask_venue=lambda after: self.execution.ask_executions(BACKFILL, after),
            resend_ns=int(settings.resend_s * 1e9),
        )
        self.tail = AuditTail(
            context,
            settings.audit,
            ledger.journal,
            signature,
            audited=lambda: self.receivers.audit.audited,
            resend_ns=int(settings.resend_s * 1e9),
        )
        self.replication = Replication(
            context,
            ledger.journal,
            make_head=signature.head,
            on_record=ledger.follow,
            set_aside=ledger.set_aside,
            shorten=ledger.shorten,
            audited=lambda: self.receivers.audit.audited,
            on_audited=self.receivers.audit.learn,
            on_tail=self._set_aside,
            confirmed=lambda sequence: self.confirmation.of(sequence),
            on_confirmed=lambda up_to: self.confirmation.learn(up_to),
        )
        self.confirmation = Confirmation(context, ledger, self.execution.ask_executions)
        self.kill_switch = KillSwitch(context)
        state = takeover.Takeover(int(settings.fence_retry_s * 1e9), int(settings.reconcile_timeout_s * 1e9))
        risk = self.receivers.risk
        self.reports = Reports(context, ledger, risk, signature)
        self.desk = Desk(
            context, ledger, self.execution, risk, self.reports, state, signature, self.kill_switch
        )
        self.lead = Lead(
            context,
            state,
            ledger,
            self.execution,
            self.reports,
            self.receivers,
            self.replication,
            signature,
            self.confirmation,
        )
        self._tell_ns = self._told_seq = 0
        self._keep_alive_ns = 0
        self._say_ready()

    def configure(self, settings: OrdersSettings) -> None:
        """Orders that work, and a take-over that is under way, go on; what is timed next goes by these."""
        self.settings = settings
        self.ledger.configure(settings)
        self.execution.configure(settings)
        self.receivers.resend_ns = self.tail.resend_ns = int(settings.resend_s * 1e9)
        state = self.lead.state
        state.fence_retry_ns = int(settings.fence_retry_s * 1e9)
        state.reconcile_timeout_ns = int(settings.reconcile_timeout_s * 1e9)

    # --- from execd -----------------------------------------------------------------------------------------

    def from_execution(self, frame: bytes) -> None:
        """What does not concern a lead of ours is dropped; what does not decode the loop counts."""
        message = orders.decode_coming_back(frame)
        self.execution.heard()
        if isinstance(message, orders.Report | orders.Refusal):
            self.execution.heard_of(message.order_id)
        state = self.lead.state
        if not state.leading:
            return
        match message:
            case orders.Report():
                # One that cannot be true is acknowledged: it would come again as it is.
                if state.taken and (not self.reports.believed(message) or self.reports.take(message)):
                    self.execution.journaled(message.report_id)
            case orders.Fenced():
                self.lead.fenced(message)
            case orders.Executions(request=request) if request == BACKFILL:
                believed = list(filter(self.reports.believed, message.executions))
                self.receivers.positions.backfill(believed, time.monotonic_ns())
            case orders.Executions(request=request) if request == confirmation.REQUEST:
                self._confirmed(message)
            case orders.CancelledAll() | orders.OpenOrders() | orders.Executions():
                self.lead.reconciled(message)
            case orders.Attached(ok=False):
                self.lead.again_if_active("execd does not know us")
            case orders.Refusal():
                self.reports.refused(message)
                if message.reason in LOST_TOUCH:
                    self.lead.again_if_active(f"refused: {message.reason}")
            case _:
                pass

    def _confirmed(self, listed: orders.Executions) -> None:
        """A page of the venue's list: what is new in it had been lost on the way."""
        if self.lead.state.phase is not Phase.ACTIVE:
            return
        believed = list(filter(self.reports.believed, listed.executions))
        new = [report for report in believed if not self.ledger.oms.knows(report.execution_id)]
        if all(map(self.reports.take, new)):
            self.confirmation.told(listed, len(new), time.monotonic_ns())

    def _set_aside(self, aside: journals.SetAside[oms.Oms]) -> None:
        self.tail.add(aside.path, aside.records)
        self.confirmation.lowered()

    def found_execution(self) -> None:
        if self.execution.found():
            self.lead.again_if_active("execd is another process")

    # --- time -----------------------------------------------------------------------------------------------

    def follow_page(self) -> None:
        self.lead.follow_page()
        self.turn()

    def turn(self) -> int | None:
        """What is due now; returns the moment of the next thing, in monotonic ns, or None."""
        now_ns = time.monotonic_ns()
        self.lead.turn(now_ns)
        if self._tells_later(now_ns):
            return self._tell_ns
        self.execution.acknowledge()
        more = False
        if self.lead.state.taken:
            self.receivers.flush(now_ns)
            more = self.replication.pump()
        else:
            self.replication.acknowledge()
        self.ledger.journal.sync_soon()
        return now_ns if more else self.lead.state.due_ns

    def _tells_later(self, now_ns: int) -> bool:
        """Orders of one tick come in a burst: the later ones must not wait while auditd, positiond and the
        standby are told of the first.
        """
        last_seq = self.ledger.journal.last_seq
        if self.lead.state.phase is Phase.ACTIVE and last_seq != self._told_seq:
            self._tell_ns = self._tell_ns or now_ns + TELL_AFTER_NS
            if now_ns < self._tell_ns:
                return True
        self._tell_ns, self._told_seq = 0, last_seq
        return False

    def tick(self, now_ns: int) -> None:
        self.execution.tick(now_ns)
        self.replication.tick(now_ns)
        self.tail.tick(now_ns)
        self._say_ready()
        if self.ledger.found_room(now_ns):
            self.lead.again_if_active("the journal was full; execd tells again what was not taken")
        if not self.lead.state.leading or now_ns < self._keep_alive_ns:
            return
        self._keep_alive_ns = now_ns + int(self.settings.keep_alive_s * 1e9)
        if self.lead.state.phase is Phase.ACTIVE:
            self.confirmation.tick(now_ns)
        self.execution.keep_alive()
        self.receivers.keep_alive()
        self.receivers.retry(now_ns)
        if now_ns - self.execution.heard_ns > self.settings.execution_silence_s * 1e9:
            self.lead.again_if_active("execd is silent")

    def _say_ready(self) -> None:
        """A standby that cannot take over is not ready, and so is not elected."""
        if self.ledger.journal.damage is not None:
            self.context.set_ready(False, "its journal was damaged and lacks records that others have")
        elif self.replication.busy:
            self.context.set_ready(False, "its journal's tail is being set aside")
        else:
            self.context.set_ready(True)

    def each_second(self, now_ns: int) -> None:
        audit = self.receivers.audit
        audit.keep()
        audit.look(now_ns)
        self.confirmation.keep()
        self.ledger.each_second(leading=self.lead.state.leading, audited=audit.audited)
        self.context.gauge("audited_seq", audit.audited)
        self.context.gauge("audit_tail", self.tail.waiting)

    # --- what it is asked -----------------------------------------------------------------------------------

    def order(self, args: dict[str, Any]) -> dict[str, str | int] | None:
        return self.ledger.oms.row(str(args.get("id", "")))

    def stop(self) -> None:
        self.receivers.audit.keep()
        self.ledger.journal.close()


def build(context: runtime.Context, settings: OrdersSettings) -> runtime.Loop:
    omsd = Omsd(context, settings)
    receivers, replication = omsd.receivers, omsd.replication
    loop = runtime.Loop(context)

    def flush() -> None:
        due_ns = omsd.turn()
        if due_ns is not None:
            loop.wake_at(due_ns)

    loop.on_settings(omsd.configure)
    loop.on_flag(KILL_SWITCH, lambda _old, _new: omsd.kill_switch.look())
    loop.on_lease(lambda _: omsd.follow_page())
    loop.on_peers(settings.execution, lambda _: omsd.found_execution())
    for link in (receivers.risk, receivers.positions, receivers.audit, omsd.tail.link):
        loop.on_peers(link.service, link.found)
    loop.on_peers(context.service, lambda _: replication.find())
    # Reports before new orders: an order is judged by the newest of what has arrived.
    loop.on(omsd.execution.dealer.socket, omsd.from_execution)
    loop.on(receivers.risk.dealer.socket, omsd.desk.on_message)
    loop.on(
        receivers.positions.dealer.socket, lambda frame: receivers.from_positions(frame, time.monotonic_ns())
    )
    loop.on(receivers.audit.dealer.socket, lambda frame: receivers.from_audit(frame, time.monotonic_ns()))
    loop.on_router(replication.router.socket, replication.on_standby)
    loop.on(replication.dealer.socket, replication.on_leader)
    loop.on(omsd.tail.link.dealer.socket, omsd.tail.from_audit)
    loop.before_wait(flush)
    loop.every(TICK_S, omsd.tick)
    loop.every(1.0, omsd.each_second)
    loop.on_ask("orders", lambda _: omsd.ledger.oms.rows())
    loop.on_ask("order", omsd.order)
    loop.on_stop(omsd.stop)
    return loop
