"""Fault: messages of the order path that decode and cannot be true, sent over the sockets of the right
senders: to omsd by riskd, execd, positiond, auditd, its leader and its standby. To execd and auditd:
test_rubbish_to_execd_and_auditd.py.

test_rubbish_in_daemons.py says what has to become of them. Here every daemon is turned by the test, so one
that ends raises into it. Each attack is followed by an order that works, is filled, booked and audited.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from controlplane.model import Phase
from hftd import bus
from hftd.engine import reasons
from hftd.engine.orders import replica, term
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import INCARNATION, Member, OrderPath
from tests.support.order_stage import active, audit, electable, positions, standby, unacknowledged

UINT64_MAX = (1 << 64) - 1
INT64_MIN = -(1 << 63)
EXECUTION, RISK, POSITIONS, AUDIT, STANDBYS, LEADER = range(6)
"""omsd's sockets, in the order in which its loop reads them."""
ORDERS = 1
"""execd's, after the venue's."""
OMSD = codec.TokenOnWire(INCARNATION, "omsd", 1)
LONG = "9" * 5_000


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


def socket(member: Member, which: int = 0) -> zmq.Socket[bytes]:
    return member.loop._handlers[which][0]


def identity(link: zmq.Socket[bytes]) -> bytes:
    found = link.getsockopt(zmq.IDENTITY)
    assert isinstance(found, bytes)
    return found


def dropped(member: Member) -> int:
    return member.context.counters.get("undecodable", 0)


def why(member: Member) -> str:
    return member.context.alarms["undecodable"].text


