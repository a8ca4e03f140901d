"""The order's state machine: every move of the table, no other, and what repeated reports do."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine import reasons
from hftd.engine.orders import order
from hftd.wire.orders import Kind, OrderState, Side


def an_order(state: OrderState = OrderState.PENDING_NEW, filled: int = 0) -> order.Order:
    made = order.Order(
        "omsd-1-1", "c-1", "strategy-mm", "spot", "BTCUSDT", Side.BUY, Kind.POST_ONLY, 100, 10, epoch=1
    )
    made.state, made.filled = state, filled
    return made


@pytest.mark.parametrize(("before", "after"), list(itertools.product(OrderState, OrderState)))
def test_only_moves_of_the_table_are_made(before: OrderState, after: OrderState) -> None:
    moved = an_order(before, 10 if after is OrderState.FILLED else 0)
    if after in order.MOVES[before]:
        moved.move(after)
        assert moved.state is after
    else:
        with pytest.raises(order.IllegalMove, match=f"{before.name} to {after.name}"):
            moved.move(after)
        assert moved.state is before


def test_terminal_states_are_those_without_a_way_out() -> None:
    assert frozenset(state for state in OrderState if not order.MOVES[state]) == order.TERMINAL


def test_an_order_is_filled_only_when_all_of_it_is() -> None:
    with pytest.raises(order.IllegalMove, match="3 of 10"):
        an_order(OrderState.WORKING, 3).move(OrderState.FILLED)


def test_a_report_sent_again_is_no_news() -> None:
    known = an_order()
    assert known.reported(OrderState.WORKING, 0)
    assert not known.reported(OrderState.WORKING, 0)
    assert known.reported(OrderState.PARTIALLY_FILLED, 4)
    assert not known.reported(OrderState.PARTIALLY_FILLED, 4)
    assert not known.reported(OrderState.WORKING, 0)
    assert known.reported(OrderState.FILLED, 10)
    assert not known.reported(OrderState.FILLED, 10)
    assert not known.reported(OrderState.PARTIALLY_FILLED, 4)
    assert known.state is OrderState.FILLED


def test_a_pending_cancel_stays_pending_while_fills_come() -> None:
    known = an_order()
    assert known.cancel_wanted()
    assert not known.reported(OrderState.WORKING, 0)
    assert known.reported(OrderState.PARTIALLY_FILLED, 4)
    assert (known.state, known.filled) == (OrderState.PENDING_CANCEL, 4)
    assert known.cancel_wanted()
    assert known.reported(OrderState.CANCELLED, 6)
    assert (known.state, known.filled, known.cancel_wanted()) == (OrderState.CANCELLED, 6, False)


def test_an_order_whose_cancel_was_refused_is_where_its_fills_put_it() -> None:
    for filled, state in ((0, OrderState.WORKING), (4, OrderState.PARTIALLY_FILLED)):
        known = an_order(OrderState.PENDING_CANCEL, filled)
        known.answered = True
        known.cancel_refused()
        assert known.state is state
    with pytest.raises(order.IllegalMove, match="none pending"):
        an_order(OrderState.WORKING).cancel_refused()


def test_an_order_that_was_never_answered_is_unknown_after_its_cancel_was_refused() -> None:
    known = an_order()
    assert known.cancel_wanted()
    known.cancel_refused()
    assert known.state is OrderState.UNKNOWN and known.open
    assert known.cancel_wanted() and known.state is OrderState.PENDING_CANCEL
    known.cancel_refused()
    assert known.reported(OrderState.WORKING, 0) and known.state is OrderState.WORKING


def test_an_answer_that_comes_while_the_cancel_is_pending_is_remembered() -> None:
    known = an_order()
    assert known.cancel_wanted() and not known.reported(OrderState.WORKING, 0)
    known.cancel_refused()
    assert known.state is OrderState.WORKING


@pytest.mark.parametrize(
    ("state", "filled", "report", "total"),
    [
        (OrderState.WORKING, 0, OrderState.PARTIALLY_FILLED, 11),
        (OrderState.WORKING, 0, OrderState.PENDING_NEW, 0),
        (OrderState.WORKING, 0, OrderState.UNKNOWN, 0),
        (OrderState.CANCELLED, 4, OrderState.PARTIALLY_FILLED, 5),
        (OrderState.CANCELLED, 4, OrderState.FILLED, 10),
        (OrderState.FILLED, 10, OrderState.CANCELLED, 10),
        (OrderState.WORKING, 0, OrderState.FILLED, 9),
        (OrderState.PARTIALLY_FILLED, 4, OrderState.CANCELLED, 3),
        (OrderState.WORKING, 0, OrderState.REJECTED, 0),
    ],
)
def test_a_report_that_cannot_be_true_raises_and_changes_nothing(
    state: OrderState, filled: int, report: OrderState, total: int
) -> None:
    known = an_order(state, filled)
    with pytest.raises(order.IllegalMove):
        known.reported(report, total)
    assert (known.state, known.filled) == (state, filled)


@given(st.lists(st.tuples(st.sampled_from(list(OrderState)), st.integers(-1, 12)), max_size=12))
def test_whatever_is_reported_fills_never_fall_and_nothing_follows_the_end(
    reports: list[tuple[OrderState, int]],
) -> None:
    known = an_order()
    for state, filled in reports:
        before = (known.state, known.filled)
        try:
            known.reported(state, filled)
        except order.IllegalMove:
            assert (known.state, known.filled) == before
        assert before[1] <= known.filled <= known.quantity
        assert before[0] not in order.TERMINAL or (known.state, known.filled) == before


def test_every_reason_has_a_sentence() -> None:
    codes = {value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
    assert codes == set(reasons.TEXTS)
    assert reasons.text("position_limit") == "Position limit exceeded"
    assert reasons.text("a venue's own") == "a venue's own"
