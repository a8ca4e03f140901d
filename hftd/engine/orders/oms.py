"""Order management without sockets: all orders of one group, rebuilt from its journal, and how to answer
each new request.

Pure, and the same code live, after a restart and on a standby: `apply` takes the messages of the journal in
their order, and nothing else changes an order. A report is judged first (`judge`: is it news, and what does
it make of the order), then journaled, then applied: what was not journaled was not taken. Each order's own
state machine is engine/orders/order.py; taking the lead is engine/orders/takeover.py; who joins it to sockets
and journal is daemons/omsd.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sized

import msgspec

from hftd.engine import fixed, reasons
from hftd.engine.orders import answers, ids, order, term
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState

Journaled = orders.Place | orders.Cancel | orders.Report | orders.Attach
"""What a record holds: a message as it was sent. Attach stands for a lead that was taken."""

decode_journaled: codec.Decoder[Journaled] = codec.Decoder(Journaled)

EPOCHS_KEPT = 1_000
"""Of which the highest order is known; orders of those before them have ended."""
GONE_AT_ONCE = 16
"""A bound that is lowered by thousands must not hold up an order."""
ORDERS_SHOWN = 200
"""Ended orders in the answer to "orders", beside all that work."""


class Bounds(msgspec.Struct, frozen=True):
    """May change while it runs: what is too much then goes a few at a time, as others come."""

    open_orders_max: int
    client_order_ids_max: int
    """The newest ids, which are refused when they come again."""
    closed_orders_max: int
    """Ended orders in memory, for reports that come late and for operators who ask."""
    executions_max: int
    """Executions in memory; positiond asks for what it missed."""


Believes = Callable[[codec.AnyToken], bool]
"""Can the store have given this token of riskd's out by now?"""


