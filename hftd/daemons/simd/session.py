"""The venue's order desk: who may give orders (fencing tokens), what is journaled before it is said, and
saying it until it is taken.

One gateway (execd) at a time: the sender of the last message whose gateway token passes. Reports and answers
to it leave in one queue, in order; each is on the journal first, and is kept until ZeroMQ takes it, so that a
gateway that is away for a moment misses nothing. Orders need two tokens that were fenced here (rules R10,
R11): the order manager's and the gateway's. A cancel takes risk away and passes unless the order is of a
newer epoch. What an order does: venues/sim.py. How it is kept: journal.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hftd.engine import reasons
from hftd.engine.orders import answers
from hftd.storage import fences as fencing
from hftd.storage.journal import JournalFull
from hftd.venues import sim
from hftd.wire import codec, orders

RECEIVED_MAX = 200_000
"""Client order ids that are remembered, to see one that comes twice: an hour at 50 orders a second."""
OUTBOX_MAX = 20_000
"""Unsent messages to the gateway; from here on only cancels are taken: who does not read cannot be told that
it was refused, either. Fills of the orders that work still fit: they are bounded (matching.ORDERS_MAX)."""
EXECUTIONS_IN_ANSWER_MAX = 2_000
"""Keeps the answer below codec.FRAME_BYTES_MAX; who gets this many asks again from the last one."""

Token = codec.TokenOnWire | None


class Keeps(Protocol):
    """journal.VenueJournal, or a test's list."""

    def append(self, record: orders.Place | orders.Report) -> None: ...
    def has_room(self) -> bool: ...
    def executions_after(self, execution_id: int, limit: int) -> list[orders.Report]: ...


