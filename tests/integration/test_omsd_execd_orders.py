"""omsd and execd as built, over real sockets: what leaves, what is refused, and what is told of it."""

from __future__ import annotations

import pytest

from controlplane.model import Phase
from hftd.engine import reasons
from hftd.shm import fence_file
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import OrderPath
from tests.support.order_stage import active, audit, positions, unacknowledged


def test_an_approved_order_goes_to_the_venue_and_its_life_is_told_to_everyone(path: OrderPath) -> None:
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (order_id,) = path.venue.working
    assert order_id.startswith("omsd-1-")
    path.venue.fill(order_id)
    path.until("the fill is booked", lambda: positions(path) == {"BTCUSDT": "0.001"})
    path.until("riskd knows", lambda: path.riskd.states(name) == [OrderState.WORKING, OrderState.FILLED])
    (row,) = alpha.ask("orders")
    assert 0 < row["created_ns"] < row["updated_ns"]
    assert row == {
        "id": order_id, "market": "spot", "symbol": "BTCUSDT", "side": "buy", "price": "61800",
        "quantity": "0.001", "filled": "0.001",
        "status": "filled", "epoch": 1, "client_order_id": name, "strategy": row["strategy"],
        "type": "post_only", "reason": "",
        "created_ns": row["created_ns"], "updated_ns": row["updated_ns"],
    }  # fmt: skip
    assert alpha.ask("order", id=name) == row
    path.until(
        "audited",
        lambda: audit(path) == ["LEAD_TAKEN", "ORDER_PLACED", "ORDER_ACKNOWLEDGED", "ORDER_FILLED"],
    )
    path.until("execd keeps nothing", lambda: not unacknowledged(path))
    assert alpha.context.histogram("order_to_ack").total == 1
    assert path.members["execd-alpha-1"].context.histogram("tick_to_order").total == 1


@pytest.mark.parametrize(
    ("approval", "reason"),
    [
        (None, reasons.NO_APPROVAL),
        (orders.Approval(1, codec.TokenOnWire(order_path.INCARNATION, "omsd", 9), 1), reasons.NO_APPROVAL),
        (
            orders.Approval(1, codec.TokenOnWire(order_path.INCARNATION - 1, "riskd", 9), 1),
            reasons.STALE_TOKEN,
        ),
        (orders.Approval(0, order_path.RISK, 1), reasons.NO_APPROVAL),
    ],
    ids=["none", "of another group", "below riskd's token", "of a rehearsal"],
)
def test_an_order_without_a_valid_approval_never_leaves(
    path: OrderPath, approval: orders.Approval | None, reason: str
) -> None:
    active(path)
    first = path.riskd.place()
    path.until("a good one works", lambda: path.riskd.states(first))
    name = path.riskd.place(approval=approval)
    path.until("it is refused", lambda: path.riskd.states(name) == [OrderState.REFUSED])
    assert path.riskd.reasons(name) == [reason]
    assert len(path.venue.working) == 1
    path.until("the refusal is audited", lambda: "ORDER_REFUSED" in audit(path))


def test_a_rehearsal_passes_omsd_and_execd_and_leaves_nothing_anywhere(path: OrderPath) -> None:
    alpha = active(path)
    execd = path.members["execd-alpha-1"]
    path.until("the lead is audited", lambda: audit(path) == ["LEAD_TAKEN"])
    heard, told = len(path.venue.heard), len(path.riskd.told)
    for _ in range(20):
        path.riskd.rehearse()
    path.until("execd has judged them", lambda: execd.context.counters.get("rehearsals") == 20)
    assert alpha.context.counters["rehearsals"] == 20
    assert alpha.ask("orders") == [] and len(path.riskd.told) == told
    assert not any(isinstance(message, orders.Place) for message in path.venue.heard[heard:])
    name = path.riskd.place()
    path.until("the real one works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    path.until(
        "and is the first record after the lead",
        lambda: audit(path)[:2] == ["LEAD_TAKEN", "ORDER_PLACED"],
    )
    assert alpha.context.counters["orders"] == execd.context.counters["orders"] == 1
    for member in (alpha, execd):
        assert not member.context.counters.get("undecodable") and not member.context.counters.get(
            "unexpected"
        )