class Oms:
    def __init__(self, group: str, risk: str, bounds: Bounds, believes: Believes) -> None:
        self.group, self._risk, self.bounds, self._believes = group, risk, bounds, believes
        self.orders: dict[str, order.Order] = {}
        """Those that have not ended, by order id."""
        self.closed: OrderedDict[str, order.Order] = OrderedDict()
        self._highest: dict[int, int] = {}
        """Epoch -> sequence in the id of its highest order that was placed or has been forgotten: one up to
        there that is not in memory has ended."""
        self._epochs_ended = 0
        """No order of an epoch up to this one is open that is not in memory."""
        self.executions: deque[orders.Report] = deque()
        self._execution_ids: set[int] = set()
        self._executions_gone = False
        """Those below the oldest in memory are not all there."""
        self.last_execution = 0
        self.late_executions = 0
        """Executions that came behind one with a higher id."""
        self._client_ids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._risk_rank = (0, 0)
        self.illegal = 0
        """Reports that no legal move explains; the executions in them count all the same."""

    def __repr__(self) -> str:
        return (
            f"<Oms {self.group}: {len(self.orders)} open, {len(self.closed)} ended, last execution "
            f"{self.last_execution}>"
        )

    # --- new requests ---------------------------------------------------------------------------------------

    def learn_risk(self, token: codec.AnyToken) -> None:
        """riskd's token, from wherever it is known: an approval below the highest is refused."""
        if token.group == self._risk:
            self._risk_rank = max(self._risk_rank, (token.incarnation, token.epoch))

    def objection(self, place: orders.Place) -> str:
        """Why this order is refused (a code of reasons.py); empty when it may be taken."""
        return self._unapproved(place.approval) or self._unfit(place)

    def rehearse(self, place: orders.Place) -> None:
        """Run what judges an order and drop what it says; nothing is learned or counted (ADR 0025)."""
        self._unapproved(place.approval)
        self._unfit(place)

    def _unapproved(self, approval: orders.Approval | None) -> str:
        """Why riskd's signature does not hold; a newer token of riskd is learned from one that does."""
        if approval is None or approval.id <= 0 or approval.token.group != self._risk:
            return reasons.NO_APPROVAL
        rank = (approval.token.incarnation, approval.token.epoch)
        if rank < self._risk_rank:
            return reasons.STALE_TOKEN
        if rank != self._risk_rank:
            # Believed unseen, one made-up token would make every later approval of riskd's stale.
            if not self._believes(approval.token):
                return reasons.NO_APPROVAL
            self._risk_rank = rank
        return ""

    def _unfit(self, place: orders.Place) -> str:
        if place.price <= 0 or place.quantity <= 0:
            return reasons.NOT_POSITIVE
        if (place.strategy, place.client_order_id) in self._client_ids:
            return reasons.DUPLICATE
        if len(self.orders) >= self.bounds.open_orders_max:
            return reasons.TOO_MANY_ORDERS
        return ""

    def find(self, cancel: orders.Cancel) -> order.Order | None:
        """The order that a cancel means, by our id or by the strategy's; None when it is not known."""
        order_id = cancel.order_id or self._client_ids.get((cancel.strategy, cancel.client_order_id), "")
        return self.orders.get(order_id) or self.closed.get(order_id)

    # --- what happened --------------------------------------------------------------------------------------

    def contradiction(self, report: orders.Report) -> str:
        """How it names another instrument or side than its order has; "" when it does not."""
        known = self.orders.get(report.order_id) or self.closed.get(report.order_id)
        if known is None:
            return ""
        found, ours = (f"{each.side.name} of {each.market}:{each.symbol}" for each in (report, known))
        return "" if found == ours else f"report of order {known.order_id}: {found}, the order is {ours}"

    def judge(self, report: orders.Report) -> order.Order | None:
        """What the report makes of its order, as a new Order; None when it tells nothing new (it was sent
        again).
        """
        known = self.orders.get(report.order_id) or self.closed.get(report.order_id)
        fill = report.execution_id != 0 and report.execution_id not in self._execution_ids
        if known is None and not self._forgotten(report.order_id):
            return _of_report(report)
        if known is None:
            return _late_fill(report) if fill else None
        after = dataclasses.replace(known)
        try:
            if after.reported(report.state, report.filled, report.reason) or fill:
                return after
            # Not journaled, as it moves nothing: after a restart the take-over asks the venue anyway.
            known.answered = after.answered
            return None
        except order.IllegalMove:
            self.illegal += 1
            if not fill:
                return None
            # A fill after the end that we had assumed (a take-over): it happened, and positions need it.
            after.filled = max(after.filled, min(report.filled, after.quantity))
            return after

    def apply(self, message: Journaled) -> None:
        """Take one journaled message, live or from the journal."""
        match message:
            case orders.Place():
                self._place(message)
            case orders.Cancel():
                known = self.orders.get(message.order_id)
                if known is not None and known.cancel_wanted():
                    known.updated_ns = message.sent_ns
            case orders.Report():
                if message.order_id and (after := self.judge(message)) is not None:
                    self.commit(after, message)
            case orders.Attach():
                pass

    def commit(self, after: order.Order, report: orders.Report) -> None:
        """Take what `judge` returned for a report that is journaled now."""
        after.created_ns, after.updated_ns = after.created_ns or report.sent_ns, report.sent_ns
        if after.open:
            self.orders[after.order_id] = after
            self._client_ids.setdefault((after.strategy, after.client_order_id), after.order_id)
        else:
            self.orders.pop(after.order_id, None)
            self.closed[after.order_id] = after
            for _ in range(_over(self.closed, self.bounds.closed_orders_max)):
                self._ended_up_to(self.closed.popitem(last=False)[0])
        if report.execution_id and report.execution_id not in self._execution_ids:
            self._remember(report)

    def _ended_up_to(self, order_id: str) -> None:
        """This order is in memory, or was: one of its epoch that is not, and is not above it, has ended."""
        id = ids.parse(order_id)
        if id is None or id.group != self.group:
            return
        highest = self._highest
        if id.epoch not in highest and len(highest) >= EPOCHS_KEPT:
            oldest = min(highest)
            del highest[oldest]
            self._epochs_ended = max(self._epochs_ended, oldest)
        highest[id.epoch] = max(highest.get(id.epoch, 0), id.sequence)

    def _forgotten(self, order_id: str) -> bool:
        """Has an order that is not in memory been there, and ended? An order above the highest of its epoch
        was a dead leader's, which had not replicated it.
        """
        id = ids.parse(order_id)
        if id is None or id.group != self.group:
            return False
        return id.epoch <= self._epochs_ended or id.sequence <= self._highest.get(id.epoch, 0)

    def _remember(self, report: orders.Report) -> None:
        """Keep an execution, rising; one that comes late (the venue's answer at a take-over) goes where it
        belongs.
        """
        kept = self.executions
        at = len(kept)
        while at and kept[at - 1].execution_id > report.execution_id:
            at -= 1
        self.late_executions += at < len(kept)
        kept.insert(at, report)
        self._execution_ids.add(report.execution_id)
        for _ in range(_over(kept, self.bounds.executions_max)):
            self._execution_ids.discard(kept.popleft().execution_id)
            self._executions_gone = True
        self.last_execution = kept[-1].execution_id

    def cancel_refused(self, order_id: str) -> None:
        """The venue did not cancel, or never heard of it. Not journaled: after a restart the take-over
        cancels it anyway.
        """
        known = self.orders.get(order_id)
        if known is not None and known.state is OrderState.PENDING_CANCEL:
            known.cancel_refused()

    def _place(self, place: orders.Place) -> None:
        replaced = self.orders.get(place.replaced_id)
        if replaced is not None and replaced.cancel_wanted():
            replaced.updated_ns = place.sent_ns
        epoch = place.token.epoch if place.token else 0
        self.orders[place.order_id] = order.Order.of(place, place.order_id, epoch)
        self._ended_up_to(place.order_id)
        self._client_ids[place.strategy, place.client_order_id] = place.order_id
        for _ in range(_over(self._client_ids, self.bounds.client_order_ids_max)):
            self._client_ids.popitem(last=False)
        if place.approval is not None:
            self.learn_risk(place.approval.token)

    def knows(self, execution_id: int) -> bool:
        """Among those in memory."""
        return execution_id in self._execution_ids

    def executions_after(self, execution_id: int) -> list[orders.Report] | None:
        """Those above `execution_id`, rising; None when some of them are no longer in memory (the venue has
        them all).
        """
        if self._executions_gone and execution_id < self.executions[0].execution_id:
            return None
        found: list[orders.Report] = []
        for report in reversed(self.executions):
            if report.execution_id <= execution_id:
                break
            found.append(report)
        found.reverse()
        return found

    # --- asked by people ------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, str | int]]:
        """Every order that has not ended, and the newest that have."""
        return [row(each) for each in (*self.orders.values(), *list(self.closed.values())[-ORDERS_SHOWN:])]

    def row(self, order_id: str) -> dict[str, str | int] | None:
        """One order by our id or by its client order id."""
        by_client = (known for (_, client), known in reversed(self._client_ids.items()) if client == order_id)
        for key in (order_id, *by_client):
            if (known := self.orders.get(key) or self.closed.get(key)) is not None:
                return row(known)
        return None