def trades(path: OrderPath) -> None:
    """An order works, is filled, booked and audited, and nothing of it is left with execd."""
    name, audited = path.riskd.place(), len(audit(path))
    path.until("a good order works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (order_id,) = (each for each, place in path.venue.working.items() if place.client_order_id == name)
    filled = path.venue.fill(order_id)
    path.until("its fill is told", lambda: path.riskd.states(name)[-1] is OrderState.FILLED)
    positiond = path.members["positiond-alpha-1"]
    path.until("and booked", lambda: positiond.context.counters.get("fills", 0) >= filled.execution_id)
    # What was refused before it may be written late, but not after it.
    path.until("and audited", lambda: len(now := audit(path)) >= audited + 3 and now[-1] == "ORDER_FILLED")
    path.until("execd keeps nothing", lambda: not unacknowledged(path))


# --- omsd: what execd passes on of the venue ----------------------------------------------------------------

REPORTS: list[dict[str, Any]] = [
    {"state": OrderState.PENDING_NEW, "order_id": "omsd-1-77"},
    {"state": OrderState.PENDING_CANCEL},
    {"order_id": f"omsd-1-{LONG}"},
    {"order_id": f"omsd-{'9' * 150}-1", "quantity": 0},
    {"symbol": "X" * 300_000},
    {"text": "\N{SNOWMAN}" * 100_000},
    {"price": UINT64_MAX},
    {"quantity": INT64_MIN},
    {"filled": UINT64_MAX},
    {"execution_id": UINT64_MAX, "filled": 1, "last_quantity": 1, "last_price": 1},
    {"execution_id": INT64_MIN, "filled": 1, "last_quantity": 1, "last_price": 1},
    {"execution_id": 900, "filled": 1, "last_quantity": 1, "last_price": UINT64_MAX},
    {"execution_id": 900, "filled": 1, "last_quantity": 2, "last_price": 1},
    {"execution_id": 900, "filled": 1, "last_quantity": 1, "last_price": 1, "symbol": "ETHUSDT"},
]


def test_reports_that_cannot_be_true_move_no_order_and_are_acknowledged(path: OrderPath) -> None:
    alpha = active(path)
    execd = socket(path.members["execd-alpha-1"], ORDERS)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    path.until("execd keeps nothing", lambda: not unacknowledged(path))
    path.until("audited", lambda: len(audit(path)) == 3)
    before = alpha.ask("orders"), audit(path)
    (place,) = path.venue.working.values()
    good = path.venue.report(place, OrderState.WORKING, said=False)
    for count, fields in enumerate(REPORTS, start=1):
        report = codec.replace(good, report_id=UINT64_MAX - count, **fields)
        execd.send_multipart([identity(socket(alpha, EXECUTION)), codec.encode(report)])
        path.until(f"{str(fields)[:80]}: it is dropped", lambda count=count: dropped(alpha) == count)
    assert "BUY of spot:ETHUSDT, the order is BUY of spot:BTCUSDT" in why(alpha)
    assert (alpha.ask("orders"), audit(path)) == before and path.riskd.states(name) == [OrderState.WORKING]
    trades(path)
    alpha.kill(clean=True)
    again = path.start("omsd-alpha-1")
    path.introduce()
    again.lead(2)
    path.until("it leads on with its journal", lambda: again.phase is Phase.ACTIVE and path.riskd.epoch == 2)
    trades(path)


def test_a_report_that_cannot_be_true_leaves_execd_and_does_not_come_again(path: OrderPath) -> None:
    """From the venue's own mouth, over execd: what omsd drops it acknowledges too."""
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (place,) = path.venue.working.values()
    odd = codec.replace(path.venue.report(place, OrderState.WORKING, said=False), quantity=UINT64_MAX)
    path.venue._say(path.venue.gateway, odd)
    path.until("omsd drops it", lambda: dropped(alpha) == 1)
    path.until("execd keeps nothing", lambda: not unacknowledged(path))
    assert "quantity 18446744073709551615" in why(alpha)
    trades(path)


def test_of_the_venues_executions_each_is_judged_alone(path: OrderPath) -> None:
    """At a take-over: the true ones are booked, the others named, and the lead is taken all the same."""
    alpha = active(path)
    trades(path)
    alpha.release()
    path.until("nobody leads", lambda: alpha.phase is Phase.STANDBY)
    (true,) = path.venue.executions
    missed = codec.replace(true, execution_id=2, order_id="omsd-1-88", client_order_id="mm-88")
    wrong = [
        codec.replace(missed, execution_id=3, last_quantity=INT64_MIN),
        codec.replace(missed, execution_id=3, state=OrderState.PENDING_NEW),
        codec.replace(missed, execution_id=UINT64_MAX),
    ]
    path.venue.executions += [missed, *wrong]
    alpha.lead(2)
    path.until("omsd leads again", lambda: alpha.phase is Phase.ACTIVE)
    assert dropped(alpha) >= len(wrong), "and again with each list"
    path.until("the one that was missed is booked", lambda: positions(path) == {"BTCUSDT": "0.002"})
    del path.venue.executions[2:]
    trades(path)


def test_answers_to_questions_that_nobody_asked_change_nothing(path: OrderPath) -> None:
    alpha = active(path)
    execd, link = socket(path.members["execd-alpha-1"], ORDERS), identity(socket(alpha, EXECUTION))
    head = codec.head("execd-alpha-1", 1)
    answers: list[orders.ComingBack] = [
        orders.Fenced(*head, "omsd", UINT64_MAX, True, ""),
        orders.CancelledAll(*head, UINT64_MAX, INT64_MIN),
        orders.OpenOrders(*head, INT64_MIN, []),
        orders.Executions(*head, UINT64_MAX, []),
        orders.Refusal(*head, reasons.UNKNOWN_ORDER, "", "omsd-1-1", "mm-9", "strategy-mm"),
        orders.AuditSeen(*head, UINT64_MAX),
    ]
    for answer in answers:
        execd.send_multipart([link, codec.encode(answer)])
    path.until("it has read them", lambda: alpha.context.counters.get("refused_by_execution") == 1)
    assert alpha.phase is Phase.ACTIVE and not dropped(alpha)
    trades(path)


# --- omsd: what riskd wants of it ---------------------------------------------------------------------------


def test_orders_with_texts_of_no_order_are_dropped_and_numbers_of_no_order_refused(path: OrderPath) -> None:
    alpha = active(path)
    texts = ("client_order_id", "strategy", "market", "symbol", "order_id", "replaces", "replaced_id")
    for count, name in enumerate(texts, start=1):
        order = codec.replace(path.riskd.approved(path.riskd.order(f"mm-{name}"), 1), **{name: "x" * 201})
        path.riskd.router.send(path.riskd.omsd, codec.encode(order))
        path.until(f"{name}: it is dropped", lambda count=count: dropped(alpha) == count)
    assert "at `$[" in why(alpha), "which field it was"
    for name in ("price", "quantity"):
        for number in (UINT64_MAX, INT64_MIN, 0):
            client = f"mm-{name}-{number}"
            order = codec.replace(path.riskd.order(client), **{name: number})
            path.riskd.placed += 1
            path.riskd.router.send(path.riskd.omsd, codec.encode(path.riskd.approved(order)))
            path.until(f"{client}: refused", lambda client=client: path.riskd.states(client))
            assert path.riskd.states(client) == [OrderState.REFUSED]
    odd = codec.replace(path.riskd.order("mm-old"), origin_ns=UINT64_MAX, origin_seq=INT64_MIN)
    path.riskd.placed += 1
    path.riskd.router.send(path.riskd.omsd, codec.encode(path.riskd.approved(odd)))
    path.until("a time is nothing that an order is judged by", lambda: path.riskd.states("mm-old"))
    trades(path)


def test_an_approval_under_a_token_that_nobody_was_given_makes_no_later_one_stale(path: OrderPath) -> None:
    alpha = active(path)
    alpha.context.store_tokens.tell([order_path.RISK, OMSD])
    for odd in (
        codec.replace(order_path.RISK, epoch=UINT64_MAX),
        codec.replace(order_path.RISK, epoch=1_000_000),
        codec.replace(order_path.RISK, incarnation=UINT64_MAX),
        codec.replace(order_path.RISK, incarnation=INCARNATION + 1),
    ):
        name = path.riskd.place(approval=orders.Approval(1 << 40, odd, 1))
        path.until("it is refused", lambda name=name: path.riskd.reasons(name) == [reasons.NO_APPROVAL])
    assert not path.venue.working
    trades(path)


# --- omsd: what its receivers acknowledge -------------------------------------------------------------------


def test_what_a_receiver_cannot_have_seen_is_sent_to_it_all_the_same(path: OrderPath) -> None:
    alpha = active(path, resend_s=0.2)
    head = codec.head("positiond-alpha-1", 1)
    positiond, auditd = (socket(path.members[f"{name}-alpha-1"]) for name in ("positiond", "auditd"))
    booked, audited = identity(socket(alpha, POSITIONS)), identity(socket(alpha, AUDIT))
    for number in (UINT64_MAX, INT64_MIN):
        positiond.send_multipart([booked, codec.encode(orders.ReportsSeen(*head, number))])
        positiond.send_multipart([booked, codec.encode(orders.Attached(*head, False, "", number))])
        positiond.send_multipart([booked, codec.encode(orders.Attached(*head, True, "", number))])
        auditd.send_multipart([audited, codec.encode(orders.AuditSeen(*head, number))])
        auditd.send_multipart([audited, codec.encode(orders.Attached(*head, True, "", number))])
        trades(path)
    assert not dropped(alpha)


# --- omsd: its leader's journal, and its standbys -----------------------------------------------------------


class Leader:
    """What a standby sees of its leader."""

    def __init__(self, path: OrderPath, epoch: int) -> None:
        endpoint = f"ipc://{path.folder}/leader.replica"
        self._router = bus.link.Router(endpoint)
        self._path, self._standby = path, b""
        self.token = codec.TokenOnWire(INCARNATION, "omsd", epoch)
        self.term, self.head = term.of(self.token), codec.head("omsd-alpha-1", 1, 0, self.token)
        self.peer = control.Peer("omsd-alpha-1", {"replica": endpoint}, "leader", epoch)

    def greeted(self) -> orders.ReplicaAttach:
        """The standby's next greeting; what came before it is read."""
        while True:
            self._path.until("the standby greets", lambda: self._router.socket.poll(0))
            self._standby, frame = self._router.socket.recv_multipart()
            message = orders.decode_replica(frame)
            if isinstance(message, orders.ReplicaAttach):
                return message

    def seen(self, sequence: int) -> None:
        def told() -> bool:
            while self._router.socket.poll(0):
                message = orders.decode_replica(self._router.socket.recv_multipart()[1])
                if isinstance(message, orders.ReplicaSeen) and message.sequence == sequence:
                    return True
            return False

        self._path.until(f"the standby has {sequence}", told)

    def say(self, message: orders.Replica) -> None:
        assert self._router.send(self._standby, codec.encode(message))

    def begins(self, after: int) -> None:
        self.say(orders.ReplicaFrom(*self.head, self.term, after))

    def record(self, payload: bytes, **fields: Any) -> None:
        record = orders.ReplicaRecord(*self.head, self.term, replica.TERM_STRIDE, payload, 0, 0)
        self.say(codec.replace(record, **fields))

    def close(self) -> None:
        self._router.close()


def test_a_standby_takes_no_record_that_would_keep_it_from_starting(path: OrderPath) -> None:
    beta = path.start("omsd-beta-1")
    leader, first = Leader(path, 3), replica.TERM_STRIDE
    process = codec.ProcessOnWire("omsd-alpha-1", "boot", 7, 7)
    good = codec.encode(orders.Attach(*leader.head, process))
    try:
        beta.told("omsd", leader.peer, beta.peer("standby"))
        assert leader.greeted().ends == []
        for count, after in enumerate((-1, 1, UINT64_MAX), start=1):
            leader.begins(after)
            path.until("that is no beginning", lambda count=count: dropped(beta) == count)
        leader.begins(0)
        before = dropped(beta)
        wrong: list[tuple[bytes, dict[str, Any]]] = [
            (b"", {}),
            (b"\xc1", {}),
            (codec.encode([99]), {}),
            (good, {"epoch": leader.term + 1}),
            (good, {"epoch": -1}),
            (good, {"epoch": UINT64_MAX}),
            (good, {"sequence": UINT64_MAX}),
            (good, {"sequence": (1 << 62) + 1}),
        ]
        for count, (payload, fields) in enumerate(wrong, start=before + 1):
            leader.record(payload, **fields)
            path.until(f"{fields}: it is no record", lambda count=count: dropped(beta) == count)
        leader.record(good, audited=UINT64_MAX)
        leader.seen(first)
        beta.kill(clean=True)
        again = path.start("omsd-beta-1")
        again.told("omsd", leader.peer, again.peer("standby"))
        assert leader.greeted().ends == [(leader.term, first)], "its journal holds the good one alone"
    finally:
        leader.close()
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    execd = path.start("execd-alpha-1")
    path.introduce()
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    again.lead(4)
    path.until("it leads", lambda: again.phase is Phase.ACTIVE and path.riskd.omsd)
    path.until("auditd gets what came since", lambda: audit(path) == ["LEAD_TAKEN"])
    trades(path)


def test_a_greeting_that_was_overtaken_costs_the_standby_nothing_that_it_has_acknowledged(
    path: OrderPath,
) -> None:
    alpha = active(path)
    beta = standby(path)
    for _ in range(5):
        trades(path)
    path.until("beta has all", lambda: alpha.ask("orders") == beta.ask("orders"))
    (first, *_), process = alpha.happened("electable"), codec.ProcessOnWire.of(beta.process)
    assert first["instances"] == "nobody"
    for ends in ([], [(term.of(OMSD), replica.TERM_STRIDE + 2)]):
        old = orders.ReplicaAttach(*codec.head("omsd-beta-1", 1, 0, OMSD), process, ends)
        socket(beta, LEADER).send(codec.encode(old))
        trades(path)
        path.until("beta has all", lambda: alpha.ask("orders") == beta.ask("orders"))
    assert not beta.happened("journal.set_aside")
    assert not list((path.folder / "data" / "omsd-beta-1" / "journal").glob("aside-*"))
    path.until("it is electable", lambda: electable(alpha) == ["omsd-beta-1"])


def test_standbys_that_cannot_be_are_not_electable_and_the_true_one_stays(path: OrderPath) -> None:
    alpha = active(path)
    standby(path)
    trades(path)
    link = bus.link.Dealer("stranger", alpha.context.endpoints["replica"])
    head, good = codec.head("omsd-beta-1", 1, 0, OMSD), codec.ProcessOnWire("omsd-gamma-1", "boot", 7, 7)
    attach = orders.ReplicaAttach(*head, good, [])
    try:
        path.until("connected", lambda: link.send(codec.encode(orders.ReplicaSeen(*head, UINT64_MAX))))
        wrong: list[bytes] = [
            codec.encode(codec.replace(attach, process=codec.replace(good, **fields)))
            for fields in (
                {"pid": UINT64_MAX}, {"pid": -1}, {"start_time": UINT64_MAX}, {"instance": "execd-alpha-1"},
                {"instance": "omsd/../x"}, {"instance": "o" * 200}, {"boot_id": "b" * 65}, {"instance": ""},
            )
        ]  # fmt: skip
        wrong.append(codec.encode(codec.replace(attach, ends=[(n, n) for n in range(1_001)])))
        for count, frame in enumerate(wrong, start=1):
            assert link.send(frame)
            path.until("it is dropped", lambda count=count: dropped(alpha) == count)
        assert link.send(
            codec.encode(codec.replace(attach, ends=[(UINT64_MAX, INT64_MIN), (-1, UINT64_MAX)]))
        )
        for number in (UINT64_MAX, INT64_MIN):
            assert link.send(codec.encode(orders.ReplicaSeen(*head, number)))
        for number in range(replica.STANDBYS_MAX + 10):
            many = codec.replace(good, instance=f"omsd-h{number}-1", start_time=number)
            assert link.send(codec.encode(codec.replace(attach, process=many)))
        trades(path)
    finally:
        link.close()
    path.until("the true one is electable", lambda: "omsd-beta-1" in electable(alpha))
