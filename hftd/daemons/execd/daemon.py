"""execd: the last hop we own. Orders of the fenced order manager go to the venue, reports come back and are
kept until they are acknowledged.

Wiring, our own lead, and fences. What order managers send: desk.py; the link to the venue: venue.py. Who may
send, and the fences before that: engine/orders/gateway.py; what a fence is: storage/fences.py. When no valid
order manager has been heard for `orphan_s`, everything is cancelled at the venue, once.
"""

from __future__ import annotations

import time

from controlplane.errors import InvalidInput
from controlplane.model import Phase
from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.claim_check import ClaimCheck
from hftd.daemons.execd.attempts import Attempts
from hftd.daemons.execd.desk import Desk
from hftd.daemons.execd.venue import Venue
from hftd.engine import reasons
from hftd.engine.orders import approvals, gateway, ids
from hftd.engine.orders.gateway import VenueFence
from hftd.settings import ExecutionSettings
from hftd.shm import pages
from hftd.shm.pages import Wanted
from hftd.storage import fences
from hftd.wire import codec, control, orders

TICK_S = 0.02
"""How often time-outs are looked at."""


class Execd:
    def __init__(self, context: runtime.Context, settings: ExecutionSettings) -> None:
        self.context, self.settings = context, settings
        self.fences = fences.Fences(
            context.data_dir / "fences.json",
            context.store_tokens.highest,
            fence_keeping.in_background(context, self._fences_written),
        )
        self.gateway = gateway.Gateway(self.fences)
        self.reports = gateway.Reports(settings.reports_max)
        self.questions = gateway.Questions()
        self.orphans = gateway.Orphans(int(settings.orphan_s * 1e9), time.monotonic_ns())
        self.orders = bus.link.Router(context.bind("orders"))
        self.venue = Venue(context, settings, self.gateway)
        self.claims = ClaimCheck(context)
        self.attempts = Attempts(context)
        self.desk = Desk(
            context,
            self.orders,
            self.gateway,
            self.venue,
            self.questions,
            self.orphans,
            approvals.Approvals(approvals.Macs(context.key(approvals.PURPOSE))),
            self.attempts,
        )
        self._retry_ns = 0
        self._unheld = False
        """A fence could not be written when the lead was taken: try again."""
        context.set_ready(True)

    def configure(self, settings: ExecutionSettings) -> None:
        self.settings = settings
        self.venue.configure(settings)
        self.reports.kept_max = settings.reports_max
        self.orphans.after_ns = int(settings.orphan_s * 1e9)
        self._retry_ns = min(self._retry_ns, time.monotonic_ns() + int(settings.fence_retry_s * 1e9))

    def _head(self, token: codec.TokenOnWire | None = None) -> codec.Head:
        return self.context.head(token or self.gateway.on_wire)

    # --- own leadership -------------------------------------------------------------------------------------

    def on_lease(self, lease: pages.LeaseWord) -> None:
        token = self.context.lease.token()
        if lease.wanted is not Wanted.LEAD or token is None:
            self.gateway.stand_by()
            self._show()
        elif token != self.gateway.token or self.gateway.phase is Phase.STANDBY:
            self._lead()

    def _lead(self) -> None:
        """Hold the client groups' fences as they were after our own take (R11), then fence the venue."""
        token = self.context.lease.token()
        if token is None:
            return
        told = self.context.lease.fences().get(self.settings.orders)
        clients = (
            [VenueFence(told.token, told.leader or fences.NOBODY)]
            if told is not None and told.token.epoch
            else []
        )
        self._unheld = not self.gateway.lead(token, self.context.process, clients)
        if self._unheld and any(self.fences.being_written(each.token.group) for each in clients):
            return
        if self._unheld:
            self.context.alarm(
                "floor_not_written",
                "critical",
                "no order is taken: the fence of a client group cannot be written to disk",
            )
            return
        self.context.clear("floor_not_written")
        self.orphans.heard(time.monotonic_ns())
        self._show()
        self._fence_venue()

    def _fences_written(self) -> None:
        """The disk has ended a write: go on with what waited for it."""
        if self._unheld:
            self._lead()
        for identity, claim, objection in self.gateway.written():
            if objection:
                self._fenced(identity, claim.token.group, claim.token.epoch, objection)
            else:
                self._client_fenced(identity, claim)

    def _fence_venue(self) -> None:
        self._retry_ns = time.monotonic_ns() + int(self.settings.fence_retry_s * 1e9)
        for claim in self.gateway.outstanding():
            self.venue.fence(claim)

    def _show(self) -> None:
        phase, lease = self.gateway.phase, self.context.lease
        epoch = self.gateway.token.epoch if self.gateway.token and phase is not Phase.STANDBY else 0
        if (phase, epoch) != (lease.current_phase, lease.epoch):
            lease.phase(phase, epoch)
            self.context.event(f"execd.{phase.name.lower()}", epoch=epoch)

    # --- from order managers --------------------------------------------------------------------------------

    def on_order(self, identity: bytes, frame: bytes) -> None:
        message = orders.decode_towards_execution(frame)
        match message:
            case orders.Place():
                self.desk.place(identity, message)
            case orders.Cancel():
                self.desk.cancel(identity, message)
            case orders.Rehearsal():
                self.desk.rehearse(identity, message.place)
            case orders.ReportsSeen():
                self._seen(identity, message)
            case orders.Attach():
                self._attach(identity, message)
            case orders.Fence():
                self._fence(identity, message)
            case orders.CancelAll() | orders.OpenOrdersWanted() | orders.ExecutionsWanted():
                self.desk.ask(identity, message)
            case _:
                self.context.count("unexpected")

    def _seen(self, identity: bytes, seen: orders.ReportsSeen) -> None:
        if seen.token is None or not self.gateway.speaks_for(identity, seen.token):
            self.desk.foreign(identity, seen.token)
            return
        self.orphans.heard(time.monotonic_ns())
        self.reports.seen(seen.token.group, seen.up_to)

    def _attach(self, identity: bytes, attach: orders.Attach) -> None:
        """The order manager's keep-alive; the answer says whether it is the one that is fenced here."""
        objection = reasons.NOT_FENCED
        if not self.claims.authentic(identity, attach):
            objection = reasons.FORGED_CLAIM
        elif self.gateway.phase is Phase.ACTIVE and self.gateway.speaks_for(identity, attach.token):
            self.orphans.heard(time.monotonic_ns())
            objection = ""
        else:
            self.desk.foreign(identity, attach.token)
        answer = orders.Attached(*self._head(), not objection, objection, self.reports.last_id)
        self.orders.send(identity, codec.encode(answer))

    def _fence(self, identity: bytes, fence: orders.Fence) -> None:
        """Raise the client's fence at the venue and here, both on disk, then answer (R10). The two disks work
        side by side: from this turn on nothing of a lower token leaves, because this handler runs to its end
        before the next message is read.
        """
        if fence.token is None:
            self._fenced(identity, "", 0, "Fence without a token")
            return
        if not self.claims.authentic(identity, fence):
            self._fenced(identity, fence.token.group, fence.token.epoch, reasons.FORGED_CLAIM)
            return
        claim = VenueFence(fence.token.token(), fence.claimant.process())
        objection = (
            reasons.NOT_ACTIVE if not self.context.lease.leads() else self.gateway.fence(identity, claim)
        )
        if not objection and not self.venue.fence(claim):
            objection = reasons.NOT_CONNECTED
        if not objection:
            objection = self.gateway.hold(claim)
        if not objection or objection == reasons.BEING_WRITTEN:
            return  # the venue's acknowledgement answers it, or the disk's
        if objection == reasons.WRONG_LINK:
            self.attempts.refused(objection)
        elif self.gateway.phase is Phase.ACTIVE and objection not in (
            reasons.NOT_ACTIVE,
            reasons.NOT_CONNECTED,
        ):
            self.context.count(self.fences.refusal_counter(claim.token))
        waits = bool(objection) and self.fences.waits(claim.token)
        self._fenced(identity, claim.token.group, claim.token.epoch, objection, waits)

    def _fenced(self, identity: bytes, group: str, epoch: int, objection: str, waits: bool = False) -> None:
        answer = orders.Fenced(*self._head(), group, epoch, not objection, objection, waits)
        self.orders.send(identity, codec.encode(answer))

    # --- from the venue -------------------------------------------------------------------------------------

    def on_venue(self, frame: bytes) -> None:
        message = orders.decode_coming_back(frame)
        self.venue.heard()
        match message:
            case orders.Report():
                self.venue.awaited.answered(message.order_id, time.monotonic_ns())
                self._report(message)
            case orders.Fenced():
                self._venue_fenced(message)
            case orders.CancelledAll() | orders.OpenOrders() | orders.Executions():
                self._answer(message)
            case orders.Refusal():
                self.venue.awaited.answered(message.order_id, time.monotonic_ns())
                link = self.gateway.links.get(ids.group_of(message.order_id))
                if message.reason == reasons.STALE_TOKEN:
                    self.context.count("venue_stale_token_refusals")
                if link is not None:
                    self.pump()  # what the venue said before comes first
                    self.orders.send(link, frame)
            case _:
                self.context.count("unexpected")

    def _report(self, report: orders.Report) -> None:
        """Keep it for the order manager that it is for. One that is for none would stay for ever."""
        group = ids.group_of(report.order_id)
        if group != self.settings.orders and self.fences.highest(group) is None:
            raise InvalidInput(
                f"report of order {report.order_id[: codec.NAME_MAX]!r}, which no order manager has made"
            )
        self.reports.add(group, report)

    def _venue_fenced(self, answer: orders.Fenced) -> None:
        before = self.gateway.phase
        told = self.gateway.venue_fenced(answer)
        if self.gateway.phase is not before:
            self._show()
            self._retry_ns = 0  # a venue that is new is fenced at the next tick
        if before is Phase.ACTIVE and self.gateway.phase is Phase.FENCING:
            self.venue.awaited.another_process(time.monotonic_ns())  # it was restarted, under its old name
        if self.gateway.refusal:
            self.context.alarm(
                "venue_refuses_fence",
                "critical",
                f"no orders are taken: {self.settings.venue} refuses our token ({self.gateway.refusal})",
                subject=self.settings.venue,
            )
        else:
            self.context.clear("venue_refuses_fence")
        if told is None:
            return
        identity, claim = told
        if answer.ok:
            self._client_fenced(identity, claim)
            return
        reason = answer.reason or "the venue refused"
        self.orphans.heard(time.monotonic_ns())
        self._fenced(identity, claim.token.group, claim.token.epoch, reason, answer.waits)

    def _client_fenced(self, identity: bytes, claim: VenueFence) -> None:
        """The venue and our disk have it: the order manager may begin, and gets what it has not seen."""
        self.orphans.heard(time.monotonic_ns())
        self._fenced(identity, claim.token.group, claim.token.epoch, "")
        self.reports.again(claim.token.group)
        self.context.event(
            "omsd.fenced",
            instance=claim.claimant.instance,
            epoch=claim.token.epoch,
            reports=len(self.reports),
        )
        self.pump()

    def _answer(self, message: orders.CancelledAll | orders.OpenOrders | orders.Executions) -> None:
        asked = self.questions.answered(message.request)
        if asked is None or not asked[0]:
            return
        self.pump()  # the reports of the cancelled orders come before CancelledAll
        self.orders.send(asked[0], codec.encode(codec.replace(message, request=asked[1])))

    def pump(self) -> None:
        self.reports.pump(self._send_report)

    def _send_report(self, group: str, report: orders.Report) -> bool:
        link = self.gateway.links.get(group)
        return link is not None and self.orders.send(link, codec.encode(report))

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        self.venue.awaited.tick(now_ns)
        if self._unheld:
            self._lead()
        if not self._unheld and now_ns >= self._retry_ns and self.gateway.phase is Phase.FENCING:
            self._fence_venue()
        if self.gateway.phase is not Phase.ACTIVE or self.gateway.token is None:
            return
        self.venue.keep_alive(now_ns)
        if self.orphans.due(now_ns) and self.context.lease.leads():
            self._cancel_orphans()

    def _cancel_orphans(self) -> None:
        number = self.questions.ask(b"", 0)
        # No order manager's token: at the venue our own decides.
        if self.venue.send(orders.CancelAll(*self.context.head(), number)):
            self.orphans.fired = True
            self.context.event("orders.orphaned", orphan_s=self.settings.orphan_s)

    def each_second(self, now_ns: int) -> None:
        self.attempts.each_second(now_ns)
        self.context.gauge("reports_unacknowledged", len(self.reports))
        if self.reports.lost:
            self.context.counters["reports_lost"] = self.reports.lost

    def found_venue(self, _: list[control.Peer]) -> None:
        self.venue.found()
        self._retry_ns = 0


def build(context: runtime.Context, settings: ExecutionSettings) -> runtime.Loop:
    execd = Execd(context, settings)
    loop = runtime.Loop(context)
    loop.on_settings(execd.configure)
    loop.on_lease(execd.on_lease)
    loop.on_peers(settings.venue, execd.found_venue)
    # The venue first: what it says of sent orders is passed on before new ones go.
    loop.on(execd.venue.dealer.socket, execd.on_venue)
    loop.on_router(execd.orders.socket, execd.on_order)
    loop.before_wait(execd.pump)
    loop.every(TICK_S, execd.tick)
    fence_keeping.keep(loop, context, execd.fences, execd.claims)
    loop.every(1.0, execd.each_second)
    return loop
