"""What a circuit breaker does to an order, at each hop, with the hop behind it frozen. Cancels never pass
one, and no order is ever sent twice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from controlplane.model import Phase
from controlplane.resilience.breaker import State
from hftd import bus, runtime
from hftd.daemons import strategyd
from hftd.engine import fixed, reasons
from hftd.engine.orders.awaited import Awaited, BreakerSettings, RiskBreaker
from hftd.settings import StrategySettings
from hftd.strategies import base
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.support.order_path import RISK, Member, OrderPath

QUICK = BreakerSettings(answer_s=0.15, open_s=0.4, open_max_s=0.4)


def stage(path: OrderPath) -> tuple[Member, Member]:
    """execd and omsd, active, with breakers that are quick; omsd does not fence a silent execd anew."""
    execd = path.start("execd-alpha-1", breaker=QUICK, orphan_s=60.0)
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    omsd = path.start("omsd-alpha-1", breaker=QUICK, execution_silence_s=60.0, keep_alive_s=0.02)
    path.introduce()
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    omsd.lead(1)
    path.until("omsd is active", lambda: omsd.phase is Phase.ACTIVE and path.riskd.omsd)
    return execd, omsd


def state_of(member: Member) -> State:
    (breaker,) = member.context.breakers
    breaker.look(time.monotonic_ns())
    return breaker.state


def at_venue(path: OrderPath, kind: type = orders.Place) -> list[str]:
    return [each.client_order_id for each in path.venue.heard if isinstance(each, kind)]


def test_a_venue_that_says_nothing_of_orders_is_sent_no_more_and_cancels_pass(path: OrderPath) -> None:
    execd, omsd = stage(path)
    working = path.riskd.place()
    path.until("one works", lambda: path.riskd.states(working) == [OrderState.WORKING])
    path.venue.deaf = True
    lost = [path.riskd.place() for _ in range(5)]
    path.until("execd's breaker opens", lambda: state_of(execd) is State.OPEN)
    assert [event["breaker"] for event in execd.happened("breaker.open")] == ["execd.simd"]

    refused = path.riskd.place()
    path.until("refused", lambda: path.riskd.states(refused) == [OrderState.REFUSED])
    assert path.riskd.reasons(refused) == [reasons.BREAKER_OPEN]
    assert refused not in at_venue(path)
    path.riskd.cancel(working)
    path.until("the cancel is at the venue", lambda: working in at_venue(path, orders.Cancel))
    assert state_of(omsd) is State.CLOSED, "execd answers, so its own breaker stays closed"

    path.venue.deaf = False
    path.until("it may be tried", lambda: state_of(execd) is State.HALF_OPEN)
    trials = [path.riskd.place(), path.riskd.place()]
    path.until("closed again", lambda: state_of(execd) is State.CLOSED)
    for trial in trials:
        path.until("it works", lambda name=trial: path.riskd.states(name) == [OrderState.WORKING])
    assert at_venue(path) == [working, *lost, *trials], "an order came twice"


def test_an_execd_that_is_frozen_is_sent_no_more_and_finds_the_cancels_when_it_wakes(path: OrderPath) -> None:
    execd, omsd = stage(path)
    working = path.riskd.place()
    path.until("one works", lambda: path.riskd.states(working) == [OrderState.WORKING])
    execd.frozen = True
    lost = [path.riskd.place() for _ in range(5)]
    path.until("omsd's breaker opens", lambda: state_of(omsd) is State.OPEN)

    refused, replacing = path.riskd.place(), path.riskd.place(replaces=working)
    for name in (refused, replacing):
        path.until("refused at once", lambda each=name: path.riskd.states(each) == [OrderState.REFUSED])
        assert path.riskd.reasons(name) == [reasons.BREAKER_OPEN]

    execd.frozen = False
    path.until("what was to be replaced is cancelled", lambda: working in at_venue(path, orders.Cancel))
    path.until("what had left arrives, once", lambda: at_venue(path) == [working, *lost])
    path.until("it may be tried", lambda: state_of(omsd) is State.HALF_OPEN)
    trials = [path.riskd.place(), path.riskd.place()]
    path.until("closed again", lambda: state_of(omsd) is State.CLOSED)
    path.until("and nothing twice", lambda: at_venue(path) == [working, *lost, *trials])


def test_with_every_breaker_open_every_cancel_still_gets_out(path: OrderPath) -> None:
    execd, omsd = stage(path)
    working = [path.riskd.place() for _ in range(4)]
    for name in working:
        path.until("it works", lambda each=name: path.riskd.states(each) == [OrderState.WORKING])
    for member in (execd, omsd):
        for breaker in member.context.breakers:
            breaker.force(State.FORCED_OPEN, time.monotonic_ns(), "test")
    for name in working:
        path.riskd.cancel(name)
    path.until("all cancels are out", lambda: sorted(at_venue(path, orders.Cancel)) == sorted(working))
    path.until("all are cancelled", lambda: not path.venue.working)
    refused = path.riskd.place()
    path.until("no order is", lambda: path.riskd.reasons(refused) == [reasons.BREAKER_OPEN])
    assert at_venue(path) == working


def test_a_venue_that_was_restarted_is_tried_at_once(path: OrderPath) -> None:
    execd, _ = stage(path)
    for breaker in execd.context.breakers:
        for _ in range(5):
            permit = breaker.permit(time.monotonic_ns())
            assert permit is not None
            Awaited(breaker, QUICK).unsent(permit, time.monotonic_ns() + 3600 * 10**9)
    assert state_of(execd) is State.OPEN
    path.venue.session += 1
    path.until("it is tried", lambda: state_of(execd) is State.HALF_OPEN)


class Risk:
    """riskd's end of `intents`."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/riskd-alpha-1.intents"
        self.router = bus.link.Router(self.endpoint)
        self.heard: list[Any] = []
        self.frozen = False

    def turn(self) -> None:
        while not self.frozen and self.router.socket.poll(0):
            link, frame = self.router.socket.recv_multipart()
            message = orders.decode_towards_venue(frame) if frame else None
            self.heard.append(message)
            if isinstance(message, orders.Attach):
                head = codec.head("riskd-alpha-1", time.time_ns())
                self.router.send(link, codec.encode(orders.Attached(*head[:4], RISK, True, "", 0)))


