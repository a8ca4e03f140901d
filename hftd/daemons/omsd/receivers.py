"""Whom omsd tells: riskd its reports, positiond its executions, auditd every record of the journal; each link
on its own, none waits for another.

A receiver listens to the token that attached last, so each link says Attach at a take-over, then with every
keep-alive, and at once to a receiver that was restarted. Reports to riskd leave in order, bounded in
memory. Executions and audit records are sent again until they are acknowledged: executions from memory (older
ones are asked of the venue), audit records from the journal, so that a receiver that was away for an hour
misses nothing. None of this may hold up an order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd import bus, runtime
from hftd.engine import reasons
from hftd.engine.orders import oms, replica
from hftd.storage import journal as journals
from hftd.wire import codec, control, orders

REPORTS_MAX = 20_000
"""To riskd, not sent yet. Beyond it the oldest are dropped: riskd never asks for a report twice, and is put
right by positions."""
LATE_NS = 5_000_000_000
"""After so long without an acknowledgement of what waits: an alarm. A restart of auditd takes less."""
LAG_MAX = 10_000
"""More than comes together in such a restart on a busy day: an alarm, though auditd acknowledges."""
FLYING_MAX = 100_000
"""Executions that positiond has not acknowledged; it takes no more either."""
TELL_EVERY_NS = 100_000_000
"""Between two messages that tell positiond how many executions there are."""
CHUNK = 200
"""Audit records in one batch, so that a long backlog delays no order."""

FromReceiver = orders.Attached | orders.ReportsSeen | orders.AuditSeen | orders.Refusal
decode: codec.Decoder[FromReceiver] = codec.Decoder(FromReceiver)

MakeHead = Callable[[], codec.Head]
MakeAttach = Callable[[bytes], orders.Attach]
"""Of the identity of the link that it is for."""


class ReceiverLink:
    """One receiver: its socket, and whether it has acknowledged our Attach."""

    def __init__(
        self, context: runtime.Context, service: str, socket_name: str, make_attach: MakeAttach
    ) -> None:
        self._context, self.service, self._socket_name = context, service, socket_name
        self._make_attach = make_attach
        self.dealer = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.attached = False

    def found(self, _: list[control.Peer]) -> None:
        """The service's endpoints changed."""
        self.dealer.connect(self._context.endpoint(self.service, self._socket_name))

    def attach(self) -> bool:
        return self.dealer.send(codec.encode(self._make_attach(self.dealer.identity)))

    def answered(self, answer: orders.Attached) -> bool:
        """True when it has taken us just now, and had not before."""
        fresh = answer.ok and not self.attached
        self.attached = answer.ok
        if not answer.ok:
            self._context.count("attach_refused")
        return fresh


class RiskLink(ReceiverLink):
    """riskd: reports in order. Nothing leaves before Attach; then it needs no acknowledgement, the link keeps
    the order.
    """

    def __init__(self, context: runtime.Context, service: str, make_attach: MakeAttach) -> None:
        super().__init__(context, service, "orders", make_attach)
        self._waiting: deque[orders.Report | orders.Refusal] = deque()
        self._open = False

    def tell(self, message: orders.Report | orders.Refusal) -> None:
        if not self._waiting and self._open and self.dealer.send(codec.encode(message)):
            return
        self._waiting.append(message)
        if len(self._waiting) > REPORTS_MAX:
            self._waiting.popleft()
            self._context.count("reports_dropped")

    def hold(self) -> None:
        self._open = self.attached = False

    def forget(self) -> None:
        self.hold()
        self._waiting.clear()

    def open(self) -> None:
        self._open = self.attach()
        self.pump()

    def pump(self) -> None:
        while self._open and self._waiting and self.dealer.send(codec.encode(self._waiting[0])):
            self._waiting.popleft()


