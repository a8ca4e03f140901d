"""Fault: reports of fills that are lost between the venue and us, in the middle, at the end, with ids that
are not dense; and a venue that was restarted.

What is claimed: the venue's list is asked for, every execution counts once, the order is what it is at the
venue, and it is said when the venue confirms nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.model import Phase
from hftd.engine.orders import confirmed
from hftd.wire import codec, control
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import OrderPath
from tests.support.order_stage import active, audit, positions, standby


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


def order_of(path: OrderPath, client: str) -> str:
    (found,) = (each for each, place in path.venue.working.items() if place.client_order_id == client)
    return found


def working(path: OrderPath, count: int) -> list[str]:
    names = [path.riskd.place() for _ in range(count)]
    path.until("they work", lambda: all(path.riskd.states(name) for name in names))
    return [order_of(path, name) for name in names]


def filled(path: OrderPath, member: str = "omsd-alpha-1") -> int:
    return sum(row["status"] == "filled" for row in path.members[member].ask("orders"))


def test_a_fill_that_is_lost_in_the_middle_is_found_and_booked_once(path: OrderPath) -> None:
    alpha = active(path)
    first, lost, last = working(path, 3)
    path.venue.fill(first)
    path.venue.fill(lost, said=False)
    path.venue.fill(last)
    path.until("all are booked", lambda: positions(path) == {"BTCUSDT": "0.003"})
    assert filled(path) == 3 and alpha.context.counters["executions_found"] == 1
    assert [each["count"] for each in alpha.happened("executions.found")] == [1]
    path.until("and audited", lambda: audit(path).count("ORDER_FILLED") == 3)
    path.until("all are confirmed", lambda: alpha.context.counters["fills"] == 3 and not unconfirmed(path))


def unconfirmed(path: OrderPath) -> bool:
    file = path.folder / "data" / "omsd-alpha-1" / "journal" / "confirmed"
    return not file.exists() or int(file.read_text()) != path.venue.executions[-1].execution_id


def test_a_fill_that_is_lost_with_none_after_it_is_found(path: OrderPath) -> None:
    active(path)
    (lost,) = working(path, 1)
    path.venue.fill(lost, said=False)
    path.until("it is booked", lambda: positions(path) == {"BTCUSDT": "0.001"})
    assert filled(path) == 1


def test_ids_need_not_be_dense(path: OrderPath) -> None:
    """Each symbol with gaps of its own: all are booked, and positiond acknowledges them as the venue's list
    confirms them.
    """
    alpha = active(path, resend_s=0.2)
    path.venue.id_steps = {"BTCUSDT": 1_000_003, "ETHUSDT": 17, "SOLUSDT": 1}
    symbols = [*path.venue.id_steps] * 3
    names = [path.riskd.place(symbol=symbol) for symbol in symbols]
    path.until("they work", lambda: all(path.riskd.states(name) for name in names))
    for n, name in enumerate(names):
        path.venue.fill(order_of(path, name), said=n != 4)
    path.until("all are booked", lambda: positions(path) == dict.fromkeys(path.venue.id_steps, "0.003"))
    path.until("all are confirmed", lambda: not unconfirmed(path))
    path.until("and acknowledged", lambda: acknowledged(path) == path.venue.executions[-1].execution_id)
    assert filled(path) == 9
    sent_again = alpha.context.counters.get("executions_sent_again", 0)
    until_s = time.monotonic() + 2
    path.until("nothing is sent any more", lambda: time.monotonic() > until_s)
    assert alpha.context.counters.get("executions_sent_again", 0) == sent_again


def acknowledged(path: OrderPath) -> int:
    """Up to which execution positiond has told that nothing is missing."""
    return int(path.members["positiond-alpha-1"].context.gauges.get("last_execution", 0))


@pytest.mark.parametrize("follower", [False, True], ids=["the same member", "its standby"])
def test_sparse_executions_that_a_dead_positiond_lost_are_sent_again(path: OrderPath, follower: bool) -> None:
    alpha = active(path, resend_s=0.2)
    beta = standby(path) if follower else None
    path.venue.id_step = 1_000
    first, second, third, last = working(path, 4)
    path.venue.fill(first)
    path.until("one is acknowledged", lambda: acknowledged(path) == 1_000)
    path.members["positiond-alpha-1"].kill()
    path.venue.fill(second)
    path.venue.fill(third)
    path.until("omsd knows them", lambda: filled(path) == 3)
    if beta is not None:
        alpha.kill()
        path.introduce()
        beta.lead(2)
        path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)
    path.start("positiond-alpha-1")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2) if follower else path.introduce()
    path.until("all are booked", lambda: positions(path) == {"BTCUSDT": "0.003"})
    path.until("and acknowledged", lambda: acknowledged(path) == 3_000)
    if not follower:
        path.venue.fill(last)
        path.until("and so it goes on", lambda: acknowledged(path) == 4_000)


@pytest.mark.parametrize("follower", [False, True], ids=["the same member", "its standby"])
def test_a_take_over_finds_what_was_lost_before_the_highest_known(path: OrderPath, follower: bool) -> None:
    """The highest execution that is known says nothing of those before it."""
    alpha = active(path)
    beta = standby(path) if follower else None
    first, lost, last = working(path, 3)
    path.venue.silent = True  # the list is not told before the take-over
    path.venue.fill(first)
    path.venue.fill(lost, said=False)
    path.venue.fill(last)
    path.until("two are known", lambda: filled(path) == 2)
    path.venue.silent = False
    alpha.release()
    path.until("nobody leads", lambda: alpha.phase is Phase.STANDBY)
    (beta or alpha).lead(2)
    path.until("all are booked", lambda: positions(path) == {"BTCUSDT": "0.003"})
    assert filled(path, "omsd-beta-1" if follower else "omsd-alpha-1") == 3


def test_a_venue_that_confirms_nothing_is_an_alarm_until_it_does(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmed, "LATE_NS", 1_000_000_000)
    alpha = active(path, execution_silence_s=60.0)
    (order_id,) = working(path, 1)
    path.venue.fill(order_id)
    path.venue.silent = True
    path.until("it is said", lambda: "executions_unconfirmed" in alpha.context.alarms)
    assert alpha.context.alarms["executions_unconfirmed"].severity == "critical"
    path.venue.silent = False
    path.until("it is over", lambda: "executions_unconfirmed" not in alpha.context.alarms)


def test_a_venue_that_was_restarted_is_fenced_and_reconciled_with(path: OrderPath) -> None:
    """Its process has another session, whatever its files and its place are: what it said last may be
    lost.
    """
    alpha, execd = active(path), path.members["execd-alpha-1"]
    (order_id,) = working(path, 1)
    path.venue.fill(order_id, said=False)
    path.venue.session = 8
    path.until("execd fences it anew", lambda: execd.phase is Phase.FENCING)
    path.until("and omsd reconciles", lambda: alpha.happened("execution.lost"))
    path.until("both are active", lambda: execd.phase is alpha.phase is Phase.ACTIVE)
    path.until("nothing is missing", lambda: positions(path) == {"BTCUSDT": "0.001"})
    assert filled(path) == 1
    name = path.riskd.place()
    path.until("trading goes on", lambda: path.riskd.states(name) == [OrderState.WORKING])


def test_a_link_whose_peer_is_registered_no_more_stays_until_another_is_named(path: OrderPath) -> None:
    """A registration ends with its keeper's lease; the process may live."""
    alpha, execd = active(path), path.members["execd-alpha-1"]
    for member, service in ((alpha, "execd"), (alpha, "riskd"), (execd, "simd"), (alpha, "positiond")):
        gone = control.Peers(*codec.no_head("agent"), service, service, [])
        member.loop._from_agent(codec.encode(gone))
        assert member.context.counters["peers_kept"]
    (order_id,) = working(path, 1)
    path.venue.fill(order_id)
    path.until("all goes on", lambda: positions(path) == {"BTCUSDT": "0.001"})
    assert not alpha.happened("execution.lost")
