"""An order that nobody answers counts against the next hop, unless that hop has been heard since."""

from __future__ import annotations

import pytest

from controlplane.errors import InvalidSettings
from controlplane.resilience.breaker import Breaker, State
from hftd.engine.orders import awaited
from hftd.engine.orders.awaited import Awaited, BreakerSettings, RiskBreaker

S = 1_000_000_000


def an_awaited(**settings: float) -> Awaited:
    wanted = BreakerSettings(**settings)  # type: ignore[arg-type]
    return Awaited(Breaker("omsd.execd", wanted.breaker()), wanted)


def send(orders: Awaited, names: str, now_ns: int) -> None:
    for name in names:
        permit = orders.permit(now_ns)
        assert permit is not None
        orders.sent(name, permit, now_ns)


def test_five_orders_without_an_answer_open_the_breaker() -> None:
    orders = an_awaited()
    send(orders, "abcde", S)
    orders.tick(2 * S - 1)
    assert orders.breaker.state is State.CLOSED
    orders.tick(2 * S)
    assert orders.breaker.state is State.OPEN
    assert orders.permit(2 * S) is None
    assert len(orders) == 0


def test_any_answer_between_them_begins_the_row_anew() -> None:
    orders = an_awaited()
    send(orders, "abcd", S)
    orders.tick(2 * S)
    send(orders, "e", 2 * S)
    orders.answered("e", 2 * S + 1)
    send(orders, "fghi", 3 * S)
    orders.tick(9 * S)
    assert orders.breaker.state is State.CLOSED


def test_a_next_hop_that_was_heard_since_is_not_to_blame() -> None:
    orders = an_awaited()
    send(orders, "abcdefgh", S)
    orders.tick(5 * S, heard_ns=S + 1)
    assert (orders.breaker.state, len(orders), orders.breaker.tally.ignored) == (State.CLOSED, 0, 8)


def test_a_late_answer_of_an_order_that_was_given_up_is_nothing() -> None:
    orders = an_awaited()
    send(orders, "abcd", S)
    orders.tick(3 * S)
    orders.answered("a", 3 * S)
    assert (orders.breaker.tally.ok, orders.breaker.tally.failed) == (0, 4)


def test_what_cannot_be_handed_over_counts_at_once() -> None:
    orders = an_awaited()
    for _ in range(5):
        permit = orders.permit(0)
        assert permit is not None
        orders.unsent(permit, 0)
    assert orders.breaker.state is State.OPEN


def test_two_answered_orders_close_it_after_the_open_time() -> None:
    orders = an_awaited(open_s=1.0, open_max_s=1.0)
    send(orders, "abcde", 0)
    orders.tick(S)
    send(orders, "fg", 2 * S)
    assert orders.permit(2 * S) is None, "two are on trial"
    orders.answered("f", 2 * S)
    orders.answered("g", 2 * S)
    assert orders.breaker.state is State.CLOSED


def test_another_process_owes_no_answers_and_is_tried_at_once() -> None:
    orders = an_awaited()
    send(orders, "abcd", 0)
    orders.tick(S)
    orders.another_process(S)
    send(orders, "e", S)
    orders.tick(9 * S)
    assert orders.breaker.state is State.CLOSED, "failures of the process before still count"
    send(orders, "fghi", 10 * S)
    orders.tick(20 * S)
    assert orders.breaker.state is State.OPEN
    orders.another_process(20 * S)
    assert orders.breaker.state is State.HALF_OPEN


def test_what_is_watched_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "AWAITED_MAX", 3)
    orders = an_awaited()
    send(orders, "abcdefg", 0)
    assert (len(orders), orders.breaker.tally.ignored) == (3, 4)


def test_the_breaker_towards_riskd_has_the_documented_defaults() -> None:
    risk = RiskBreaker()
    assert (risk.failures, risk.successes, risk.open_s, risk.open_max_s) == (5, 2, 10.0, 10.0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("answer_s", 0.0), ("failures", 0), ("successes", 0), ("open_s", 0.0), ("open_max_s", 0.5)],
)
def test_settings_out_of_bounds_are_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(InvalidSettings, match=rf"breaker\.{setting} "):
        BreakerSettings(**{setting: value})  # type: ignore[arg-type]


def test_other_settings_judge_the_orders_that_wait_already() -> None:
    orders = an_awaited()
    send(orders, "abcd", S)
    orders.configure(BreakerSettings(answer_s=0.5, failures=4))
    orders.tick(S + S // 2)
    assert orders.breaker.state is State.OPEN and len(orders) == 0
