"""omsd's lead: from the lease page's word to the first order, and back to standby.

Which request goes out when is engine/orders/takeover.py's to say; here it is carried out. A lead that is
taken is journaled as the first record of its epoch, after a hole (engine/orders/replica.py). Whenever execd
is new to us, or we to it, the same epoch is fenced and reconciled once more, and the receivers wait
meanwhile.
"""

from __future__ import annotations

import time

from controlplane.model import Phase, Token
from hftd import runtime
from hftd.daemons.omsd.confirmation import Confirmation
from hftd.daemons.omsd.execution import Execution
from hftd.daemons.omsd.ledger import Ledger
from hftd.daemons.omsd.receivers import Receivers
from hftd.daemons.omsd.replication import Replication
from hftd.daemons.omsd.reports import Reports
from hftd.daemons.omsd.signature import Signature
from hftd.engine import reasons
from hftd.engine.orders import replica, takeover, term
from hftd.engine.orders.takeover import Due
from hftd.wire import orders

LOST_TOUCH = frozenset({reasons.NOT_ACTIVE, reasons.NOT_FENCED, reasons.STALE_TOKEN})
"""A refusal of execd or the venue that says: you do not lead here (yet); fence again."""


class Lead:
    def __init__(
        self,
        context: runtime.Context,
        state: takeover.Takeover,
        ledger: Ledger,
        execution: Execution,
        reports: Reports,
        receivers: Receivers,
        replication: Replication,
        signature: Signature,
        confirmation: Confirmation,
    ) -> None:
        """`state` is changed here alone."""
        self._context, self.state, self._ledger = context, state, ledger
        self._execution, self._reports, self._signature = execution, reports, signature
        self._receivers, self._replication = receivers, replication
        self._confirmation = confirmation
        self._promoted_ns = 0
        """When the lease page gave us the lead."""
        self._waits = False
        """With a lead that we were given, until our journal's tail is set aside."""

    # --- the lease page -------------------------------------------------------------------------------------

    def follow_page(self) -> None:
        """The lease page has changed: lead, or stand by."""
        token = self._context.lease.token()
        self._waits = token is not None and self._replication.busy
        if self._waits:
            return
        if token is None:
            self._stand_by()
        elif token != self.state.token:
            self._lead(token)

    def _lead(self, token: Token) -> None:
        if term.of(token) <= self._ledger.journal.last_epoch:
            held = term.token(self._ledger.journal.last_epoch, token.group)
            text = (
                f"not leading, no orders are taken: the lease names epoch {token.incarnation}/{token.epoch}, "
                f"which is not above the journal's {held.incarnation}/{held.epoch}"
            )
            self._context.alarm("stale_lease", "critical", text)
            return
        self._context.clear("stale_lease")
        now_ns = self._promoted_ns = time.monotonic_ns()
        self._signature.sign(token)
        for told in self._context.lease.fences().values():
            self._ledger.oms.learn_risk(told.token)
        self._receivers.hold()
        self.state.lead(token, self._confirmation.up_to, now_ns)
        self._show()

    def again(self, why: str) -> None:
        """execd is new to us, or we to it: the same epoch, fenced and reconciled once more."""
        if self.state.leading:
            self._context.event("execution.lost", why=why, epoch=self._signature.epoch)
            self._receivers.hold()
            self.state.again(self._confirmation.up_to, time.monotonic_ns())
            self._show()

    def again_if_active(self, why: str) -> None:
        """The same, unless a try is under way already."""
        if self.state.phase is Phase.ACTIVE:
            self.again(why)

    def _stand_by(self) -> None:
        led = self.state.leading
        self.state.stand_by()
        self._receivers.stand_by()
        self._reports.forget_sent()
        self._execution.forget_reports()
        self._confirmation.stop()
        self._replication.stand_by()
        self._show()
        if led:
            self._context.event("omsd.standby", epoch=self._signature.epoch)

    def _show(self) -> None:
        phase = self.state.phase
        self._context.lease.phase(phase, 0 if phase is Phase.STANDBY else self._signature.epoch)

    # --- fencing and reconciling ----------------------------------------------------------------------------

    def turn(self, now_ns: int) -> None:
        """Each turn: send the FENCE when it is due."""
        if self._waits and not self._replication.busy:
            self.follow_page()
        if self.state.due(now_ns) is Due.FENCE:
            self._show()
            self._execution.fence()

    def fenced(self, answer: orders.Fenced) -> None:
        if self.state.fenced(answer, time.monotonic_ns()) is Due.RECONCILE:
            self._context.clear("fence_refused")
            self._execution.forget_reports()
            self._show()
            self._take()
        elif answer.waits:
            pass  # asked again soon; the receiver that misses the store's word raises the alarm
        elif self.state.phase is Phase.FENCING and not answer.ok and answer.reason not in LOST_TOUCH:
            self._context.alarm(
                "fence_refused", "warning", f"no orders are taken: execd refuses our token ({answer.reason})"
            )

    def _take(self) -> None:
        """The fence stands. From here on this epoch writes: the lead itself is its first record."""
        takes = False
        if not self.state.taken:
            attach = orders.Attach(*self._signature.head(), self._signature.claimant())
            first = replica.first_of_term(self._ledger.journal.last_seq)
            takes = self.state.taken = self._ledger.write(attach, sequence=first)
        self._execution.ask_all(self.state.request, self.state.after_execution)
        if takes:
            # While the venue answers: the standbys' list on disk and auditd's greeting keep nobody waiting.
            self._replication.lead()
            self._receivers.begin(time.monotonic_ns())

    def reconciled(self, answer: orders.CancelledAll | orders.OpenOrders | orders.Executions) -> None:
        """One of the venue's three answers. Executions are journaled first: without room they are asked for
        again.
        """
        if isinstance(answer, orders.Executions):
            believed = list(filter(self._reports.believed, answer.executions))
            if not all(map(self._reports.take, believed)):
                return
        due = self.state.answered(answer)
        if due is Due.MORE:
            self._execution.ask_executions(self.state.request + 2, self.state.after_execution)
        elif due is Due.COMPLETE:
            self._complete()

    def _complete(self) -> None:
        """The venue has told all it knows: what we still hold open never reached it, or ended unheard. Then
        new orders may come.
        """
        if self._ledger.full or not self.state.taken:
            return  # it is asked again, until there is room to write the answers down
        if not self._reports.end_all(reasons.TAKE_OVER):
            return
        self.state.complete()
        self._confirmation.reconciled(self.state.after_execution)
        self._show()
        self._receivers.open()
        took_us = (time.monotonic_ns() - self._promoted_ns) // 1000
        self._context.event("omsd.active", epoch=self._signature.epoch, took_us=took_us)
