"""Each trade is taken once, and what never came is counted, in whatever order the stream brings them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hftd.engine.market import trade_ids


def taken(kept: trade_ids.TradeIds, *numbers: int) -> list[int]:
    """The ids that were taken; a trade's time and contents follow from its id."""
    return [number for number in numbers if kept.take(number, number * 10, ("price", number))]


def test_the_first_id_begins_and_a_jump_is_missing_trades() -> None:
    kept = trade_ids.TradeIds()
    assert taken(kept, 100, 101, 105) == [100, 101, 105]
    assert (kept.missing, kept.doubled) == (3, 0)


def test_a_trade_that_comes_late_is_missing_no_more_and_one_that_comes_again_is_not_taken() -> None:
    kept = trade_ids.TradeIds()
    assert taken(kept, 1, 2, 6, 4, 4, 2, 6, 3, 5) == [1, 2, 6, 4, 3, 5]
    assert (kept.missing, kept.doubled) == (0, 3)


def test_ids_that_begin_again_lower_with_a_later_time_are_new_trades() -> None:
    kept = trade_ids.TradeIds()
    taken(kept, 1_000, 1_001)
    assert all(kept.take(number, 20_000 + number, "") for number in (1, 2, 3))
    assert not kept.take(3, 20_003, "") and (kept.missing, kept.doubled) == (0, 1)


def test_another_trade_under_the_same_id_and_one_without_an_id_are_taken() -> None:
    kept = trade_ids.TradeIds()
    assert kept.take(7, 1, "a") and kept.take(7, 1, "b") and not kept.take(7, 1, "a")
    assert kept.take(0, 0, "a") and kept.take(0, 0, "a")


def test_an_id_from_nowhere_is_not_that_many_lost_trades_and_harms_no_later_one() -> None:
    kept = trade_ids.TradeIds()
    assert taken(kept, 1, 2) and kept.take(1 << 62, 30, "") and kept.missing == trade_ids.MISSING_MAX
    assert taken(kept, 4, 5, 6) == [4, 5, 6] and kept.doubled == 0


def test_what_is_remembered_is_bounded() -> None:
    kept = trade_ids.TradeIds()
    for number in range(2, 20_000, 2):
        taken(kept, number)
    assert len(kept._recent) + len(kept._before) <= 2 * trade_ids.RECENT_MAX
    assert len(kept._holes) <= trade_ids.HOLES_MAX


@given(st.sets(st.integers(1, 60), min_size=1), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_takes_each_once(numbers: set[int], chance: object) -> None:
    order = sorted(numbers) + sorted(numbers)[: len(numbers) // 2]
    chance.shuffle(order)  # type: ignore[attr-defined]
    first, *rest = order
    kept = trade_ids.TradeIds()
    low = [number for number in rest if number < first]  # before the count began: nobody knows of them
    order = [first, *(number for number in rest if number not in low)]
    assert sorted(taken(kept, *order)) == sorted(set(order))
    assert kept.doubled == len(order) - len(set(order))
    assert kept.missing == max(order) - first + 1 - len(set(order))
