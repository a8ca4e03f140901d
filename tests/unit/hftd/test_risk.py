"""Pre-trade risk: no order passes a limit, whatever came before it; every refusal says which limit and by how
much.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidSettings
from hftd.daemons import riskd
from hftd.engine import fixed, reasons
from hftd.engine.orders import approvals
from hftd.engine.orders import risk as risks
from hftd.settings import RiskSettings
from hftd.wire.orders import Kind, OrderState, Place, Report, Side

ONE = fixed.UNIT
SECOND = 1_000_000_000
BTC = ("spot", "BTCUSDT")
LIMITS = dataclasses.replace(
    riskd.limits(RiskSettings(), 4),
    position_max=10 * ONE,
    order_size_max=4 * ONE,
    messages_per_s=10,
    message_burst=20,
)


def place(
    n: int,
    side: Side = Side.BUY,
    price: int = 100,
    quantity: int = 1,
    symbol: str = "BTCUSDT",
    strategy: str = "mm",
) -> Place:
    return Place(
        1,
        0,
        0,
        "s",
        None,
        f"mm-1-{n}",
        strategy,
        "spot",
        symbol,
        side,
        Kind.POST_ONLY,
        price * ONE,
        quantity * ONE,
        0,
        0,
    )


def report(of: Place, state: OrderState, filled: int = 0, execution: int = 0, last: int = 0) -> Report:
    return Report(
        1, 0, 0, "omsd", None, 0, execution, "o", of.client_order_id, of.strategy, of.market, of.symbol,
        of.side, state, of.price, of.quantity,
        filled * ONE, of.price, last * ONE, "", "", 0,
    )  # fmt: skip


def ready(limits: risks.Limits = LIMITS) -> risks.Risk:
    risk = risks.Risk(limits, approvals.Macs(bytes(32)))
    risk.on_top(*BTC, 99 * ONE, 101 * ONE, 1, 0)
    risk.on_position(*BTC, 0, 0)
    return risk


def code(refused: risks.Refused | None) -> str:
    return refused.code if refused else ""


def test_the_defaults_are_the_documents_limits() -> None:
    limits = riskd.limits(RiskSettings(), 1)
    assert (limits.position_max, limits.order_size_max) == (1000 * ONE, 100 * ONE)


@pytest.mark.parametrize(
    ("order", "refused"),
    [
        (place(1, quantity=4), ""),
        (place(1, quantity=5), reasons.ORDER_SIZE),
        (place(1, quantity=0), reasons.NOT_POSITIVE),
        (place(1, price=0), reasons.NOT_POSITIVE),
        (place(1, price=105), ""),
        (place(1, price=106), reasons.PRICE_COLLAR),
        (place(1, side=Side.SELL, price=95), ""),
        (place(1, side=Side.SELL, price=94), reasons.PRICE_COLLAR),
        (place(1, symbol="ETHUSDT"), reasons.NO_PRICE),
    ],
)
def test_each_limit_refuses_with_its_code(order: Place, refused: str) -> None:
    assert code(ready().approve(order, 1, 0)) == refused


def test_judging_an_order_counts_nothing() -> None:
    risk = ready()
    for _ in range(1000):
        assert risk.judge(place(1, quantity=2), 0) is None
    assert code(risk.approve(place(1, quantity=2), 1, 0)) == ""
    assert code(risk.judge(place(1, quantity=2), 0)) == reasons.DUPLICATE


def test_a_refusal_says_what_was_found_and_what_was_wanted() -> None:
    risk = ready()
    risk.on_position(*BTC, 9 * ONE, 0)
    refused = risk.approve(place(1, quantity=2), 1, 0)
    assert (
        refused is not None
        and refused.text == "Position limit exceeded: would reach 11 if all orders filled; the limit is 10"
    )


def test_nothing_is_judged_by_a_price_that_is_old_gone_or_by_a_position_not_known() -> None:
    risk = risks.Risk(LIMITS, approvals.Macs(bytes(32)))
    assert code(risk.approve(place(1), 1, 0)) == reasons.NO_PRICE
    risk.on_top(*BTC, 99 * ONE, 101 * ONE, 1, 0)
    assert code(risk.approve(place(2), 1, 0)) == reasons.NO_POSITION
    risk.on_position(*BTC, 0, 0)
    assert code(risk.approve(place(3), 1, LIMITS.price_age_max_ns + 1)) == reasons.STALE_PRICE
    risk.on_top(*BTC, 99 * ONE, 0, 1, 0)
    assert code(risk.approve(place(4), 1, 0)) == reasons.NO_PRICE


def test_a_price_that_is_only_said_again_grows_old_all_the_same() -> None:
    """Marks repeat the last top four times a second, also of a feed that is dead. Any move of the book makes
    it young, of one side, of one level below, or of a new session that counts from one.
    """
    risk, age_ns = ready(), LIMITS.price_age_max_ns
    for n in range(1, 9):
        risk.on_top(*BTC, 99 * ONE, 101 * ONE, 1, n * age_ns // 4)
    assert code(risk.approve(place(1), 1, 2 * age_ns)) == reasons.STALE_PRICE
    for n, (bid, ask, update) in enumerate(((99, 101, 2), (98, 101, 2), (98, 102, 2), (98, 102, 1)), start=2):
        now_ns = n * 2 * age_ns
        assert code(risk.approve(place(n), 1, now_ns)) == reasons.STALE_PRICE
        risk.on_top(*BTC, bid * ONE, ask * ONE, update, now_ns)
        assert risk.approve(place(10 * n), 1, now_ns + age_ns) is None


def test_working_orders_count_until_they_end_and_fills_until_positiond_has_them() -> None:
    risk = ready()
    first, second = place(1, quantity=4), place(2, quantity=4)
    assert risk.approve(first, 1, 0) is None and risk.approve(second, 1, 0) is None
    assert code(risk.approve(place(3, quantity=3), 1, 0)) == reasons.POSITION_LIMIT
    assert risk.approve(place(4, Side.SELL, quantity=4), 1, 0) is None, "the other side has its own room"
    risk.on_report(report(first, OrderState.FILLED, 4, execution=7, last=4), 1)
    assert risk.exposures() == [(*BTC, 4 * ONE, 4 * ONE, 4 * ONE)]
    risk.on_position(*BTC, 4 * ONE, 7)
    assert risk.exposures() == [(*BTC, 4 * ONE, 4 * ONE, 4 * ONE)]
    risk.on_report(report(second, OrderState.CANCELLED), 1)
    assert risk.approve(place(5, quantity=4), 1, 0) is None


def test_a_late_report_does_not_bring_an_ended_order_back() -> None:
    risk = ready()
    order = place(1, quantity=4)
    risk.approve(order, 1, 0)
    assert [gone.client_order_id for gone in risk.abandon(2)] == ["mm-1-1"]
    risk.on_report(report(order, OrderState.PARTIALLY_FILLED, 1, execution=3, last=1), 2)
    assert risk.exposures() == [(*BTC, ONE, 0, 0)] and list(risk) == []


def test_an_order_from_before_a_restart_is_learned_from_its_report() -> None:
    risk = ready()
    order = place(1, quantity=4)
    risk.on_report(report(order, OrderState.PARTIALLY_FILLED, 1), 5)
    assert risk.exposures() == [(*BTC, 0, 3 * ONE, 0)]
    assert risk.abandon(5) == []
    risk.on_report(report(order, OrderState.CANCELLED, 1), 5)
    assert risk.exposures() == [(*BTC, 0, 0, 0)]


def test_an_order_that_was_not_taken_leaves_nothing_and_one_that_was_stays() -> None:
    risk = ready()
    taken, lost = place(1), place(2)
    risk.approve(taken, 1, 0)
    risk.approve(lost, 1, 0)
    risk.on_report(report(taken, OrderState.WORKING), 1)
    assert risk.withdraw("mm-1-1") is None and risk.withdraw("mm-1-2") is not None
    assert [order.client_order_id for order in risk] == ["mm-1-1"]


def test_a_client_order_id_is_approved_once() -> None:
    risk = ready()
    assert risk.approve(place(1), 1, 0) is None
    assert code(risk.approve(place(1), 1, 0)) == reasons.DUPLICATE
    risk.on_report(report(place(1), OrderState.CANCELLED), 1)
    assert code(risk.approve(place(1), 1, 0)) == reasons.DUPLICATE


def test_the_rate_limits_orders_of_one_strategy_and_never_cancels() -> None:
    risk = ready(dataclasses.replace(LIMITS, position_max=1000 * ONE))
    for n in range(15):
        assert risk.approve(place(n), 1, 0) is None
    for _ in range(100):
        risk.on_cancel("mm", 0)
    assert code(risk.approve(place(50), 1, 0)) == reasons.MESSAGE_RATE
    assert risk.approve(place(51, strategy="other"), 1, 0) is None
    in_debt_s = 20 / 10
    assert code(risk.approve(place(52), 1, int(in_debt_s * 1e9))) == reasons.MESSAGE_RATE
    assert risk.approve(place(53), 1, int((in_debt_s + 0.2) * 1e9)) is None


@given(gaps=st.lists(st.integers(0, 400_000_000), max_size=200))
def test_in_no_second_more_pass_than_the_rate_and_one_burst(gaps: list[int]) -> None:
    bucket, now, passed = risks.Bucket(10, 5, 0), 0, []
    for gap in gaps:
        now += gap
        if bucket.take(now):
            passed.append(now)
    for index, begin in enumerate(passed):
        assert sum(begin <= at < begin + 1_000_000_000 for at in passed[index:]) <= 10 + 5


steps = st.lists(
    st.tuples(st.sampled_from(["buy", "sell", "fill", "cancel"]), st.integers(1, 4), st.integers(0, 30)),
    max_size=60,
)


@given(steps=steps)
def test_whatever_fills_the_position_never_passes_the_limit(steps: list[tuple[str, int, int]]) -> None:
    risk = ready(dataclasses.replace(LIMITS, messages_per_s=1000, message_burst=1000))
    live: list[Place] = []
    position = execution = 0
    for n, (what, quantity, pick) in enumerate(steps):
        if what in ("buy", "sell"):
            order = place(n, Side.BUY if what == "buy" else Side.SELL, quantity=quantity)
            if risk.approve(order, 1, 0) is None:
                live.append(order)
        elif live:
            order = live.pop(pick % len(live))
            if what == "fill":
                execution += 1
                position += order.quantity if order.side is Side.BUY else -order.quantity
                risk.on_report(
                    report(order, OrderState.FILLED, order.quantity // ONE, execution, order.quantity // ONE),
                    1,
                )
                if pick % 2:
                    risk.on_position(*BTC, position, execution)
            else:
                risk.on_report(report(order, OrderState.CANCELLED), 1)
        buys = sum(order.quantity for order in live if order.side is Side.BUY)
        sells = sum(order.quantity for order in live if order.side is Side.SELL)
        assert risk.exposures() == [(*BTC, position, buys, sells)]
        assert position + buys <= LIMITS.position_max and sells - position <= LIMITS.position_max


@pytest.mark.parametrize(
    "given",
    [{"max_position": "0"}, {"max_order_size": "1e3"}, {"price_collar_ppm": 0}, {"strategy_silent_s": 0.5}],
)
def test_limits_that_make_no_sense_are_refused_by_name(given: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(given))):
        RiskSettings(**given)  # type: ignore[arg-type]


def test_another_rate_counts_from_now_on_and_gives_nothing_away() -> None:
    bucket = risks.Bucket(10, 5, 0)
    for _ in range(5):
        assert bucket.take(0)
    bucket.configure(2, 50, SECOND)  # a second at the old rate has filled it
    assert [bucket.take(SECOND) for _ in range(6)] == [True] * 5 + [False]
    later = SECOND + SECOND // 2
    assert bucket.take(later) and not bucket.take(later), "one in half a second, at two a second"
    bucket.configure(2, 1, 30 * SECOND)
    assert [bucket.take(30 * SECOND) for _ in range(2)] == [True, False], "a smaller one holds no more"


def test_new_limits_judge_every_order_from_now_on_and_count_those_that_work() -> None:
    risk = ready()
    assert risk.approve(place(1), 1, 0) is None
    risk.configure(dataclasses.replace(LIMITS, revision=9, position_max=ONE), 0)
    assert code(risk.judge(place(2), 0)) == reasons.POSITION_LIMIT
    assert risk.limits.revision == 9 and len(risk.orders) == 1, "what was approved stays"
