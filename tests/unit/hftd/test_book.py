"""A book is right or it is not there: the venue's chain rules, one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine.market import book
from hftd.wire import market


def restored(
    last: int = 100, bids: list[book.Level] | None = None, asks: list[book.Level] | None = None
) -> book.Book:
    one = book.Book()
    one.snapshot(last, bids or [(10, 5), (9, 7)], asks or [(12, 4), (13, 6)])
    return one


def test_an_empty_book_has_no_best_and_is_not_in_step() -> None:
    one = book.Book()
    assert one.best() == (0, 0, 0, 0) and not one.in_step and not one.crossed


def test_a_snapshot_gives_the_best_of_both_sides() -> None:
    one = restored()
    assert one.best() == (10, 5, 12, 4) and one.levels == 4 and one.last == 100


def test_quantity_zero_removes_a_level_and_the_next_one_is_the_best() -> None:
    one = restored()
    assert one.diff(101, 102, 0, [(10, 0)], [(12, 0), (11, 3)]) is book.APPLIED
    assert one.best() == (9, 7, 11, 3)


def test_removing_a_level_that_is_not_there_does_nothing() -> None:
    one = restored()
    assert one.diff(101, 101, 0, [(8, 0)], []) is book.APPLIED
    assert one.levels == 4


def test_a_price_that_leaves_and_returns_is_the_best_again() -> None:
    one = restored()
    one.diff(101, 101, 0, [(10, 0)], [])
    one.diff(102, 102, 0, [(10, 1)], [])
    one.diff(103, 103, 0, [(10, 0)], [])
    assert one.best()[:2] == (9, 7)


# --- spot: U/u ----------------------------------------------------------------------------------------------


def test_spot_diff_at_or_below_the_book_is_stale() -> None:
    one = restored(100)
    assert one.diff(90, 100, 0, [(10, 99)], []) is book.STALE
    assert one.best()[1] == 5


def test_spot_diff_that_overlaps_the_snapshot_is_applied() -> None:
    assert restored(100).diff(95, 101, 0, [], []) is book.APPLIED


def test_spot_diff_beyond_the_next_id_is_a_gap_said_once_and_empties_the_book() -> None:
    one = restored(100)
    assert one.diff(102, 103, 0, [], []) is book.GAP
    assert not one.in_step and one.levels == 0 and one.best() == (0, 0, 0, 0)
    assert one.diff(104, 105, 0, [], []) is book.WAITING


def test_diffs_before_the_first_snapshot_are_kept_then_judged() -> None:
    one = book.Book()
    for first, last in ((90, 95), (96, 100), (101, 103), (104, 104)):
        assert one.diff(first, last, 0, [(last, last)], []) is book.WAITING
    assert one.snapshot(100, [(1, 1)], [(200, 1)]) == book.Restored(
        applied=2, stale=2, crossed=0, gap=False, resync=False
    )
    assert one.bids == {1: 1, 103: 103, 104: 104} and one.last == 104 and one.at_diff == 104


def test_a_snapshot_too_old_for_the_kept_diffs_is_a_gap() -> None:
    one = book.Book()
    one.diff(110, 111, 0, [], [])
    outcome = one.snapshot(100, [(10, 5)], [])
    assert isinstance(outcome, book.Restored) and outcome.gap and not one.in_step
    assert one.snapshot(109, [(10, 5)], []) == book.Restored(1, 0, 0, False, True)


def test_after_a_gap_kept_diffs_that_the_snapshot_holds_are_dropped_and_newer_ones_applied() -> None:
    one = restored(100)
    assert one.diff(103, 104, 0, [(3, 3)], []) is book.GAP
    one.diff(105, 106, 0, [(4, 4)], [])
    one.diff(107, 108, 0, [(5, 5)], [])
    assert one.snapshot(106, [(9, 1)], []) == book.Restored(
        applied=1, stale=2, crossed=0, gap=False, resync=True
    )
    assert one.bids == {9: 1, 5: 5}


def test_a_snapshot_for_a_book_in_step_is_ignored() -> None:
    one = restored(100)
    assert one.snapshot(90, [], []) == book.Ignored(90)
    assert one.best() == (10, 5, 12, 4)


# --- futures: pu --------------------------------------------------------------------------------------------


def test_futures_first_diff_covers_the_snapshot_and_the_rest_follow_their_predecessor() -> None:
    one = restored(100)
    assert one.diff(80, 99, 79, [], []) is book.STALE
    assert one.diff(90, 100, 85, [], []) is book.APPLIED
    assert one.diff(110, 120, 100, [], []) is book.APPLIED
    assert one.diff(105, 118, 100, [], []) is book.STALE
    assert one.diff(140, 150, 130, [], []) is book.GAP


def test_futures_snapshot_between_two_sparse_ids_is_followed_by_the_later_diff() -> None:
    assert restored(100).diff(105, 110, 98, [], []) is book.APPLIED
    assert restored(100).diff(105, 110, 100, [], []) is book.APPLIED
    assert restored(100).diff(105, 110, 101, [], []) is book.GAP


def test_at_diff_is_zero_until_a_diff_has_been_applied() -> None:
    one = restored(100)
    assert one.at_diff == 0
    one.diff(90, 100, 80, [], [])
    assert one.at_diff == 100


# --- the whole ----------------------------------------------------------------------------------------------


def test_crossed_is_seen() -> None:
    one = restored()
    one.diff(101, 101, 0, [(12, 1)], [])
    assert one.crossed


def test_apply_takes_messages_and_leaves_other_kinds_alone() -> None:
    one = book.Book()
    snapshot = market.Message(0, market.Kind.SNAPSHOT, 0, 0, 0, 0, 0, 7, 0, 0, [(10, 1)], [(11, 1)])
    assert isinstance(one.apply(snapshot), book.Restored)
    assert one.apply(snapshot._replace(kind=market.Kind.DIFF, first=8, last=8)) is book.APPLIED
    assert one.apply(snapshot._replace(kind=market.Kind.TRADE)) is None


def test_depth_is_best_first() -> None:
    assert restored().depth(1) == ([(10, 5)], [(12, 4)])
    assert restored().depth(9) == ([(10, 5), (9, 7)], [(12, 4), (13, 6)])


def test_kept_diffs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = book.Book()
    for number in range(book.KEPT_MAX + 10):
        one.diff(number, number, 0, [], [])
    assert (
        isinstance(one.snapshot(book.KEPT_MAX + 9, [], []), book.Restored) and one.last == book.KEPT_MAX + 9
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3)), max_size=400))
def test_the_best_is_always_that_of_the_levels(changes: list[tuple[bool, int, int]]) -> None:
    one = book.Book()
    one.snapshot(0, [], [])
    for number, (is_bid, price, quantity) in enumerate(changes, 1):
        level = [(price, quantity)]
        one.diff(number, number, 0, level if is_bid else [], [] if is_bid else level)
        bid, ask = max(one.bids, default=0), min(one.asks, default=0)
        assert one.best() == (bid, one.bids.get(bid, 0), ask, one.asks.get(ask, 0))


def test_the_heap_of_bests_stays_in_proportion_to_the_book() -> None:
    one, chance = book.Book(), random.Random(1)
    one.snapshot(0, [(1, 1)], [(10**9, 1)])
    for number in range(1, 40_000):
        price = chance.randrange(2, 10**6)
        one.diff(number, number, 0, [(price, 1)], [])
        one.diff(number, number, 0, [], [])
        one.bids.pop(price)  # as a later diff would
    assert len(one._bid_heap) <= 2 * one.levels + book.HEAP_SLACK + 1
