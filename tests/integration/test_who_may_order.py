"""Attacks on the order path by a process of the floor's own user, over real sockets: forged approvals, a
stranger with the right token, one with somebody's identity. Refused, counted, alarmed; trading goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from controlplane.model import Phase
from hftd.engine import reasons
from hftd.engine.orders import claims as claiming
from hftd.wire import codec, orders
from hftd.wire.orders import Kind, OrderState, Side
from tests.support import claims, order_path
from tests.support.order_path import Member, OrderPath
from tests.support.order_stage import active, audit, positions, standby, unacknowledged

FORGED, FOREIGN, CLAIMED = "unapproved_orders", "foreign_connection", "forged_claims"
ELSEWHERE = b"a second connection of the leader's"


def trades(path: OrderPath) -> None:
    """An order works, is filled, and everybody who must hear of it does."""
    before = dict(positions(path))
    name = path.riskd.place()
    path.until("a good order works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (order_id,) = (each for each, place in path.venue.working.items() if place.client_order_id == name)
    path.venue.fill(order_id)
    path.until("its fill is told", lambda: path.riskd.states(name)[-1] is OrderState.FILLED)
    path.until("and booked", lambda: positions(path) != before)


def refusals(execd: Member, reason: str) -> int:
    return execd.context.counters.get(f'refused_by{{reason="{reason}"}}', 0)


def placed(path: OrderPath) -> list[str]:
    """What the venue has heard of: the client order ids."""
    return [each.client_order_id for each in path.venue.heard if isinstance(each, orders.Place)]


# --- approvals ----------------------------------------------------------------------------------------------


def tampered(good: orders.Place) -> dict[str, orders.Place]:
    """One for each thing that riskd approves: the approval of `good` under another order, or another under
    `good`.
    """
    replace, signed = msgspec.structs.replace, good.approval
    assert signed is not None
    of_order: dict[str, Any] = {
        "client_order_id": "mm-other", "strategy": "another", "market": "usdm", "symbol": "ETHUSDT",
        "side": Side.SELL, "kind": Kind.IOC, "price": good.price + 1, "quantity": good.quantity * 1_000_000,
        "replaces": "mm-other",
    }  # fmt: skip
    of_approval: dict[str, Any] = {
        "id": signed.id + 1, "limits_revision": 2, "mac": bytes(16), "no mac": b"", "cut mac": signed.mac[:8],
        "token": msgspec.structs.replace(order_path.RISK, epoch=2),
    }  # fmt: skip
    found = {name: replace(good, **{name: value}) for name, value in of_order.items()}
    for name, value in of_approval.items():
        field = "mac" if name.endswith("mac") else name
        found[name] = replace(good, approval=replace(signed, **{field: value}))
    return found


def test_an_approval_under_anything_else_than_its_order_never_reaches_the_venue(path: OrderPath) -> None:
    active(path)
    execd = path.members["execd-alpha-1"]
    trades(path)
    heard = placed(path)
    path.riskd.placed += 1
    forged = tampered(path.riskd.approved(path.riskd.order("mm-forged")))
    for n, (name, order) in enumerate(forged.items()):
        if name != "client_order_id":  # omsd wants new ones; approve, then tamper
            order = tampered(path.riskd.approved(path.riskd.order(f"mm-forged-{n}")))[name]
        path.riskd.router.send(path.riskd.omsd, codec.encode(order))
        client = order.client_order_id
        path.until(f"{name}: it is refused", lambda c=client: path.riskd.states(c))
        assert path.riskd.states(client) == [OrderState.REFUSED], name
        assert path.riskd.reasons(client) == [reasons.FORGED_APPROVAL], name
    assert placed(path) == heard and not path.venue.working
    assert refusals(execd, reasons.FORGED_APPROVAL) == len(forged)
    assert execd.context.alarms[FORGED].severity == "critical"
    path.until("the refusals are audited", lambda: audit(path).count("ORDER_REFUSED") == len(forged))


def test_after_forgeries_riskds_own_orders_are_taken_and_the_alarm_ends(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hftd.daemons.execd.attempts.QUIET_NS", 500_000_000)
    active(path)
    execd = path.members["execd-alpha-1"]
    name = path.riskd.place(approval=orders.Approval(1 << 40, order_path.RISK, 1, bytes(16)))
    path.until("it is refused", lambda: path.riskd.reasons(name) == [reasons.FORGED_APPROVAL])
    assert FORGED in execd.context.alarms
    trades(path)
    path.until("it is quiet again", lambda: FORGED not in execd.context.alarms)


def test_an_approval_is_not_used_twice(path: OrderPath) -> None:
    """As an order manager would that sends an order again under another id."""
    alpha = active(path)
    execd = path.members["execd-alpha-1"]
    trades(path)
    sent = next(message for message in path.venue.heard if isinstance(message, orders.Place))
    again = codec.encode(msgspec.structs.replace(sent, gateway=None, order_id="omsd-1-999"))
    heard = placed(path)
    alpha.loop._handlers[0][0].send(again)
    path.until("it is refused", lambda: refusals(execd, reasons.APPROVAL_USED))
    assert placed(path) == heard and FORGED in execd.context.alarms
    trades(path)


def test_a_rehearsal_that_somebody_unwraps_is_no_order(path: OrderPath) -> None:
    alpha = active(path)
    execd = path.members["execd-alpha-1"]
    inside = path.riskd.order("mm-unwrapped")
    inside = msgspec.structs.replace(
        inside,
        token=codec.TokenOnWire(order_path.INCARNATION, "omsd", 1),
        order_id="omsd-1-999",
        approval=path.riskd.macs.approval(inside, 0, order_path.RISK, 1),
    )
    alpha.loop._handlers[0][0].send(codec.encode(inside))
    path.until("it is refused", lambda: refusals(execd, reasons.NO_APPROVAL))
    assert placed(path) == [] and FORGED in execd.context.alarms
    trades(path)


def test_a_replacement_with_a_forged_approval_still_cancels(path: OrderPath) -> None:
    active(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    forged = orders.Approval(1 << 40, order_path.RISK, 1, bytes(16))
    new = path.riskd.place(replaces=old, approval=forged)
    path.until("the old one is cancelled", lambda: path.riskd.states(old)[-1] is OrderState.CANCELLED)
    path.until("the new one is refused", lambda: path.riskd.reasons(new) == [reasons.FORGED_APPROVAL])
    assert not path.venue.working


def test_approvals_in_flight_while_riskd_fails_over_pass_and_older_ones_after_do_not(path: OrderPath) -> None:
    active(path)
    newer = msgspec.structs.replace(order_path.RISK, epoch=2)
    trades(path)
    order = path.riskd.order("mm-newer")
    order = msgspec.structs.replace(order, approval=path.riskd.macs.approval(order, 1, newer, 1))
    assert path.riskd.router.send(path.riskd.omsd, codec.encode(order))
    path.until("the new riskd's works", lambda: path.riskd.states("mm-newer") == [OrderState.WORKING])
    late = path.riskd.place()
    path.until("the old riskd's does not", lambda: path.riskd.reasons(late) == [reasons.STALE_TOKEN])


# --- another connection -------------------------------------------------------------------------------------


@contextlib.contextmanager
def stranger(endpoint: str, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger, socket.immediate = 0, 1  # ready to send when it is connected, and not before
        if identity:
            socket.identity = identity
        socket.connect(endpoint)
        yield socket


def answers(path: OrderPath, socket: zmq.Socket[bytes], message: Any) -> Any:
    socket.send(codec.encode(message))
    path.until(f"an answer to {type(message).__name__}", lambda: socket.poll(0))
    return orders.decode_coming_back(socket.recv())


def test_a_stranger_with_the_leaders_token_gives_no_orders_and_cancels_none(path: OrderPath) -> None:
    alpha = active(path)
    execd = path.members["execd-alpha-1"]
    name = path.riskd.place()
    path.until("an order works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (order_id,) = path.venue.working
    head = codec.head(alpha.process.instance, 1, 1, codec.TokenOnWire(order_path.INCARNATION, "omsd", 1))
    path.riskd.placed += 1
    order = codec.under(path.riskd.approved(path.riskd.order("mm-stranger")), head)
    cancel = orders.Cancel(*head, name, "strategy-mm", "spot", "BTCUSDT", 0, order_id)
    heard, link = len(path.venue.heard), execd.loop.context
    with stranger(link.endpoints["orders"], ELSEWHERE) as socket:
        for message in (
            msgspec.structs.replace(order, order_id="omsd-1-999"),
            cancel,
            msgspec.structs.replace(cancel, token=codec.TokenOnWire(order_path.INCARNATION, "other", 9)),
            orders.CancelAll(*head, 7),
            orders.OpenOrdersWanted(*head, 7),
            orders.ExecutionsWanted(*head, 7, 0),
        ):
            refusal = answers(path, socket, message)
            assert isinstance(refusal, orders.Refusal), message
            assert refusal.reason == reasons.WRONG_LINK, message
        who = codec.ProcessOnWire.of(alpha.process)
        attach = claims.signed(orders.Attach(*head, who), ELSEWHERE, path.site_dir)
        attached = answers(path, socket, attach)
        assert isinstance(attached, orders.Attached)
        assert (attached.ok, attached.reason) == (False, reasons.NOT_FENCED)
        fenced = answers(path, socket, claims.signed(orders.Fence(*head, who), ELSEWHERE, path.site_dir))
        assert isinstance(fenced, orders.Fenced) and (fenced.ok, fenced.reason) == (False, reasons.WRONG_LINK)
        socket.send(codec.encode(orders.Rehearsal(*head, order)))
        path.until("all are counted", lambda: refusals(execd, reasons.WRONG_LINK) == 9)
        assert execd.context.alarms[FOREIGN].severity == "critical"
        assert not execd.context.counters.get("rehearsals")
        ours = orders.Place | orders.Cancel | orders.CancelAll
        assert not [each for each in path.venue.heard[heard:] if isinstance(each, ours)]
        assert list(path.venue.working) == [order_id]
        trades(path)
        assert not socket.poll(0), "no report goes to it"
    assert not execd.context.counters.get("stale_token_refusals")
    assert alpha.happened("execution.lost") == [], "the leader has noticed nothing"


def test_a_stranger_acknowledges_no_report(path: OrderPath) -> None:
    alpha = active(path)
    execd = path.members["execd-alpha-1"]
    name = path.riskd.place()
    path.until("an order works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    path.until("execd keeps nothing", lambda: not unacknowledged(path))
    alpha.dead = True  # frozen, for now
    path.venue.fill(next(iter(path.venue.working)))
    path.until("execd keeps the fill", lambda: unacknowledged(path))
    token = codec.TokenOnWire(order_path.INCARNATION, "omsd", 1)
    with stranger(execd.context.endpoints["orders"]) as socket:
        socket.send(codec.encode(orders.ReportsSeen(1, 1, 1, "omsd-alpha-1", token, 1 << 40)))
        path.until("it is counted", lambda: refusals(execd, reasons.WRONG_LINK) == 1)
    assert unacknowledged(path)
    alpha.dead = False
    path.until("the fill is not lost", lambda: positions(path) == {"BTCUSDT": "0.001"})


def test_a_deposed_leaders_cancel_that_was_on_its_way_passes(path: OrderPath) -> None:
    """Taking risk away always passes, over a link that was an order manager's; nothing else of it does."""
    alpha = active(path)
    beta = standby(path)
    beta.lead(2)
    path.until("beta leads", lambda: path.riskd.epoch == 2)
    head = codec.head("omsd-alpha-1", 1, 1, codec.TokenOnWire(order_path.INCARNATION, "omsd", 1))
    alpha.loop._handlers[0][0].send(
        codec.encode(orders.Cancel(*head, "mm-1", "strategy-mm", "spot", "BTCUSDT", 0, "omsd-1-9"))
    )
    path.until(
        "the venue hears it",
        lambda: any(isinstance(each, orders.Cancel) for each in path.venue.heard),
    )
    trades(path)


