"""omsd and execd as built, over real sockets: fences, take-overs, and what a new leader knows of its
predecessor's orders.
"""

from __future__ import annotations

from controlplane.model import Phase
from hftd.shm.pages import Wanted
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import OrderPath
from tests.support.order_stage import active, audit, electable, positions, standby


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
    path.until(
        "the fill that came between is booked, once",
        lambda: positions(path) == {"BTCUSDT": "0.002"},
    )
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
        "omsd has reconciled",
        lambda: positions(path) == {"BTCUSDT": "0.001"} and alpha.phase is Phase.ACTIVE,
    )
    assert sorted(row["status"] for row in alpha.ask("orders")) == ["cancelled", "filled"]
    after = path.riskd.place()
    path.until("trading goes on", lambda: path.riskd.states(after) == [OrderState.WORKING])


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


def test_a_rehearsal_of_a_deposed_leader_ends_at_execd_and_counts_as_nothing(path: OrderPath) -> None:
    alpha, execd = active(path), path.members["execd-alpha-1"]
    deposed = path.riskd.omsd
    beta = standby(path)
    beta.lead(2)
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE and path.riskd.epoch == 2)
    told = ("rehearsals", "refused", "orders")
    before = [execd.context.counters.get(name) for name in told]
    path.riskd.rehearse(to=deposed)
    path.until("it was sent on", lambda: alpha.context.counters.get("rehearsals"))
    for _ in range(200):
        path.turn()
    assert [execd.context.counters.get(name) for name in told] == before, (
        "neither rehearsed (its token is below the fence) nor refused (it was no order)"
    )


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