def _over(kept: Sized, most: int) -> int:
    """How many leave now: the one too many, and some more where the bound was lowered."""
    return max(0, min(len(kept) - most, GONE_AT_ONCE))


def row(known: order.Order) -> dict[str, str | int]:
    """One order for people: decimals as exact texts, times in UNIX ns."""
    return {
        "id": known.order_id,
        "market": known.market,
        "symbol": known.symbol,
        "side": known.side.name.lower(),
        "price": fixed.text(known.price),
        "quantity": fixed.text(known.quantity),
        "filled": fixed.text(known.filled),
        "status": known.state.name.lower(),
        "epoch": known.epoch,
        "client_order_id": known.client_order_id,
        "strategy": known.strategy,
        "type": known.kind.name.lower(),
        "created_ns": known.created_ns,
        "updated_ns": known.updated_ns,
        "reason": known.reason,
    }


def numbered(
    head: codec.Head, group: str, place: orders.Place, sequence: int, replaced: order.Order | None
) -> orders.Place:
    """The order as it leaves, with our envelope, our id and our id of the order that it replaces. What riskd
    has approved stays as it is.
    """
    token = head[4]
    return codec.replace(
        codec.under(place, head),
        order_id=ids.text(group, token.epoch if token else 0, sequence),
        replaced_id=replaced.order_id if replaced else "",
    )


def _of_report(report: orders.Report) -> order.Order:
    """An order that this journal does not hold (its leader died before it was replicated): all that the venue
    says of it.
    """
    return order.Order(
        order_id=report.order_id,
        client_order_id=report.client_order_id,
        strategy=report.strategy,
        market=report.market,
        symbol=report.symbol,
        side=report.side,
        kind=orders.Kind.LIMIT,
        price=report.price,
        quantity=report.quantity,
        epoch=ids.epoch_of(report.order_id),
        state=report.state,
        filled=report.filled,
        reason=report.reason,
        answered=True,
    )


