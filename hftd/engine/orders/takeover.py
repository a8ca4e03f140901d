"""Taking the lead of order management: FENCING, RECONCILING, ACTIVE; which request goes out when, and when it
is done.

Pure: time comes in as monotonic ns, and `due` says what to send. The order is a rule (R10, R11): nothing is
asked of the venue before execd has acknowledged the FENCE, which it does only when itself active and when the
venue is fenced; nothing new leaves before the venue has cancelled what worked, told what is still open and
which executions we missed. Cancel-all, open orders and executions go out together: the link keeps their
order. An execd that died, or that forgot us, means the same once more in the same epoch. Who sends and
applies: daemons/omsd/lead.py.
"""

from __future__ import annotations

from enum import Enum

from controlplane.model import Phase, Token
from hftd.engine.orders import report_check
from hftd.wire import orders


class Due(Enum):
    """What to do next."""

    FENCE = "fence"
    RECONCILE = "reconcile"
    """Send cancel-all, then ask for open orders and executions."""
    MORE = "more"
    """Ask for the executions after `after_execution` again: the venue answers a page at a time, and an empty
    one is the last."""
    COMPLETE = "complete"
    """All is told; what we still believe open is not."""


class Takeover:
    def __init__(self, fence_retry_ns: int, reconcile_timeout_ns: int) -> None:
        self.fence_retry_ns, self.reconcile_timeout_ns = fence_retry_ns, reconcile_timeout_ns
        self.phase = Phase.STANDBY
        self.token: Token | None = None
        self.taken = False
        """The lead of this epoch is in the journal."""
        self.after_execution = 0
        """Executions above this one are asked for: the last known when the link to execd was last good."""
        self.request = 0
        """Of the cancel-all; open orders and executions are the next two."""
        self.refusal = ""
        """Why the last FENCE was not acknowledged."""
        self._due_ns = 0
        self._cancelled = self._none_open = self._executions_told = False

    def __repr__(self) -> str:
        return (
            f"<Takeover {self.phase.name.lower()} epoch {self.token.epoch if self.token else 0} "
            f"{self.refusal}>"
        )

    @property
    def leading(self) -> bool:
        """In any phase of a lead."""
        return self.phase is not Phase.STANDBY

    def lead(self, token: Token, last_execution: int, now_ns: int) -> None:
        """The lease page gave us the lead of a new epoch."""
        self.token, self.taken, self.refusal = token, False, ""
        self.again(last_execution, now_ns)

    def again(self, last_execution: int, now_ns: int) -> None:
        """Fence and reconcile (once more): execd is new to us."""
        if self.phase in (Phase.STANDBY, Phase.ACTIVE) or not self.taken:
            # Only here: within one try, executions that came in meanwhile say nothing about those before
            # them.
            self.after_execution = last_execution
        self.phase = Phase.FENCING
        self._due_ns = now_ns

    def stand_by(self) -> None:
        self.phase, self.token, self.taken = Phase.STANDBY, None, False

    def due(self, now_ns: int) -> Due | None:
        """What has to be sent now; asked each turn."""
        if self.phase not in (Phase.FENCING, Phase.RECONCILING) or now_ns < self._due_ns:
            return None
        if self.phase is Phase.RECONCILING:
            self.phase = Phase.FENCING  # an answer is missing: execd or the venue may be new; begin again
        self._due_ns = now_ns + self.fence_retry_ns
        return Due.FENCE

    @property
    def due_ns(self) -> int | None:
        return self._due_ns if self.phase in (Phase.FENCING, Phase.RECONCILING) else None

    def fenced(self, answer: orders.Fenced, now_ns: int) -> Due | None:
        """RECONCILE when the fence stands; None when it does not, or when the answer is of another try."""
        if (
            self.phase is not Phase.FENCING
            or self.token is None
            or (answer.group, answer.epoch) != (self.token.group, self.token.epoch)
        ):
            return None
        if not answer.ok:
            self.refusal = answer.reason
            return None
        self.phase, self.refusal = Phase.RECONCILING, ""
        self._due_ns = now_ns + self.reconcile_timeout_ns
        self.request += 3
        self._cancelled = self._none_open = self._executions_told = False
        return Due.RECONCILE

    def answered(self, answer: orders.CancelledAll | orders.OpenOrders | orders.Executions) -> Due | None:
        """Take an answer to this try (others are not ours any more); the executions in it have been applied
        before.
        """
        if self.phase is not Phase.RECONCILING:
            return None
        match answer:
            case orders.CancelledAll() if answer.request == self.request:
                self._cancelled = True
            case orders.OpenOrders() if answer.request == self.request + 1:
                # After a cancel-all nothing is open, or the venue has not done it: then this try ends by its
                # time-out.
                self._none_open = not answer.orders
            case orders.Executions() if answer.request == self.request + 2:
                end = report_check.list_end(answer.executions)
                if end > self.after_execution:
                    self.after_execution = end
                    return Due.MORE
                self._executions_told = True
            case _:
                return None
        return Due.COMPLETE if self._cancelled and self._none_open and self._executions_told else None

    def complete(self) -> None:
        self.phase = Phase.ACTIVE
