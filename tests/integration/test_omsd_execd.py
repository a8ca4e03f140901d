"""omsd and execd as built, over real sockets: what leaves, what is refused, and what a new leader knows of
its predecessor's orders.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.model import Phase
from hftd.engine import reasons
from hftd.shm import fence_file
from hftd.shm.pages import Wanted
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import Member, OrderPath


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-", dir="/dev/shm") as folder:
        yield from order_path.path(Path(folder))


def active(path: OrderPath, **settings: object) -> Member:
    """execd active with epoch 1, omsd-alpha-1 active with epoch 1, positiond and auditd there."""
    execd = path.start("execd-alpha-1")
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    alpha = path.start("omsd-alpha-1", **settings)
    path.introduce()
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    alpha.lead(1)
    path.until("omsd is active and attached", lambda: alpha.phase is Phase.ACTIVE and path.riskd.omsd)
    return alpha


def standby(
    path: OrderPath, leader: str = "omsd-alpha-1", epoch: int = 1, instance: str = "omsd-beta-1"
) -> Member:
    beta = path.start(instance)
    path.introduce(omsd_leader=leader, epoch=epoch)
    path.until("the standby is electable", lambda: electable(path.members[leader]) == [instance])
    return beta


def electable(member: Member) -> list[str]:
    shown = member.happened("electable")
    return [] if not shown or shown[-1]["instances"] == "nobody" else shown[-1]["instances"].split(",")


def positions(path: OrderPath) -> dict[str, str]:
    return {row["symbol"]: row["quantity"] for row in path.members["positiond-alpha-1"].ask("positions")}


def audit(path: OrderPath) -> list[str]:
    file = path.folder / "site" / "audit" / "1.jsonl"
    return [json.loads(line)["action"] for line in file.read_bytes().splitlines()] if file.exists() else []


def unacknowledged(path: OrderPath) -> int:
    execd = path.members["execd-alpha-1"]
    execd.loop._timers[-1].run(0)
    return int(execd.context.gauges["reports_unacknowledged"])


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
        "audited", lambda: audit(path) == ["LEAD_TAKEN", "ORDER_PLACED", "ORDER_ACKNOWLEDGED", "ORDER_FILLED"]
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
        "and is the first record after the lead", lambda: audit(path)[:2] == ["LEAD_TAKEN", "ORDER_PLACED"]
    )
    assert alpha.context.counters["orders"] == execd.context.counters["orders"] == 1
    for member in (alpha, execd):
        assert not member.context.counters.get("undecodable") and not member.context.counters.get(
            "unexpected"
        )


def test_a_rehearsal_of_a_deposed_leader_ends_at_execd_and_counts_as_nothing(path: OrderPath) -> None:
    alpha, execd = active(path), path.members["execd-alpha-1"]
    deposed = path.riskd.omsd
    beta = standby(path)
    beta.lead(2)
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE and path.riskd.epoch == 2)
    before = dict(execd.context.counters)
    path.riskd.rehearse(to=deposed)
    path.until("it was sent on", lambda: alpha.context.counters.get("rehearsals"))
    for _ in range(200):
        path.turn()
    assert execd.context.counters == before, (
        "neither rehearsed (its token is below the fence) nor refused (it was no order)"
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


def test_the_standby_has_every_record_and_leads_on_with_cancelled_orders_and_no_lost_fill(
    path: OrderPath,
) -> None:
    alpha = active(path)
    beta = standby(path)
    filled, between, works = path.riskd.place(), path.riskd.place(), path.riskd.place()
    path.until("all work", lambda: all(path.riskd.states(name) for name in (filled, between, works)))
    ids = list(path.venue.working)
    path.venue.fill(ids[0])
    path.until("one fill is booked", lambda: positions(path) == {"BTCUSDT": "0.001"})
    path.until(
        "replicated",
        lambda: len(beta.ask("orders")) == 3 and any(row["status"] == "filled" for row in beta.ask("orders")),
    )
    alpha.kill()
    path.venue.fill(ids[1])
    beta.lead(2)
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)
    path.until("the fill that came between is booked, once", lambda: positions(path) == {"BTCUSDT": "0.002"})
    assert {row["id"]: row["status"] for row in beta.ask("orders")} == {
        ids[0]: "filled",
        ids[1]: "filled",
        ids[2]: "cancelled",
    }
    path.until("riskd is told", lambda: path.riskd.epoch == 2)
    after = path.riskd.place()
    path.until("trading goes on", lambda: path.riskd.states(after) == [OrderState.WORKING])
    assert next(iter(path.venue.working)).startswith("omsd-2-")
    path.until(
        "both leads are audited",
        lambda: audit(path).count("LEAD_TAKEN") == 2 and audit(path).count("ORDER_FILLED") == 2,
    )
    assert "gaps" not in path.members["auditd-alpha-1"].context.counters


def test_an_execution_whose_report_was_lost_is_found_at_the_take_over(path: OrderPath) -> None:
    alpha = active(path)
    beta = standby(path)
    names = [path.riskd.place() for _ in range(5)]
    path.until("all work", lambda: all(path.riskd.states(name) for name in names))
    path.until("replicated", lambda: len(beta.ask("orders")) == 5)
    for order_id in list(path.venue.working):
        path.venue.fill(order_id, said=False)
    alpha.kill()
    beta.lead(2)
    path.until("all five, over three pages, are booked", lambda: positions(path) == {"BTCUSDT": "0.005"})
    assert {row["status"] for row in beta.ask("orders")} == {"filled"}


def test_an_order_of_the_old_epoch_is_refused_by_execd_and_by_the_venue(path: OrderPath) -> None:
    alpha = active(path)
    beta = standby(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    old = next(message for message in path.venue.heard if isinstance(message, orders.Place))
    beta.lead(2)
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)
    heard = len(path.venue.heard)
    alpha.loop._handlers[0][0].send(
        codec.encode(old)
    )  # alpha's link to execd: frozen before its send, and let go now
    execd = path.members["execd-alpha-1"]
    path.until("execd refuses it", lambda: execd.context.counters.get("stale_token_refusals"))
    assert not [message for message in path.venue.heard[heard:] if isinstance(message, orders.Place)]
    execd.loop._handlers[0][0].send(codec.encode(old))
    path.until(
        "the venue has heard it",
        lambda: [message for message in path.venue.heard[heard:] if isinstance(message, orders.Place)],
    )
    path.until("and refuses it", lambda: execd.context.counters.get("venue_stale_token_refusals"))
    assert not path.venue.working


def test_neither_is_active_before_the_venue_has_acknowledged_the_fence(path: OrderPath) -> None:
    execd = path.start("execd-alpha-1")
    alpha = path.start("omsd-alpha-1")
    path.introduce()
    path.venue.silent = True
    execd.lead(1)
    alpha.lead(1)
    path.until(
        "it has asked more than once",
        lambda: sum(isinstance(message, orders.Fence) for message in path.venue.heard) >= 3,
    )
    assert alpha.phase is execd.phase is Phase.FENCING
    alpha.loop._timers[-1].run(0)
    assert alpha.context.gauges["journal_seq"] == 0, "an epoch that is not fenced writes nothing"
    path.venue.silent = False
    path.until("both go on", lambda: alpha.phase is execd.phase is Phase.ACTIVE)


def test_a_leader_that_lost_its_word_stands_by_and_sets_its_tail_aside(path: OrderPath) -> None:
    alpha = active(path)
    standby(path).kill(clean=True)
    name = path.riskd.place()
    path.until("an order that beta does not have", lambda: path.riskd.states(name))
    alpha.lead(1, wanted=Wanted.HAND_OVER)
    path.until("alpha stands by", lambda: alpha.phase is Phase.STANDBY)
    beta = path.start("omsd-beta-1")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    beta.lead(2)
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)
    path.until("alpha follows", lambda: electable(beta) == ["omsd-alpha-1"])
    assert [fields["records"] for fields in alpha.happened("journal.set_aside")] == [2]
    assert list((path.folder / "data" / "omsd-alpha-1" / "journal").glob("aside-*"))
    path.until("their orders are the same", lambda: alpha.ask("orders") == beta.ask("orders"))
    assert [row["status"] for row in beta.ask("orders")] == ["cancelled"], (
        "known from the venue's report alone"
    )


def test_a_restarted_leader_rebuilds_its_orders_from_the_journal(path: OrderPath) -> None:
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    alpha.kill(clean=True)
    again = path.start("omsd-alpha-1")
    assert [row["status"] for row in again.ask("orders")] == ["working"]
    path.introduce()
    again.lead(2)
    path.until("active again", lambda: again.phase is Phase.ACTIVE)
    assert [row["status"] for row in again.ask("orders")] == ["cancelled"]
    path.until(
        "nothing is audited twice",
        lambda: (
            audit(path)
            == ["LEAD_TAKEN", "ORDER_PLACED", "ORDER_ACKNOWLEDGED", "LEAD_TAKEN", "ORDER_CANCELLED"]
        ),
    )


def test_a_new_execd_fences_the_venue_and_the_order_manager_reconciles_with_it(path: OrderPath) -> None:
    alpha = active(path)
    name, lost = path.riskd.place(), path.riskd.place()
    path.until("both work", lambda: path.riskd.states(name) and path.riskd.states(lost))
    path.members["execd-alpha-1"].kill(clean=True)
    path.venue.fill(list(path.venue.working)[1], said=False)
    new = path.start("execd-alpha-1")
    path.introduce()
    new.lead(2, told=order_path.claim(alpha, 1))
    path.until("execd is active", lambda: new.phase is Phase.ACTIVE)
    path.until(
        "omsd has reconciled", lambda: positions(path) == {"BTCUSDT": "0.001"} and alpha.phase is Phase.ACTIVE
    )
    assert sorted(row["status"] for row in alpha.ask("orders")) == ["cancelled", "filled"]
    after = path.riskd.place()
    path.until("trading goes on", lambda: path.riskd.states(after) == [OrderState.WORKING])


def test_a_full_journal_refuses_new_orders_loses_no_fill_and_goes_on_by_itself(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    (order_id,) = path.venue.working

    def full(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        patched.setattr("hftd.storage.journal.Journal.recovered", lambda _: False)
        refused = path.riskd.place()
        path.until("it is refused", lambda: path.riskd.reasons(refused) == [reasons.JOURNAL_FULL])
        assert alpha.context.alarms["journal_full"].severity == "critical"
        path.venue.fill(order_id)
        path.until("execd has its report, and keeps it", lambda: unacknowledged(path))
        for _ in range(200):
            path.turn()
        assert positions(path) == {}, "not journaled, so not taken"
        assert unacknowledged(path), "and not acknowledged"
    path.until("the fill is taken", lambda: positions(path) == {"BTCUSDT": "0.001"})
    path.until("trading goes on", lambda: alpha.phase is Phase.ACTIVE)
    assert "journal_full" not in alpha.context.alarms
    after = path.riskd.place()
    path.until("a new order works", lambda: path.riskd.states(after) == [OrderState.WORKING])


def test_everything_is_cancelled_once_when_no_order_manager_is_heard(path: OrderPath) -> None:
    execd = path.start("execd-alpha-1", orphan_s=0.6)
    alpha = path.start("omsd-alpha-1")
    path.introduce()
    execd.lead(1)
    alpha.lead(1)
    path.until("omsd is active", lambda: alpha.phase is Phase.ACTIVE and path.riskd.omsd)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    alpha.kill(clean=True)
    path.until("the venue has cancelled it", lambda: not path.venue.working)
    for _ in range(200):
        path.turn()
    assert (
        len(
            [
                message
                for message in path.venue.heard
                if isinstance(message, orders.CancelAll) and message.token is None
            ]
        )
        == 1
    )
    assert len(execd.happened("orders.orphaned")) == 1


def test_an_equal_token_of_another_process_never_leads(path: OrderPath) -> None:
    alpha = active(path)
    beta = path.start("omsd-beta-1")  # an empty journal: it cannot know that epoch 1 was given before
    path.introduce()
    beta.lead(1)
    execd = path.members["execd-alpha-1"]
    path.until("execd refuses the fence", lambda: execd.context.counters.get("stale_token_refusals"))
    assert beta.phase is Phase.FENCING
    assert alpha.phase is Phase.ACTIVE
    name = path.riskd.place()
    path.until("the first claimant trades on", lambda: path.riskd.states(name) == [OrderState.WORKING])


def test_what_does_not_decode_is_counted_and_dropped_everywhere(path: OrderPath) -> None:
    alpha = active(path)
    path.riskd.router.send(path.riskd.omsd, b"\xc1 no message")
    path.venue.router.send(path.venue.gateway, b"\xc1")
    alpha.loop._handlers[0][0].send(b"\xff\xff")
    execd = path.members["execd-alpha-1"]
    path.until(
        "both have counted",
        lambda: (
            alpha.context.counters.get("undecodable") and execd.context.counters.get("undecodable", 0) >= 2
        ),
    )
    name = path.riskd.place()
    path.until("nothing else happened", lambda: path.riskd.states(name) == [OrderState.WORKING])


def test_auditd_and_positiond_catch_up_after_an_absence(path: OrderPath) -> None:
    active(path, resend_s=0.05)
    for instance in ("positiond-alpha-1", "auditd-alpha-1"):
        path.members[instance].kill(clean=True)
    names = [path.riskd.place() for _ in range(3)]
    path.until("all work", lambda: all(path.riskd.states(name) for name in names))
    for order_id in list(path.venue.working):
        path.venue.fill(order_id)
    path.until("riskd knows", lambda: all(path.riskd.states(name)[-1] is OrderState.FILLED for name in names))
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    path.introduce()
    path.until("positions are whole", lambda: positions(path) == {"BTCUSDT": "0.003"})
    path.until("the audit is whole", lambda: audit(path).count("ORDER_FILLED") == 3)
    assert "gaps" not in path.members["auditd-alpha-1"].context.counters