class PositionsLink(ReceiverLink):
    """positiond: each execution until it is acknowledged, rising.

    Ids have gaps, so positiond cannot know by itself that nothing is missing between two. Up to the mark that
    the venue's list has confirmed (confirmed.py) omsd knows them all, and says how many there are.
    """

    def __init__(
        self,
        context: runtime.Context,
        service: str,
        orders_of: Callable[[], oms.Oms],
        confirmed: Callable[[], int],
        make_head: MakeHead,
        make_attach: MakeAttach,
    ) -> None:
        super().__init__(context, service, "executions", make_attach)
        self._orders, self._confirmed, self._head = orders_of, confirmed, make_head
        self.seen = 0
        self._sent = 0
        self._flying: list[int] = []
        """Ids above `seen` that were sent, rising."""
        self._late = 0
        """Executions that had come behind higher ids when it was last looked."""
        self._told_up_to = self._told_ns = 0
        """What it was told of last, since `begin`, and when."""
        self._moved_ns = 0
        """When something was last sent for the first time, or acknowledged."""

    def hold(self) -> None:
        self.attached = False

    def begin(self, last_execution: int) -> None:
        """It has attached us, and holds every execution up to here. Beyond what we know of it is not
        believed: what it has already costs it a look.
        """
        self.seen = max(0, min(last_execution, self._orders().last_execution))
        self._again()

    def _again(self) -> None:
        self._sent, self._told_up_to = self.seen, 0
        self._flying.clear()

    def acknowledged(self, up_to: int, now_ns: int) -> None:
        up_to = min(up_to, self._orders().last_execution)
        if up_to > self.seen:
            self.seen, self._moved_ns = up_to, now_ns
            self._sent = max(self._sent, up_to)
            del self._flying[: bisect_right(self._flying, up_to)]
        elif 0 <= up_to < self.seen and self._told_up_to:
            self.begin(up_to)  # what it was told does not fit: it has less than it had said

    def pump(self, now_ns: int) -> int | None:
        """Send what was not sent yet. Returns the execution after which the venue has to be asked, when
        memory does not reach back so far.
        """
        known = self._orders()
        if not self.attached:
            return None
        if known.late_executions != self._late:
            self._late, self._sent = known.late_executions, self.seen  # one may be below what was sent
        if self._sent < known.last_execution and len(self._flying) < FLYING_MAX:
            missing = known.executions_after(self._sent)
            if missing is None:
                return self._sent
            for report in missing:
                if not self._send(report):
                    return None
                self._moved_ns = now_ns
        self._tell(now_ns)
        return None

    def backfill(self, found: list[orders.Report], now_ns: int) -> None:
        """What the venue has told of executions that are no longer in memory."""
        for report in sorted(found, key=lambda each: each.execution_id):
            if report.execution_id > self._sent:
                if not (self.attached and self._send(report)):
                    return
                self._moved_ns = now_ns

    def _send(self, report: orders.Report) -> bool:
        id, flying = report.execution_id, self._flying
        at = bisect_right(flying, id)
        if not (at and flying[at - 1] == id):
            if not self.dealer.send(codec.encode(oms.with_head(report, self._head()))):
                return False
            flying.insert(at, id)
        self._sent = id
        return True

    def _tell(self, now_ns: int) -> None:
        up_to = min(self._confirmed(), self._sent)
        if up_to <= max(self.seen, self._told_up_to) or now_ns - self._told_ns < TELL_EVERY_NS:
            return
        told = orders.ExecutionsTold(*self._head(), self.seen, up_to, bisect_right(self._flying, up_to))
        if self.dealer.send(codec.encode(told)):
            self._told_up_to, self._told_ns = up_to, now_ns

    def retry(self, now_ns: int, after_ns: int) -> None:
        """What it has not acknowledged for `after_ns` is sent again; five times as long where the venue has
        not confirmed it yet.
        """
        if self._confirmed() <= self.seen:
            after_ns *= 5
        since_ns = max(self._moved_ns, self._told_ns)
        if self.attached and self._sent > self.seen and now_ns - since_ns >= after_ns:
            self._context.count("executions_sent_again", len(self._flying))
            self._again()
            self._moved_ns = now_ns


class AuditLink(ReceiverLink):
    """auditd: the journal, record by record. `audited` is known to the standbys too, so that a new leader
    goes on from there.
    """

    def __init__(
        self,
        context: runtime.Context,
        service: str,
        journal: journals.Journal,
        group: str,
        make_attach: MakeAttach,
    ) -> None:
        super().__init__(context, service, "events", make_attach)
        self._journal, self._group = journal, group
        self._path = journal.folder / "audited"
        self.audited = min(_read_number(self._path), journal.last_seq)
        self._kept = self.audited
        self._keeping: Future[None] | None = None
        self._stream = replica.Stream(self.audited)
        self._leading = False
        self._moved_ns = self._acknowledged_ns = 0

    def hold(self) -> None:
        self._leading = False

    def begin(self, now_ns: int) -> None:
        self._leading, self._moved_ns, self._acknowledged_ns = True, now_ns, now_ns
        self._stream = replica.Stream(min(self.audited, self._journal.last_seq))

    def learn(self, audited: int) -> None:
        """What a leader has told its standby."""
        self.audited = max(self.audited, audited)

    def acknowledged(self, up_to: int, now_ns: int) -> None:
        self._stream.acknowledge(up_to)
        if self._stream.seen > self.audited:
            self.audited, self._moved_ns, self._acknowledged_ns = self._stream.seen, now_ns, now_ns

    @property
    def lag(self) -> int:
        """Records of the journal that auditd has not acknowledged."""
        return replica.unaudited(self._journal.ends(), self.audited)

    def look(self, now_ns: int) -> None:
        """Once a second: show how far auditd is behind, and raise an alarm where that is not in passing."""
        lag = self.lag
        self._context.gauge("audit_lag", lag)
        if not self._leading or not lag:
            self._acknowledged_ns = now_ns
        late_ns = now_ns - self._acknowledged_ns
        if not self._leading or (late_ns <= LATE_NS and lag <= LAG_MAX):
            self._context.clear("audit_behind")
            return
        since = f", and acknowledged none for {late_ns // 1_000_000_000} s" if late_ns > LATE_NS else ""
        text = (
            f"{self.service} lacks {lag} records of this leader's journal{since}: orders go on, and nothing "
            f"that it lacks is deleted here, so the journal grows; see the log and the disk of {self.service}"
        )
        self._context.alarm("audit_behind", "critical", text)

    def pump(self, now_ns: int) -> None:
        """Send one batch, when the one before is acknowledged: records sent after a batch that died with a
        restarted auditd would leave a hole.
        """
        stream = self._stream
        if not self._leading or stream.sent > stream.seen or stream.sent >= self._journal.last_seq:
            return
        self._moved_ns = now_ns
        for record in self._journal.read(stream.sent, limit=CHUNK):
            message = oms.decode_journaled(record.payload)
            if not self.dealer.send(
                codec.encode(oms.audited(self._group, record.epoch, record.sequence, message))
            ):
                return
            stream.send(record.sequence)

    def retry(self, now_ns: int, after_ns: int) -> None:
        if self._leading and self._stream.sent > self._stream.seen and now_ns - self._moved_ns >= after_ns:
            self._moved_ns = now_ns
            self._stream.rewind()

    def keep(self) -> None:
        """Once a second; lower than the truth is safe (auditd writes a record once), so it needs no sync. The
        journal's thread writes it; on a full disk the old number stays, and more is sent again.
        """
        if self._keeping is not None:
            if not self._keeping.done():
                return
            if self._keeping.exception() is not None:
                self._kept = -1
            self._keeping = None
        if self.audited != self._kept:
            content, self._kept = f"{self.audited}\n".encode(), self.audited
            self._keeping = self._journal.errand(lambda: files.replace(self._path, content, Durability.CRASH))


