"""omsd: owns the orders. It takes approved orders from riskd, journals them before they leave to execd, and
tells everyone what becomes of them.

Wiring only. What an order may do and what is refused: engine/oms.py and engine/order.py. Taking the lead:
engine/takeover.py. The journal: runtime/journal.py. Whom it tells: oms/receivers.py. Standbys:
oms/replication.py. A full journal stops new orders and acknowledges nothing; when there is room again, execd
is fenced anew and tells everything once more.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from controlplane.model import Phase, Token
from hftd import bus, runtime
from hftd.daemons.omsd.receivers import Receivers
from hftd.daemons.omsd.replication import Replication
from hftd.engine import oms, order, reasons, replica, takeover
from hftd.engine.takeover import Due
from hftd.settings import OrdersSettings
from hftd.shm import pages
from hftd.storage import journal as journals
from hftd.wire import codec, control, orders
from hftd.wire.orders import State

TICK_S = 0.02
TELL_AFTER_NS = 1_000_000
"""After the first new record: by then a burst is through. Nobody's acknowledgement is waited for, so this
only bounds how far they lag."""
BACKFILL = 0
"""Request number of executions asked for positiond; those of a take-over begin at 3."""
LOST_TOUCH = frozenset({reasons.NOT_ACTIVE, reasons.NOT_FENCED, reasons.STALE_TOKEN})
"""A refusal of execd or the venue that says: you are not who leads here (yet); fence again."""


class Omsd:
    def __init__(self, context: runtime.Context, settings: OrdersSettings) -> None:
        self.context, self.settings = context, settings
        self.group = context.service
        self.journal = journals.Journal(
            context.journal_dir, segment_bytes=settings.segment_bytes, unsynced_max=settings.unsynced_max
        )
        self.takeover = takeover.Takeover(
            int(settings.fence_retry_s * 1e9), int(settings.reconcile_timeout_s * 1e9)
        )
        self.execution = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.oms = self._replayed()
        self.receivers = Receivers(
            context,
            (settings.risk, settings.positions, settings.audit),
            self.journal,
            orders_of=lambda: self.oms,
            make_head=self._head,
            ask_venue=self._ask_executions,
            resend_ns=int(settings.resend_s * 1e9),
        )
        self.replication = Replication(
            context,
            self.journal,
            make_head=self._head,
            on_record=lambda payload: self.oms.apply(oms.decode_journaled(payload)),
            on_set_aside=self._replay,
            audited=lambda: self.receivers.audit.audited,
            on_audited=self.receivers.audit.learn,
        )
        self.order_to_ack = context.histogram("order_to_ack")
        self._sent_ns: dict[str, int] = {}
        """Orders without a first report: when they left."""
        self._token: codec.TokenOnWire | None = None
        self._term = 0
        self._full = False
        self._seen = self._acknowledged = 0
        self._tell_ns = self._told_seq = 0
        """execd's report ids: journaled, and said so."""
        self._heard_ns = self._keep_alive_ns = 0
        self._words_ns = 0
        """When the word gave us the lead."""
        context.set_ready(True)

    def _head(self) -> codec.Head:
        return self.context.head(self._token)

    def _replayed(self) -> oms.Oms:
        bounds = oms.Bounds(
            self.settings.open_orders_max,
            self.settings.client_order_ids_max,
            self.settings.closed_orders_max,
            self.settings.executions_max,
        )
        return oms.replayed(
            self.group, self.settings.risk, bounds, (record.payload for record in self.journal.read())
        )

    def _replay(self) -> None:
        self.oms = self._replayed()

    # --- taking and losing the lead -------------------------------------------------------------------------

    def on_lease(self, lease: pages.Lease) -> None:
        token = self.context.lease.token()
        if token is None:
            self._stand_by()
        elif token != self.takeover.token:
            self._lead(token)

    def _lead(self, token: Token) -> None:
        if replica.term(token) <= self.journal.last_epoch:
            held = replica.token_of(self.journal.last_epoch, self.group)
            text = (
                f"epoch {token.incarnation}/{token.epoch} is not above the journal's "
                f"{held.incarnation}/{held.epoch}; it is not led"
            )
            self.context.alarm("stale_lease", "critical", text)
            return
        self.context.clear("stale_lease")
        now_ns = self._words_ns = time.monotonic_ns()
        self._token, self._term = codec.TokenOnWire.of(token), replica.term(token)
        for told in self.context.lease.fences().values():
            self.oms.learn_risk(told.token)
        self.receivers.hold()
        self.takeover.lead(token, self.oms.last_execution, now_ns)
        self._show()
        self.turn()

    def _again(self, why: str) -> None:
        """execd is new to us, or we to it: the same epoch, fenced and reconciled once more."""
        if self.takeover.leading:
            self.context.event("execution.lost", why=why, epoch=self._token.epoch if self._token else 0)
            self.receivers.hold()
            self.takeover.again(self.oms.last_execution, time.monotonic_ns())
            self._show()

    def _stand_by(self) -> None:
        led = self.takeover.leading
        self.takeover.stand_by()
        self.receivers.stand_by()
        self._sent_ns.clear()
        self._seen = self._acknowledged = 0
        self.replication.stand_by()
        self._show()
        if led:
            self.context.event("omsd.standby", epoch=self._token.epoch if self._token else 0)

    def _show(self) -> None:
        phase = self.takeover.phase
        self.context.lease.phase(
            phase, self._token.epoch if self._token and phase is not Phase.STANDBY else 0
        )

    def _take(self) -> None:
        """The fence stands. From here on this epoch writes: the lead itself is its first record, behind a
        hole (engine/replica.py).
        """
        takes = False
        if not self.takeover.taken:
            who = self.context.process
            attach = orders.Attach(
                *self._head(), codec.ProcessOnWire(who.instance, who.boot_id, who.pid, who.start_time)
            )
            takes = self.takeover.taken = self._write(
                attach, sequence=replica.first_of_term(self.journal.last_seq)
            )
        request = self.takeover.request
        self._send(orders.CancelAll(*self._head(), request))
        self._send(orders.OpenOrdersWanted(*self._head(), request + 1))
        self._send(orders.ExecutionsWanted(*self._head(), request + 2, self.takeover.after_execution))
        if takes:
            # While the venue answers: the standbys' list on disk and auditd's greeting keep nobody waiting.
            self.replication.lead()
            self.receivers.begin(time.monotonic_ns())

    def _complete(self) -> None:
        """The venue has told all it knows: what we still hold open never reached it, or ended unheard. Then
        new orders may come.
        """
        if self._full or not self.takeover.taken:
            return  # it is asked again, until there is room to write the answers down
        for known in list(self.oms.orders.values()):
            if not self._report(oms.ended(self._head(), known, State.CANCELLED, reasons.TAKE_OVER)):
                return
        self.takeover.complete()
        self._show()
        self.receivers.open()
        now_ns = time.monotonic_ns()
        took_us = (now_ns - self._words_ns) // 1000
        self.context.event("omsd.active", epoch=self._token.epoch if self._token else 0, took_us=took_us)

    # --- the journal ----------------------------------------------------------------------------------------

    def _write(
        self, message: oms.Journaled, payload: bytes | None = None, sequence: int | None = None
    ) -> bool:
        """Journal a message and take it; False when there is no room, and then nothing has changed."""
        try:
            self.journal.append(self._term, payload or codec.encode(message), sequence)
        except journals.JournalFull as exc:
            if not self._full:
                self._full = True
                self.context.alarm("journal_full", "critical", f"no new orders are taken: {exc}")
                self.context.event("journal.full", why=str(exc))
            return False
        return True

    def _look_for_room(self) -> None:
        standing = self._full or "journal_full" in self.context.alarms
        if standing and self.journal.recovered():
            self._full = False
            self.context.clear("journal_full")
            self.context.event("journal.room")
            if self.takeover.phase is Phase.ACTIVE:
                self._again("the journal was full; execd tells again what was not taken")

    # --- orders ---------------------------------------------------------------------------------------------

    def from_risk(self, frame: bytes) -> None:
        message = orders.decode_coming_back(frame)
        match message:
            case orders.Place():
                self._place(message)
                self.context.tick_passed(message.origin_ns)
            case orders.Cancel():
                self._cancel(message)
            case orders.Rehearsal():
                self._rehearse(message.place)
            case orders.Attached():
                self.receivers.risk.answered(message)
            case orders.Refusal(reason=reasons.NOT_ATTACHED) if self.takeover.phase is Phase.ACTIVE:
                self._tell_again(message.order_id)
            case orders.Refusal():
                self.context.count("refused_by_risk")
            case _:
                self.context.count("unexpected")

    def _objection(self, place: orders.Place) -> str:
        if self.takeover.phase is not Phase.ACTIVE or not self.context.lease.leads():
            return reasons.NOT_ACTIVE
        if self._full or self.journal.behind:
            return reasons.JOURNAL_FULL
        return self.oms.objection(place)

    def _place(self, place: orders.Place) -> None:
        reason = self._objection(place)
        if reason:
            self._refuse(place, reason)
            return
        replaced = self._to_replace(place) if place.replaces else None
        placed = oms.numbered(self._head(), self.group, place, self.journal.last_seq + 1, replaced)
        payload = codec.encode(placed)
        if not self._write(placed, payload):
            self._refuse(place, reasons.JOURNAL_FULL)
            return
        sent = self.execution.send(payload)  # what is journaled may leave; the books of it follow
        self.oms.apply(placed)
        self.context.count("orders")
        self._sent_ns[placed.order_id] = time.monotonic_ns()
        if replaced:
            self.context.count("cancels")
        if not sent:
            if replaced:
                self.oms.cancel_refused(replaced.order_id)
                self._refuse_cancel(orders.cancel_of(placed), reasons.NOT_CONNECTED)
            self._report(
                oms.ended(
                    self._head(), self.oms.orders[placed.order_id], State.REFUSED, reasons.NOT_CONNECTED
                )
            )

    def _rehearse(self, place: orders.Place) -> None:
        """Everything that an order costs here but the journal, and none of what it does."""
        self._objection(place)
        if self.takeover.phase is not Phase.ACTIVE:
            return
        self.context.count("rehearsals")
        head = self._head()
        self.execution.send(
            codec.encode(orders.Rehearsal(*head, oms.numbered(head, self.group, place, 0, None)))
        )

    def _refuse(self, place: orders.Place, reason: str) -> None:
        self.context.count("refused")
        if reason == reasons.STALE_TOKEN:
            self.context.count("stale_token_refusals")
        report = oms.refused(self._head(), place, reason)
        if self.takeover.phase is Phase.ACTIVE and not self._full:
            self._write(report)  # for the audit
        self.receivers.risk.tell(report)
        if place.replaces:
            self._cancel(orders.cancel_of(place))

    def _to_replace(self, place: orders.Place) -> order.Order | None:
        """The order that is cancelled first; None when there is none any more, which is said as to any
        cancel.
        """
        cancel = orders.cancel_of(place)
        known = self.oms.find(cancel)
        if known is not None and known.open:
            return known
        self._cancel(cancel)
        return None

    def _cancel(self, cancel: orders.Cancel) -> None:
        """Taking risk away passes while execd can be reached, whatever the word and the disk say."""
        known = self.oms.find(cancel) if self.takeover.leading else None
        if known is None or not known.open:
            code = (
                reasons.NOT_ACTIVE
                if not self.takeover.leading
                else reasons.UNKNOWN_ORDER
                if known is None
                else reasons.ORDER_CLOSED
            )
            self._refuse_cancel(cancel, code)
            return
        version, seq, sent_ns, source, token = self._head()
        wanted = msgspec.structs.replace(
            cancel,
            version=version,
            seq=seq,
            sent_ns=sent_ns,
            source=source,
            token=token,
            order_id=known.order_id,
            client_order_id=known.client_order_id,
        )
        payload = codec.encode(wanted)
        if self.takeover.taken and not self._full:
            self._write(wanted, payload)
        sent = self.execution.send(payload)
        self.oms.apply(wanted)
        self.context.count("cancels")
        if not sent:
            self.oms.cancel_refused(known.order_id)
            self._refuse_cancel(wanted, reasons.NOT_CONNECTED)

    def _refuse_cancel(self, cancel: orders.Cancel, reason: str) -> None:
        self.receivers.risk.tell(
            orders.Refusal(
                *self._head(), reason, reasons.text(reason), cancel.order_id, cancel.client_order_id
            )
        )

    def _tell_again(self, order_id: str) -> None:
        """riskd was restarted and had not known us: attach, then how the order stands."""
        self.receivers.risk.open(self._head())
        known = self.oms.orders.get(order_id) or self.oms.closed.get(order_id)
        if known is not None:
            self.receivers.risk.tell(oms.ended(self._head(), known, known.state, known.reason))

    # --- reports --------------------------------------------------------------------------------------------

    def from_execution(self, frame: bytes) -> None:
        message = orders.decode_coming_back(frame)
        self._heard_ns = time.monotonic_ns()
        if not self.takeover.leading:
            return
        match message:
            case orders.Report():
                if self.takeover.taken and self._report(message):
                    self._seen = max(self._seen, message.report_id)
            case orders.Fenced():
                self._fenced(message)
            case orders.Executions(request=request) if request == BACKFILL:
                self.receivers.positions.backfill(message.executions)
            case orders.CancelledAll() | orders.OpenOrders() | orders.Executions():
                self._reconciled(message)
            case orders.Attached(ok=False) if self.takeover.phase is Phase.ACTIVE:
                self._again("execd does not know us")
            case orders.Refusal():
                self._refused(message)
            case _:
                pass

    def _fenced(self, answer: orders.Fenced) -> None:
        if self.takeover.fenced(answer, time.monotonic_ns()) is Due.RECONCILE:
            self.context.clear("fence_refused")
            self._seen = self._acknowledged = 0  # execd may count anew
            self._show()
            self._take()
        elif self.takeover.phase is Phase.FENCING and not answer.ok and answer.reason not in LOST_TOUCH:
            self.context.alarm("fence_refused", "warning", answer.reason)

    def _reconciled(self, answer: orders.CancelledAll | orders.OpenOrders | orders.Executions) -> None:
        if isinstance(answer, orders.Executions):
            for report in answer.executions:
                if not self._report(report):
                    return
        due = self.takeover.answered(answer)
        if due is Due.MORE:
            self._send(
                orders.ExecutionsWanted(
                    *self._head(), self.takeover.request + 2, self.takeover.after_execution
                )
            )
        elif due is Due.COMPLETE:
            self._complete()

    def _report(self, report: orders.Report) -> bool:
        """Journal it, take it, tell everyone. False when it could not be journaled: it is not acknowledged
        and comes again.
        """
        if self._full:
            return False
        after = self.oms.judge(report)
        if after is None:
            return True  # sent again, and nothing new
        own = oms.with_head(report, self._head())
        if not self._write(own):
            return False
        self.oms.commit(after, own)
        left_ns = self._sent_ns.pop(report.order_id, None)
        if left_ns is not None:
            self.order_to_ack.record(time.monotonic_ns() - left_ns)
        if own.execution_id:
            self.context.count("fills")
        elif own.state is State.REJECTED:
            self.context.count("rejects")
        self.receivers.risk.tell(own)
        return True

    def _refused(self, refusal: orders.Refusal) -> None:
        """execd or the venue did not take a message of ours."""
        known = self.oms.orders.get(refusal.order_id)
        self.context.count("refused_by_execution")
        if known is not None and refusal.reason != reasons.DUPLICATE:
            if known.state is State.PENDING_NEW:
                self._report(oms.ended(self._head(), known, State.REFUSED, refusal.reason))
            elif refusal.reason == reasons.UNKNOWN_ORDER:
                self._report(oms.ended(self._head(), known, State.CANCELLED, refusal.reason))
            else:
                self.oms.cancel_refused(known.order_id)
                told = orders.Refusal(
                    *self._head(), refusal.reason, refusal.text, refusal.order_id, refusal.client_order_id
                )
                self.receivers.risk.tell(told)
        if refusal.reason in LOST_TOUCH and self.takeover.phase is Phase.ACTIVE:
            self._again(f"refused: {refusal.reason}")

    def _send(self, message: orders.TowardsVenue) -> bool:
        return self.execution.send(codec.encode(message))

    def _ask_executions(self, after: int) -> None:
        self._send(orders.ExecutionsWanted(*self._head(), BACKFILL, after))

    # --- time -----------------------------------------------------------------------------------------------

    def turn(self) -> int | None:
        """What is due now; returns the moment of the next thing, in monotonic ns, or None."""
        now_ns = time.monotonic_ns()
        if self.takeover.due(now_ns) is Due.FENCE:
            self._show()
            who = self.context.process
            self._send(
                orders.Fence(
                    *self._head(), codec.ProcessOnWire(who.instance, who.boot_id, who.pid, who.start_time)
                )
            )
        if self._tells_later(now_ns):
            return self._tell_ns
        if self._seen > self._acknowledged and self._send(orders.ReportsSeen(*self._head(), self._seen)):
            self._acknowledged = self._seen
        more = False
        if self.takeover.taken:
            self.receivers.flush(now_ns)
            more = self.replication.pump()
        else:
            self.replication.acknowledge()
        self.journal.sync_soon()
        return now_ns if more else self.takeover.due_ns

    def _tells_later(self, now_ns: int) -> bool:
        """Orders of one tick come in a burst: those behind must not wait while auditd, positiond and the
        standby are told of the first.
        """
        if self.takeover.phase is Phase.ACTIVE and self.journal.last_seq != self._told_seq:
            self._tell_ns = self._tell_ns or now_ns + TELL_AFTER_NS
            if now_ns < self._tell_ns:
                return True
        self._tell_ns, self._told_seq = 0, self.journal.last_seq
        return False

    def tick(self, now_ns: int) -> None:
        self.replication.tick(now_ns)
        if not self.takeover.leading or now_ns < self._keep_alive_ns:
            return
        self._keep_alive_ns = now_ns + int(self.settings.keep_alive_s * 1e9)
        who = self.context.process
        self._send(
            orders.Attach(
                *self._head(), codec.ProcessOnWire(who.instance, who.boot_id, who.pid, who.start_time)
            )
        )
        self.receivers.keep_alive()
        self.receivers.retry(now_ns)
        if (
            self.takeover.phase is Phase.ACTIVE
            and now_ns - self._heard_ns > self.settings.execution_silence_s * 1e9
        ):
            self._again("execd is silent")

    def each_second(self, _: int) -> None:
        self._look_for_room()
        self.receivers.audit.keep()
        self.journal.prune(
            self.settings.segments_max, self.receivers.audit.audited if self.takeover.leading else None
        )
        if self.journal.behind:
            self.context.alarm(
                "journal_behind",
                "warning",
                f"{self.journal.unsynced} records are not on the disk; no new orders are taken",
            )
        else:
            self.context.clear("journal_behind")
        if self.journal.sync_error and not self._full and self.takeover.leading:
            self._full = True
            self.context.alarm(
                "journal_full",
                "critical",
                f"no new orders are taken: the journal is not synced ({self.journal.sync_error})",
            )
        self.context.gauge("journal_unsynced", self.journal.unsynced)
        self.context.gauge("journal_seq", self.journal.last_seq)
        self.context.gauge("audited_seq", self.receivers.audit.audited)
        self.context.gauge("open_orders", len(self.oms.orders))
        if self.oms.illegal:
            self.context.counters["illegal_moves"] = self.oms.illegal

    def found_execution(self, _: list[control.Peer]) -> None:
        endpoint = self.context.endpoint(self.settings.execution, "orders")
        if endpoint != self.execution.endpoint:
            self.execution.connect(endpoint)
            if self.takeover.phase is Phase.ACTIVE:
                self._again("execd is another process")

    def order(self, args: dict[str, Any]) -> dict[str, str | int] | None:
        return self.oms.row(str(args.get("id", "")))

    def stop(self) -> None:
        self.receivers.audit.keep()
        self.journal.close()