BTC = base.Instrument("spot", "BTCUSDT")


def an_order(number: int, replaces: int = 0) -> base.Place:
    return base.Place(
        number, BTC, orders.Side.BUY, orders.Kind.POST_ONLY, 100 * fixed.UNIT, fixed.UNIT, 0, 0, replaces
    )


@pytest.mark.parametrize("forced", [False, True])
def test_a_riskd_that_is_frozen_is_asked_no_more_and_gets_the_cancels(tmp_path: Path, forced: bool) -> None:
    made: list[strategyd.Strategist] = []

    def build(context: runtime.Context) -> runtime.Loop:
        quick = RiskBreaker(answer_s=0.15, open_s=0.4, open_max_s=0.4)
        hands = strategyd.Strategist(context, StrategySettings(breaker=quick))
        made.append(hands)
        loop = runtime.Loop(context)
        loop.on_peers("riskd", lambda _: hands.found_risk(context.endpoint("riskd", "intents")))
        loop.on(hands.intents.socket, hands.on_answer)
        loop.every(0.05, hands.hello)
        loop.every(0.02, lambda now_ns: hands.awaited.tick(now_ns, hands._heard_ns))
        return loop

    member, risk = Member(tmp_path, "strategy-alpha-1", build, leads=False, generation=1), Risk(tmp_path)
    (hands,) = made
    told: list[base.OrderUpdate] = []
    hands.strategy.on_order = lambda update, now_ns: told.append(update) or []  # type: ignore[method-assign]
    member.told("riskd", control.Peer("riskd-alpha-1", {"intents": risk.endpoint}, "leader", 1))

    def until(what: str, found: Any) -> None:
        end = time.monotonic() + 20
        while not found():
            assert time.monotonic() < end, what
            risk.turn()
            member.turn()

    try:
        until("riskd answers", lambda: member.context.ready)
        hands.carry_out([an_order(1)])
        if forced:
            hands.awaited.breaker.force(State.FORCED_OPEN, time.monotonic_ns(), "test")
        else:
            risk.frozen = True
            until("it is silent", lambda: time.monotonic_ns() - hands._heard_ns > 2 * 10**8)
            hands.carry_out([an_order(number) for number in range(2, 7)])
            until("the breaker opens", lambda: state_of(member) is State.OPEN)
        hands.carry_out([an_order(7, replaces=1), base.Cancel(2, BTC, 0)])
        assert [(each.order, each.reason) for each in told] == [(7, reasons.BREAKER_OPEN)]
        risk.frozen = False

        def numbers(kind: type) -> list[int]:
            return [hands._number(each.client_order_id) for each in risk.heard if isinstance(each, kind)]

        until("the cancels get out", lambda: numbers(orders.Cancel) == [1, 2])
        assert numbers(orders.Place) == ([1] if forced else [1, 2, 3, 4, 5, 6])
    finally:
        member.kill()
        risk.router.close()