class Receivers:
    """The three together, as omsd drives them."""

    def __init__(
        self,
        context: runtime.Context,
        services: tuple[str, str, str],
        journal: journals.Journal,
        orders_of: Callable[[], oms.Oms],
        confirmed: Callable[[], int],
        make_head: MakeHead,
        make_attach: MakeAttach,
        ask_venue: Callable[[int], None],
        resend_ns: int,
    ) -> None:
        self._context, self._ask_venue, self.resend_ns = context, ask_venue, resend_ns
        risk, positions, audit = services
        self.risk = RiskLink(context, risk, make_attach)
        self.positions = PositionsLink(context, positions, orders_of, confirmed, make_head, make_attach)
        self.audit = AuditLink(context, audit, journal, context.service, make_attach)
        self._open = False
        self._asked_ns = 0

    def begin(self, now_ns: int) -> None:
        """A lead was taken: auditd hears of it at once; the others when the venue's word is in."""
        self.audit.attach()
        self.audit.begin(now_ns)

    def open(self) -> None:
        """Active: attach, and send what was held back."""
        self._open = True
        self.risk.open()
        self.positions.attach()

    def hold(self) -> None:
        """Not active for now: what there is to tell waits, so that it arrives in order after the next
        Attach.
        """
        self._open = False
        self.risk.hold()
        self.positions.hold()

    def stand_by(self) -> None:
        self.hold()
        self.risk.forget()
        self.audit.hold()

    def keep_alive(self) -> None:
        if self._open:
            self.risk.open()
            self.positions.attach()
            self.audit.attach()

    def flush(self, now_ns: int) -> None:
        """Each turn."""
        if self._open:
            self.risk.pump()
            after = self.positions.pump(now_ns)
            if after is not None and now_ns - self._asked_ns >= self.resend_ns:
                self._asked_ns = now_ns
                self._ask_venue(after)
        self.audit.pump(now_ns)

    def retry(self, now_ns: int) -> None:
        self.positions.retry(now_ns, self.resend_ns)
        self.audit.retry(now_ns, self.resend_ns)

    # --- what they say --------------------------------------------------------------------------------------

    def from_positions(self, frame: bytes, now_ns: int) -> None:
        match self._decoded(frame):
            case orders.Attached() as answer:
                if self.positions.answered(answer):
                    self.positions.begin(answer.last_seq)
            case orders.ReportsSeen() as seen:
                self.positions.acknowledged(seen.up_to, now_ns)
            case orders.Refusal(reason=reasons.NOT_ATTACHED) if self._open:
                self.positions.hold()
                self.positions.attach()
            case _:
                pass

    def from_audit(self, frame: bytes, now_ns: int) -> None:
        match self._decoded(frame):
            case orders.Attached() as answer:
                self.audit.answered(answer)
            case orders.AuditSeen() as seen:
                self.audit.acknowledged(seen.up_to, now_ns)
            case orders.Refusal(reason=reasons.NOT_ATTACHED) if self.audit.attached:
                # Once for a whole batch of refused records, which is sent again.
                self.audit.attached = False
                self.audit.attach()
            case _:
                pass

    def _decoded(self, frame: bytes) -> FromReceiver | None:
        try:
            return decode(frame)
        except InvalidInput as exc:
            self._context.undecodable(str(exc))
            return None


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