def build(context: runtime.Context, settings: OrdersSettings) -> runtime.Loop:
    omsd = Omsd(context, settings)
    receivers, replication = omsd.receivers, omsd.replication
    loop = runtime.Loop(context)

    def flush() -> None:
        due_ns = omsd.turn()
        if due_ns is not None:
            loop.wake_at(due_ns)

    loop.on_lease(omsd.on_lease)
    loop.on_peers(settings.execution, omsd.found_execution)
    for link in (receivers.risk, receivers.positions, receivers.audit):
        loop.on_peers(link.service, link.found)
    loop.on_peers(context.service, lambda _: replication.find())
    # Reports before new orders: an order is judged by the newest of what has arrived.
    loop.on(omsd.execution.socket, omsd.from_execution)
    loop.on(receivers.risk.dealer.socket, omsd.from_risk)
    loop.on(
        receivers.positions.dealer.socket, lambda frame: receivers.from_positions(frame, time.monotonic_ns())
    )
    loop.on(receivers.audit.dealer.socket, lambda frame: receivers.from_audit(frame, time.monotonic_ns()))
    loop.on_router(replication.router.socket, replication.on_standby)
    loop.on(replication.dealer.socket, replication.on_leader)
    loop.before_wait(flush)
    loop.every(TICK_S, omsd.tick)
    loop.every(1.0, omsd.each_second)
    loop.on_ask("orders", lambda _: omsd.oms.rows())
    loop.on_ask("order", omsd.order)
    loop.on_stop(omsd.stop)
    return loop