def test_a_floors_file_that_names_a_higher_riskd_makes_older_approvals_stale(path: OrderPath) -> None:
    execd = path.start("execd-alpha-1")
    alpha = path.start("omsd-alpha-1")
    path.introduce()
    execd.lead(1)
    alpha.lead(1, told={"riskd": fence_file.Target(order_path.Token(order_path.INCARNATION, "riskd", 2))})
    path.until("omsd is active", lambda: alpha.phase is Phase.ACTIVE and path.riskd.omsd)
    name = path.riskd.place()
    path.until("it is refused", lambda: path.riskd.reasons(name) == [reasons.STALE_TOKEN])


def test_a_client_order_id_is_taken_once(path: OrderPath) -> None:
    active(path)
    path.riskd.place("mm-twice")
    path.until("it works", lambda: path.riskd.states("mm-twice"))
    path.riskd.place("mm-twice")
    path.until("the second is refused", lambda: path.riskd.reasons("mm-twice") == ["", reasons.DUPLICATE])
    assert len(path.venue.working) == 1


def test_a_cancel_passes_past_the_end_of_the_lease_and_a_new_order_does_not(path: OrderPath) -> None:
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    alpha.lead(1, valid_until_ns=1)
    late = path.riskd.place()
    path.until("the new one is refused", lambda: path.riskd.reasons(late) == [reasons.NOT_ACTIVE])
    path.riskd.cancel(name)
    path.until("the cancel has passed", lambda: path.riskd.states(name)[-1] is OrderState.CANCELLED)


def test_one_message_cancels_an_order_and_places_the_next(path: OrderPath) -> None:
    alpha = active(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    new = path.riskd.place(replaces=old)
    path.until("the next one works", lambda: path.riskd.states(new) == [OrderState.WORKING])
    path.until("the first one is gone", lambda: path.riskd.states(old)[-1] is OrderState.CANCELLED)
    assert not [message for message in path.venue.heard if isinstance(message, orders.Cancel)]
    assert {row["status"] for row in alpha.ask("orders")} == {"working", "cancelled"}
    path.until(
        "audited",
        lambda: (
            audit(path)[1:]
            == ["ORDER_PLACED", "ORDER_ACKNOWLEDGED", "ORDER_PLACED", "ORDER_CANCELLED", "ORDER_ACKNOWLEDGED"]
        ),
    )


def test_a_replacement_of_an_order_that_is_not_there_is_placed_all_the_same(path: OrderPath) -> None:
    active(path)
    new = path.riskd.place(replaces="mm-never")
    path.until("it works", lambda: path.riskd.states(new) == [OrderState.WORKING])
    assert path.riskd.reasons("mm-never") == [reasons.UNKNOWN_ORDER]


def test_a_replacement_that_omsd_refuses_cancels_all_the_same(path: OrderPath) -> None:
    active(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    new = path.riskd.place(replaces=old, approval=None)
    path.until("it is refused", lambda: path.riskd.states(new) == [OrderState.REFUSED])
    path.until("the old one is gone", lambda: path.riskd.states(old)[-1] is OrderState.CANCELLED)


def test_a_replacement_that_execd_refuses_cancels_all_the_same(path: OrderPath) -> None:
    active(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    path.members["execd-alpha-1"].lead(1, valid_until_ns=1)
    new = path.riskd.place(replaces=old)
    path.until("the venue has cancelled", lambda: not path.venue.working)
    assert path.members["execd-alpha-1"].context.counters["refused"]
    path.members["execd-alpha-1"].lead(1)
    path.until("with a valid lease again it is told", lambda: path.riskd.reasons(new) == [reasons.NOT_ACTIVE])
    path.until("and so is the cancel", lambda: path.riskd.states(old)[-1] is OrderState.CANCELLED)


def test_execd_sends_no_order_past_its_own_lease_and_passes_cancels(path: OrderPath) -> None:
    active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    path.members["execd-alpha-1"].lead(1, valid_until_ns=1)
    path.riskd.cancel(name)
    path.until("the cancel has passed", lambda: path.riskd.states(name)[-1] is OrderState.CANCELLED)
    late = path.riskd.place()
    path.until("execd has refused it", lambda: path.members["execd-alpha-1"].context.counters.get("refused"))
    assert not path.venue.working
    path.members["execd-alpha-1"].lead(1)
    path.until(
        "with a valid lease again it is told", lambda: path.riskd.reasons(late) == [reasons.NOT_ACTIVE]
    )