@pytest.mark.parametrize("how", ["no mac", "the leader's own, copied", "another site's key"])
def test_after_a_restart_of_execd_a_stranger_cannot_take_the_leaders_link(
    path: OrderPath, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right token and the right claimant, first over the new execd's socket; the leader comes second."""
    monkeypatch.setattr("hftd.daemons.claim_check.QUIET_NS", 500_000_000)
    alpha = active(path)
    trades(path)
    leaders_link = alpha.loop._handlers[0][0].getsockopt(zmq.IDENTITY)
    path.members["execd-alpha-1"].kill(clean=True)
    execd = path.start("execd-alpha-1")
    alpha.dead = True  # frozen, for now
    path.introduce()
    execd.lead(2, told=order_path.claim(alpha, 1))
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    kept, heard = (execd.context.data_dir / "fences.json").read_bytes(), len(path.venue.heard)
    head = codec.head(alpha.process.instance, 1, 1, codec.TokenOnWire(order_path.INCARNATION, "omsd", 1))
    who = codec.ProcessOnWire.of(alpha.process)
    with stranger(execd.context.endpoints["orders"], b"stranger") as socket:

        def forged(claim: Any) -> Any:
            if how == "no mac":
                return claim
            if how == "another site's key":
                other = claiming.Macs(bytes(32))
                make = other.fence if isinstance(claim, orders.Fence) else other.attach
                return make(claim, b"stranger")
            return claims.signed(claim, leaders_link, path.site_dir)

        for claim in (orders.Fence(*head, who), orders.Attach(*head, who)):
            answer = answers(path, socket, forged(claim))
            assert (answer.ok, answer.reason) == (False, reasons.FORGED_CLAIM), claim
        refusal = answers(path, socket, orders.CancelAll(*head, 7))
        assert refusal.reason == reasons.NOT_FENCED, "it has no link"
        assert execd.context.counters["forged_claims"] == 2
        assert execd.context.alarms[CLAIMED].severity == "critical"
        assert (execd.context.data_dir / "fences.json").read_bytes() == kept
        said = path.venue.heard[heard:]
        assert not [each for each in said if isinstance(each, orders.Fence) and each.token.group == "omsd"]
        alpha.dead = False
        path.introduce()
        path.until("the leader has its link", lambda: execd.happened("omsd.fenced"))
        path.until("and reconciles", lambda: alpha.phase is Phase.ACTIVE)
        trades(path)
        assert not socket.poll(0), "no report goes to the stranger"
    assert "fence_refused" not in alpha.context.alarms
    path.until("it is quiet again", lambda: CLAIMED not in execd.context.alarms)


@pytest.mark.parametrize(
    ("receiver", "socket_name"), [("positiond-alpha-1", "executions"), ("auditd-alpha-1", "events")]
)
def test_a_forged_attach_is_not_admitted_and_the_leader_stays_attached(
    path: OrderPath, receiver: str, socket_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the present epoch, and of the next one, which the receiver would believe."""
    monkeypatch.setattr("hftd.daemons.claim_check.QUIET_NS", 500_000_000)
    alpha = active(path)
    trades(path)
    member = path.members[receiver]
    fences = member.context.data_dir / "fences.json"
    path.until("omsd is attached", fences.exists)
    kept, who = fences.read_bytes(), codec.ProcessOnWire.of(alpha.process)
    with stranger(member.context.endpoints[socket_name], b"stranger") as socket:
        for epoch, link in ((1, b"stranger!"), (2, b"stranger!"), (1, b""), (2, b"")):
            token = codec.TokenOnWire(order_path.INCARNATION, "omsd", epoch)
            attach = orders.Attach(*codec.head(alpha.process.instance, 1, 1, token), who)
            attached = answers(path, socket, claims.signed(attach, link, path.site_dir) if link else attach)
            assert isinstance(attached, orders.Attached)
            assert (attached.ok, attached.reason) == (False, reasons.FORGED_CLAIM)
        assert fences.read_bytes() == kept
        assert member.context.counters["forged_claims"] == 4
        assert member.context.alarms[CLAIMED].severity == "critical"
        trades(path)
        path.until("the audit log has the fill", lambda: audit(path).count("ORDER_FILLED") == 2)
    path.until("it is quiet again", lambda: CLAIMED not in member.context.alarms)


# --- another one's identity ---------------------------------------------------------------------------------


def test_a_stranger_with_the_order_managers_name_mutes_nobody(path: OrderPath) -> None:
    """To every socket that omsd and execd are connected to, under the identity that each would have without
    its random part.
    """
    alpha = active(path)
    beta = standby(path)
    trades(path)
    execd = path.members["execd-alpha-1"]
    endpoints = {at for each in path.members.values() for at in each.context.endpoints.values()}
    endpoints |= {f"ipc://{path.folder}/{service}-alpha-1.orders" for service in ("riskd", "simd")}
    endpoints -= {path.members["positiond-alpha-1"].context.endpoints["positions"]}  # which publishes
    with contextlib.ExitStack() as stack:
        strangers = [
            stack.enter_context(stranger(endpoint, name.encode()))
            for endpoint in endpoints
            for member in (alpha, beta, execd)
            for name in (member.process.instance, f"{member.process.instance}.{member.process.pid}")
        ]
        path.until("all are connected", lambda: all(each.poll(0, zmq.POLLOUT) for each in strangers))
        for _ in range(5):
            trades(path)
        path.until("beta has every record", lambda: beta.ask("orders") == alpha.ask("orders"))
        assert not any(each.poll(0) for each in strangers), "nothing goes to a stranger"
    assert alpha.happened("execution.lost") == []
