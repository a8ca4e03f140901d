"""The market maker: both sides at the touch, bounded in rate and inventory, healed by itself when a report is
lost.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidSettings
from hftd.engine import fixed
from hftd.settings import StrategySettings
from hftd.strategies import base, market_making
from hftd.strategies.base import Cancel, Fill, Instrument, Intent, Level, OrderUpdate, Place, Quote
from hftd.wire.orders import Kind, OrderState, Side

ONE = fixed.UNIT
TICK = ONE // 100
MS = 1_000_000
BTC = Instrument("spot", "BTCUSDT")


def maker(**changed: object) -> market_making.MarketMaking:
    strategy = market_making.MarketMaking(dataclasses.asdict(StrategySettings()) | changed)
    strategy.on_position(BTC, 0, 0, 0)
    return strategy


def quote(bid: int, ask: int, bids: int = ONE, asks: int = ONE, origin_ns: int = 5) -> Quote:
    return Quote(BTC, Level(bid * TICK, bids), Level(ask * TICK, asks), origin_ns, 9)


def update(place: Place, state: OrderState, filled: int = 0) -> OrderUpdate:
    return OrderUpdate(place.order, f"s-{place.order}", place.instrument, place.side, state, filled, "")


def working(strategy: market_making.MarketMaking, intents: list[Intent], now_ns: int) -> list[Place]:
    places = [intent for intent in intents if isinstance(intent, Place)]
    for intent in intents:
        if isinstance(intent, Place):
            assert strategy.on_order(update(intent, OrderState.WORKING), now_ns) == []
        else:
            gone = Place(intent.order, intent.instrument, Side.BUY, Kind.POST_ONLY, 0, 0, 0, 0)
            assert strategy.on_order(update(gone, OrderState.CANCELLED), now_ns) == []
    return places


def test_it_quotes_both_sides_post_only_at_the_touch_with_the_ticks_origin() -> None:
    buy, sell = maker().on_quote(quote(6_180_000, 6_180_010), 0)
    assert isinstance(buy, Place) and isinstance(sell, Place)
    assert (buy.side, buy.kind, buy.price, buy.quantity) == (
        Side.BUY,
        Kind.POST_ONLY,
        6_180_000 * TICK,
        ONE // 1000,
    )
    assert (sell.side, sell.price, sell.origin_ns, sell.origin_seq) == (Side.SELL, 6_180_010 * TICK, 5, 9)
    assert buy.price * buy.quantity % ONE == 0


def test_nothing_is_quoted_before_the_position_is_known() -> None:
    strategy = market_making.MarketMaking(dataclasses.asdict(StrategySettings()))
    assert strategy.on_quote(quote(100_00, 100_02), 0) == []
    strategy.on_position(BTC, 0, 0, 1)
    assert len(strategy.on_quote(quote(100_00, 100_02), 2)) == 2


def test_a_quote_follows_the_touch_by_one_replacement_of_one_tick() -> None:
    strategy = maker()
    first = working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1 * MS)
    assert strategy.on_quote(quote(100_00, 100_02, bids=2 * ONE), 2 * MS) == []
    assert strategy.on_quote(quote(100_01, 100_02), 3 * MS) == [], "too soon"
    moved = strategy.on_quote(quote(100_01, 100_02, origin_ns=77), 600 * MS)
    (only,) = moved
    assert isinstance(only, Place) and (only.price, only.origin_ns, only.replaces) == (
        100_01 * TICK,
        77,
        first[0].order,
    )


@pytest.mark.parametrize(
    ("bid", "ask", "first"),
    [(100_02, 100_04, Side.SELL), (99_98, 100_00, Side.BUY), (100_01, 100_03, Side.BUY)],
)
def test_the_side_that_makes_room_is_moved_before_a_new_order_could_meet_an_own_one(
    bid: int, ask: int, first: Side
) -> None:
    strategy = maker()
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    moved = strategy.on_quote(quote(bid, ask), 600 * MS)
    assert [isinstance(intent, Place) and intent.replaces > 0 for intent in moved] == [True, True]
    assert isinstance(moved[0], Place) and moved[0].side is first


def test_a_side_that_is_not_quoted_any_more_is_cancelled_before_the_other_is_moved() -> None:
    strategy = maker()
    buy, sell = working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    strategy.on_position(BTC, -20 * ONE, 1, 2)
    moved = strategy.on_quote(quote(100_02, 100_04), 600 * MS)
    assert moved[0] == Cancel(sell.order, BTC, origin_ns=5)
    assert isinstance(moved[1], Place) and (moved[1].side, moved[1].replaces) == (Side.BUY, buy.order)


def test_a_throttled_move_is_made_up_for_by_the_timer_and_has_no_origin() -> None:
    strategy = maker()
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    assert strategy.on_quote(quote(100_01, 100_02), 100 * MS) == []
    assert strategy.on_timer(400 * MS) == []
    moved = strategy.on_timer(500 * MS)
    assert len(moved) == 1 and all(intent.origin_ns == 0 for intent in moved)


@pytest.mark.parametrize(
    "state", [OrderState.REFUSED, OrderState.REJECTED, OrderState.CANCELLED, OrderState.FILLED]
)
def test_an_order_that_ended_is_quoted_anew_after_its_interval(state: OrderState) -> None:
    strategy = maker()
    buy, _ = working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    assert strategy.on_order(update(buy, state), 2 * MS) == []
    again = strategy.on_timer(500 * MS)
    assert (
        len(again) == 1
        and isinstance(again[0], Place)
        and again[0].side is Side.BUY
        and again[0].order != buy.order
    )


def test_a_cancel_unasked_is_quoted_anew_at_once_when_the_interval_is_over() -> None:
    strategy = maker()
    buy, _ = working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    strategy.on_quote(quote(100_00, 100_02), 5_000 * MS)
    again = strategy.on_order(update(buy, OrderState.CANCELLED), 5_001 * MS)
    assert len(again) == 1 and isinstance(again[0], Place)


def test_an_order_never_heard_of_is_cancelled_forgotten_and_quoted_anew() -> None:
    strategy = maker()
    placed = strategy.on_quote(quote(100_00, 100_02), 0)
    assert strategy.on_timer(1_900 * MS) == []
    healed = strategy.on_timer(2_000 * MS)
    assert [type(intent) for intent in healed] == [Cancel, Cancel, Place, Place]
    assert {intent.order for intent in healed[:2]} == {intent.order for intent in placed}


def test_an_order_thought_lost_that_lives_is_cancelled_as_a_stray() -> None:
    strategy = maker()
    buy = strategy.on_quote(quote(100_00, 100_02), 0)[0]
    assert isinstance(buy, Place)
    strategy.on_timer(2_000 * MS)
    assert strategy.on_order(update(buy, OrderState.WORKING), 2_100 * MS) == [
        Cancel(buy.order, BTC, f"s-{buy.order}")
    ]
    assert strategy.on_order(update(buy, OrderState.CANCELLED), 2_200 * MS) == []
    earlier = OrderUpdate(0, "mm-1-77", BTC, Side.SELL, OrderState.PARTIALLY_FILLED, 1, "")
    assert strategy.on_order(earlier, 2_300 * MS) == [Cancel(0, BTC, "mm-1-77")]


def test_a_cancel_never_answered_is_asked_again_and_then_given_up() -> None:
    strategy = maker(quote_age_max_s=3600)
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    moved = strategy.on_quote(quote(100_01, 100_02), 600 * MS)
    assert isinstance(moved[0], Place)
    strategy.on_order(update(moved[0], OrderState.WORKING), 601 * MS)
    asked = [intent for at in range(700, 9_000, 100) for intent in strategy.on_timer(at * MS)]
    assert asked == [Cancel(moved[0].replaces, BTC)] * (market_making.CANCELS_MAX - 1)
    assert strategy.on_quote(quote(100_00, 100_02), 9_000 * MS) != [], "the side moves again"


def test_an_old_quote_without_news_is_renewed() -> None:
    strategy = maker(top_age_max_s=100)
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    assert strategy.on_timer(29_000 * MS) == []
    renewed = strategy.on_timer(30_001 * MS)
    assert len(renewed) == 2 and all(isinstance(intent, Place) and intent.replaces for intent in renewed)


def test_quotes_are_pulled_when_the_book_falls_out_of_step_or_the_top_is_old() -> None:
    strategy = maker()
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    pulled = strategy.on_book(BTC, False, 2 * MS)
    assert [type(intent) for intent in pulled] == [Cancel, Cancel]
    assert strategy.on_timer(3_000 * MS)[2:] == []

    strategy = maker()
    working(strategy, strategy.on_quote(quote(100_00, 100_02), 0), 1)
    assert [type(intent) for intent in strategy.on_timer(10_000 * MS)] == [Cancel, Cancel]


@pytest.mark.parametrize(("held", "side"), [(20, Side.SELL), (-20, Side.BUY)])
def test_at_the_inventory_limit_only_the_reducing_side_is_quoted(held: int, side: Side) -> None:
    strategy = maker()
    strategy.on_position(BTC, held * ONE // 1000, 40, 0)
    placed = strategy.on_quote(quote(6_180_000, 6_180_010), 1)
    assert [intent.side for intent in placed if isinstance(intent, Place)] == [side]


def test_own_fills_count_before_positiond_has_told_them() -> None:
    strategy = maker()
    strategy.on_position(BTC, 19 * ONE // 1000, 40, 0)
    assert len(strategy.on_quote(quote(6_180_000, 6_180_010), 1)) == 2
    strategy.on_fill(Fill(1, BTC, Side.BUY, 6_180_000 * TICK, ONE // 1000, 41), 2)
    strategy.on_fill(Fill(1, BTC, Side.BUY, 6_180_000 * TICK, ONE // 1000, 41), 2)
    assert strategy.on_order(OrderUpdate(1, "", BTC, Side.BUY, OrderState.FILLED, 1, ""), 3) == []
    assert strategy.on_timer(600 * MS) == []


@pytest.mark.parametrize(
    ("bids", "asks", "sides"),
    [(300, 1, [Side.BUY]), (1, 300, [Side.SELL]), (101, 1, [Side.BUY]), (99, 1, [Side.BUY, Side.SELL])],
)
def test_a_side_whose_price_is_not_better_than_fair_is_not_quoted(
    bids: int, asks: int, sides: list[Side]
) -> None:
    # Spread 0.02: fair passes the offer when bid volume - ask volume reaches 0.01 / 0.0001 = 100.
    placed = maker().on_quote(quote(2_680_00, 2_680_02, bids * ONE, asks * ONE), 0)
    assert [intent.side for intent in placed if isinstance(intent, Place)] == sides
    assert len(maker(skew_ppm=0).on_quote(quote(2_680_00, 2_680_02, bids * ONE, asks * ONE), 0)) == 2


@pytest.mark.parametrize(
    "top", [quote(0, 100_02), quote(100_02, 100_02), quote(100_03, 100_02), quote(100_00, 100_02, bids=0)]
)
def test_an_empty_locked_or_crossed_top_is_not_quoted(top: Quote) -> None:
    assert maker().on_quote(top, 0) == []


def test_what_could_not_be_booked_exactly_is_not_quoted() -> None:
    top = Quote(BTC, Level(100 * ONE + 1, ONE), Level(100 * ONE + 3, ONE), 1, 1)
    assert maker(quantity_step="0.001").on_quote(top, 0) == []


def test_parameters_may_change_while_trading_and_bad_ones_leave_the_old() -> None:
    strategy = maker()
    with pytest.raises(InvalidSettings, match="order_notional"):
        strategy.configure({})
    strategy.configure(dataclasses.asdict(StrategySettings()) | {"order_notional": "200"})
    assert strategy.parameters.order_notional == 200 * ONE


moves = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(99_90, 100_10),
        st.integers(1, 5),
        st.integers(1, 400),
        st.integers(1, 400),
        st.integers(0, 9),
    ),
    max_size=120,
)


@given(moves=moves)
def test_whatever_happens_rate_and_working_orders_stay_bounded(
    moves: list[tuple[int, int, int, int, int, int]],
) -> None:
    """Every third report is lost; even so a side has at most two orders that are not ended or forgotten, and
    places at most twice a second.
    """
    strategy, now, placed = maker(), 0, {Side.BUY: [0], Side.SELL: [0]}
    prices: dict[int, tuple[Side, int]] = {}
    for n, (wait_ms, bid, spread, bids, asks, fate) in enumerate(moves):
        now += wait_ms * MS
        out = strategy.on_quote(quote(bid, bid + spread, bids * ONE, asks * ONE), now)
        out += strategy.on_timer(now)
        for intent in out:
            if isinstance(intent, Cancel):
                if n % 3 and intent.order in prices:
                    side, _ = prices.pop(intent.order)
                    gone = Place(intent.order, BTC, side, Kind.POST_ONLY, 0, 0, 0, 0)
                    out += strategy.on_order(update(gone, OrderState.CANCELLED), now)
                continue
            if n % 3 and intent.replaces in prices:
                side, _ = prices.pop(intent.replaces)
                gone = Place(intent.replaces, BTC, side, Kind.POST_ONLY, 0, 0, 0, 0)
                out += strategy.on_order(update(gone, OrderState.CANCELLED), now)
            placed[intent.side].append(now)
            assert intent.price == (bid if intent.side is Side.BUY else bid + spread) * TICK
            prices[intent.order] = (intent.side, intent.price)
            if n % 3:
                state = OrderState.WORKING if fate else OrderState.REJECTED
                out += strategy.on_order(update(intent, state), now)
        for side in strategy._markets[BTC].sides:
            assert len({order.number for order in (side.quote, side.leaving) if order}) <= 2
        assert len(strategy._orders) <= 4
    for times in placed.values():
        assert all(later - earlier >= 500 * MS for earlier, later in itertools.pairwise(times[1:]))


def test_a_strategy_that_overrides_nothing_does_nothing() -> None:
    idle = base.Strategy()
    assert idle.on_quote(quote(1, 2), 0) == idle.on_timer(0) == idle.on_book(BTC, True, 0) == []