class Session:
    def __init__(
        self,
        venue: sim.Venue,
        journal: Keeps,
        fences: fencing.Fences,
        send: Callable[[bytes, bytes], bool],
        authentic: Callable[[bytes, orders.Fence], bool],
        *,
        source: str,
        gateway: bytes = b"",
        on_gateway: Callable[[bytes], None] = lambda _: None,
        count: Callable[[str], None] = lambda _: None,
        number: int = 0,
    ) -> None:
        """`send(identity, frame)` is False when it was not taken; `authentic(identity, fence)`: was it made
        by one of the site for this link (claim_check.py)? `gateway` is who had the orders before this process
        began. `number` tells this process from the venue's others.
        """
        self._number = number
        self._authentic = authentic
        self._venue, self._journal, self._fences, self._send = venue, journal, fences, send
        self._source, self._gateway, self._on_gateway, self._count = source, gateway, on_gateway, count
        self._outbox: deque[bytes] = deque()
        self._received: dict[str, None] = {}
        """The newest client order ids, in the order they came."""
        self.full = ""
        """Why the journal cannot be written now; "" when it can."""

    def handle(self, identity: bytes, message: orders.TowardsVenue) -> None:
        if len(self._outbox) >= OUTBOX_MAX and not isinstance(
            message, orders.Cancel | orders.CancelAll | orders.Fence
        ):
            self._count("not_taken")
            if not (isinstance(message, orders.Place) and message.replaced_id):
                return
            message = orders.cancel_of(message)
        match message:
            case orders.Place():
                self._place(identity, message)
            case orders.Cancel():
                self._cancel(identity, message)
            case orders.CancelAll():
                self._cancel_all(identity, message)
            case orders.Fence():
                self._fence(identity, message)
            case orders.OpenOrdersWanted():
                self._serve(identity, message.gateway)
                self._answer(
                    identity, orders.OpenOrders(*self._head(), message.request, self._venue.open_orders())
                )
            case orders.ExecutionsWanted():
                self._serve(identity, message.gateway)
                found = self._journal.executions_after(message.after_execution, EXECUTIONS_IN_ANSWER_MAX)
                self._answer(identity, orders.Executions(*self._head(), message.request, found))
            case orders.AccountsWanted():
                kept, last = self._venue.open_accounts(), self._venue.last_execution
                self._answer(identity, orders.Accounts(*self._head(), message.request, kept, last))
            case _:
                self._count("unexpected")
        self.pump()

    def pump(self) -> None:
        """Journal what has become true, then send what is journaled; what does not go now goes at the next
        turn.
        """
        self._write()
        while self._outbox and self._gateway and self._send(self._gateway, self._outbox[0]):
            self._outbox.popleft()

    def recover(self) -> None:
        """Once a second: a journal that was full may have room again."""
        if self.full and self._journal.has_room():
            self.full = ""
            self.pump()

    @property
    def unsent(self) -> int:
        return len(self._outbox)

    # --- who may --------------------------------------------------------------------------------------------

    def _fence(self, identity: bytes, fence: orders.Fence) -> None:
        token, gateway, process = fence.token, fence.gateway, fence.claimant.process()
        if token is None:
            self._answer(identity, orders.Fenced(*self._head(), "", 0, False, "Fence without a token"))
            return
        if not self._authentic(identity, fence):
            refused = orders.Fenced(*self._head(), token.group, token.epoch, False, reasons.FORGED_CLAIM)
            self._answer(identity, refused)
            return
        if gateway is not None and gateway.group != token.group and (unfit := self._unfit(gateway)):
            ok, waits = False, self._fences.waits(gateway)
            reason = f"gateway {gateway.group} {gateway.incarnation}/{gateway.epoch}: {reasons.text(unfit)}"
        else:
            ok = self._fences.admit(token, process)
            waits = not ok and self._fences.waits(token)
            reason = "" if ok else self._fences.objection(token, process)
        counter = self._fences.refusal_counter(token)
        if ok:
            self._take_gateway(identity)
        elif self._fences.stale(token) or counter != "stale_token_refusals":
            self._count(counter)
        self._answer(
            identity, orders.Fenced(*self._head(), token.group, token.epoch, ok, reason, waits, self._number)
        )

    def _unfit(self, token: Token) -> str:
        """ "" when the token is the one that its group was fenced with last, else why it does not pass."""
        if not self._fences.refuses(token):
            return ""
        return reasons.STALE_TOKEN if token is not None and self._fences.stale(token) else reasons.NOT_FENCED

    def _serve(self, identity: bytes, gateway: Token) -> None:
        if gateway is not None and not self._fences.refuses(gateway):
            self._take_gateway(identity)

    def _take_gateway(self, identity: bytes) -> None:
        if identity != self._gateway:
            self._gateway = identity
            self._on_gateway(identity)

    def _refuse(self, identity: bytes, message: orders.Place | orders.Cancel, reason: str) -> None:
        if reason == reasons.STALE_TOKEN:
            self._count("stale_token_refusals")
        self._count("refusals")
        self._answer(identity, answers.refusal(self._head(), message, reason))

    # --- orders ---------------------------------------------------------------------------------------------

    def _seen(self, client_order_id: str) -> None:
        """No order is ever sent twice, whatever was lost on the way: one that is, is counted here."""
        if client_order_id in self._received:
            self._count("client_order_ids_twice")
        self._received[client_order_id] = None
        if len(self._received) > RECEIVED_MAX:
            del self._received[next(iter(self._received))]

    def _place(self, identity: bytes, place: orders.Place) -> None:
        self._seen(place.client_order_id)
        if place.replaced_id:
            self._cancel(identity, orders.cancel_of(place))
        unfit = self._unfit(place.gateway) or self._unfit(place.token)
        if (
            not unfit
            and place.token is not None
            and place.gateway is not None
            and place.token.group == place.gateway.group
        ):
            unfit = reasons.NOT_FENCED  # one group cannot vouch for both
        if unfit:
            self._refuse(identity, place, unfit)
            return
        self._take_gateway(identity)
        self._count("orders")
        if self._venue.knows(place.order_id):
            # A refusal, not a report: a report that says REJECTED would be taken for the end of the order
            # that works under this id.
            self._refuse(identity, place, reasons.DUPLICATE)
        elif self.full:
            self._refuse(identity, place, reasons.JOURNAL_FULL)
        else:
            self._venue.place(place)

    def _cancel(self, identity: bytes, cancel: orders.Cancel) -> None:
        self._serve(identity, cancel.gateway)
        place, ended = self._venue.working.get(cancel.order_id), self._venue.last_words(cancel.order_id)
        if place is not None and _newer(place, cancel):
            self._refuse(identity, cancel, reasons.STALE_TOKEN)
        elif self._venue.cancel(cancel.order_id):
            pass
        elif ended is not None:
            self._answer(identity, ended)  # it had been said, and may have been lost on the way
        else:
            self._refuse(identity, cancel, reasons.UNKNOWN_ORDER)

    def _cancel_all(self, identity: bytes, wanted: orders.CancelAll) -> None:
        self._serve(identity, wanted.gateway)
        reason = reasons.ORPHANED if wanted.token is None else reasons.TAKE_OVER
        cancelled = self._venue.cancel_all(reason, only=lambda place: not _newer(place, wanted))
        self._answer(identity, orders.CancelledAll(*self._head(), wanted.request, cancelled))

    # --- saying it ------------------------------------------------------------------------------------------

    def _head(self) -> codec.Head:
        return codec.head(self._source, time.time_ns())

    def _answer(self, identity: bytes, message: orders.ComingBack) -> None:
        """To the gateway behind the reports that came before it; to any other at once, or not at all."""
        self._write()
        frame = codec.encode(message)
        if identity == self._gateway:
            self._outbox.append(frame)
        elif not self._send(identity, frame):
            self._count("unsent")

    def _write(self) -> None:
        told = self._venue.told
        while told and not self.full:
            record, keep, tell = told[0]
            if keep:
                try:
                    self._journal.append(record)
                except JournalFull as exc:
                    self.full = str(exc)
                    return
            told.popleft()
            if tell and isinstance(record, orders.Report):
                self._outbox.append(codec.encode(record))
                self._counted(record)

    def _counted(self, report: orders.Report) -> None:
        match report.state:
            case orders.OrderState.REJECTED:
                self._count("rejects")
            case orders.OrderState.CANCELLED:
                self._count("cancels")
        if report.execution_id:
            self._count("fills")


def _newer(place: orders.Place, asked: orders.Cancel | orders.CancelAll) -> bool:
    """Is the order of a newer epoch than who asks to cancel it? Without the order manager's token the
    gateway's decides, without both: no.
    """
    for mine, theirs in ((place.token, asked.token), (place.gateway, asked.gateway)):
        if mine is not None and theirs is not None:
            return mine.group == theirs.group and (mine.incarnation, mine.epoch) > (
                theirs.incarnation,
                theirs.epoch,
            )
    return False