def _late_fill(report: orders.Report) -> order.Order:
    """An order that had ended and been forgotten, as an execution that was not known shows it: it stays
    ended."""
    after = _of_report(report)
    if after.open:
        after.state = OrderState.FILLED if after.filled >= after.quantity else OrderState.CANCELLED
    return after


# --- reports that we make ourselves, and the audit ----------------------------------------------------------


def ended(head: codec.Head, known: order.Order, state: OrderState, reason: str) -> orders.Report:
    """The end of an order that the venue did not report; our books say how much of it was filled."""
    return answers.ended(head, known, state, reason, order_id=known.order_id, filled=known.filled)


_REPORTED = {
    # Not of a venue that is believed (report_check.py).
    OrderState.PENDING_NEW: "ORDER_REPORTED",
    OrderState.PENDING_CANCEL: "ORDER_REPORTED",
    OrderState.UNKNOWN: "ORDER_REPORTED",
    OrderState.WORKING: "ORDER_ACKNOWLEDGED",
    OrderState.PARTIALLY_FILLED: "ORDER_FILLED",
    OrderState.FILLED: "ORDER_FILLED",
    OrderState.CANCELLED: "ORDER_CANCELLED",
    OrderState.REJECTED: "ORDER_REJECTED",
    OrderState.REFUSED: "ORDER_REFUSED",
}


def audited(group: str, epoch: int, sequence: int, message: Journaled) -> orders.AuditRecord:
    """The audit record of one journal record: a function of that record alone, so that it is the same
    whichever omsd sends it, and however often.

    `epoch` is the record's, a term. The token is that of the epoch which wrote the record, not of the omsd
    that sends it.
    """
    token = codec.TokenOnWire.of(term.token(epoch, group))
    details: dict[str, str | int] = {}
    match message:
        case orders.Attach():
            action, user = "LEAD_TAKEN", message.claimant.instance
            details = {"pid": message.claimant.pid, "epoch": token.epoch}
        case orders.Cancel():
            action, user = "CANCEL_REQUESTED", message.strategy
            details = {
                "order_id": message.order_id,
                "client_order_id": message.client_order_id,
                "market": message.market,
                "symbol": message.symbol,
            }
        case orders.Place():
            action, user, details = "ORDER_PLACED", message.strategy, _details(message)
            details |= {"kind": message.kind.name}
            if message.replaced_id:
                details |= {"replaces": message.replaced_id}
            if message.approval is not None:
                details |= {"approval": message.approval.id, "approval_epoch": message.approval.token.epoch}
        case orders.Report():
            action, user, details = (
                "ORDER_FILLED" if message.execution_id else _REPORTED[message.state],
                message.strategy,
                _details(message),
            )
            details |= {"state": message.state.name, "filled": fixed.text(message.filled)}
            if message.execution_id:
                details |= {"execution": message.execution_id, "last_price": fixed.text(message.last_price)}
                details |= {"last_quantity": fixed.text(message.last_quantity)}
            if message.reason:
                details |= {"reason": message.reason}
    return orders.AuditRecord(
        *codec.head(message.source, message.sent_ns, sequence, token),
        audit_seq=sequence,
        action=action,
        user=user,
        timestamp_ns=message.sent_ns,
        details=details,
    )


def _details(message: orders.Place | orders.Report) -> dict[str, str | int]:
    return {
        "order_id": message.order_id,
        "client_order_id": message.client_order_id,
        "market": message.market,
        "symbol": message.symbol,
        "side": message.side.name,
        "price": fixed.text(message.price),
        "quantity": fixed.text(message.quantity),
    }


def replayed(group: str, risk: str, bounds: Bounds, believes: Believes, payloads: Iterable[bytes]) -> Oms:
    """All orders as the journal tells them. Raises InvalidInput when a record is not a message."""
    oms = Oms(group, risk, bounds, believes)
    for payload in payloads:
        oms.apply(decode_journaled(payload))
    return oms


def with_head(report: orders.Report, head: codec.Head) -> orders.Report:
    """The same report under our envelope, as all beyond omsd get it."""
    return codec.replace(codec.under(report, head), report_id=0)
