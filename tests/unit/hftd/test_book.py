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


def test_a_snapshot_with_another_id_leaves_a_book_in_step_as_it_is() -> None:
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


def test_a_diff_that_crosses_the_book_is_applied_and_empties_it() -> None:
    one = restored()
    assert one.diff(101, 101, 0, [(12, 1)], []) is book.CROSSED
    assert not one.in_step and not one.crossed and one.levels == 0 and "101" in one.lost
    assert (one.counts["applied"], one.counts["crossed"], one.counts["gaps"]) == (1, 1, 0)
    assert one.diff(102, 102, 0, [(12, 0)], []) is book.WAITING
    assert one.snapshot(101, [(11, 1)], [(12, 1)]) == book.Restored(1, 0, 0, False, True)


def test_a_kept_diff_that_crosses_the_snapshot_empties_the_book_and_the_rest_waits() -> None:
    one = book.Book()
    one.diff(101, 101, 0, [(12, 1)], [])
    one.diff(102, 102, 0, [(12, 0)], [])
    assert one.snapshot(100, [(10, 1)], [(12, 1)]) == book.Restored(1, 0, 1, False, False)
    assert not one.in_step and one.waiting == 1


def test_a_crossed_snapshot_is_of_no_use() -> None:
    one = book.Book()
    assert one.snapshot(100, [(12, 1)], [(12, 1)]) == book.Ignored(100) and not one.in_step


# --- what the stream says against a book in step ------------------------------------------------------------


def test_lower_ids_are_old_by_an_earlier_time_and_a_new_chain_by_a_later_one() -> None:
    one = restored(100)
    one.diff(101, 105, 0, [], [], 50)
    assert one.diff(90, 95, 0, [], [], 50) is book.STALE
    assert one.diff(1, 2, 0, [(5, 1)], [], 51) is book.GAP and "begin again lower" in one.lost
    assert one.snapshot(1, [(4, 1)], [(6, 1)]) == book.Restored(1, 0, 0, False, True)
    assert one.best() == (5, 1, 6, 1)


@pytest.mark.parametrize("futures", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_snapshot_before_the_first_new_diff_closes_the_gap(futures: bool, late: bool) -> None:
    """Also with an older answer behind it, and with one that overtook some diffs of the new chain."""
    one = restored(100)
    one.diff(101, 105, 100 if futures else 0, [], [], 1)
    assert one.snapshot(200, [(20, 1)], [(22, 1)]) == book.Ignored(200) and one.in_step
    if late:
        assert one.snapshot(104, [(1, 1)], [(2, 1)]) == book.Ignored(104)
    found = one.diff(199, 203, 198 if futures else 0, [(21, 3)], [], 2)
    assert found == book.Restored(1, 0, 0, False, True) and one.in_step
    assert one.best() == (21, 3, 22, 1) and one.at_diff == 203
    assert (one.counts["gaps"], one.counts["resyncs"], one.counts["applied"]) == (1, 1, 2)


def test_a_snapshot_that_overtakes_the_first_new_diffs_closes_the_gap_too() -> None:
    one = restored(100)
    one.diff(101, 105, 0, [], [], 1)
    one.snapshot(200, [(20, 1)], [(22, 1)])
    assert one.diff(190, 195, 0, [(19, 1)], [], 2) is book.GAP and not one.in_step
    assert one.diff(196, 199, 0, [], [], 3) is book.WAITING, (
        "it may be of another chain, until a diff is there"
    )
    assert one.diff(200, 201, 0, [(21, 1)], [], 4) == book.Restored(1, 2, 0, False, True)
    assert one.best() == (21, 1, 22, 1)


def test_a_snapshot_of_the_old_chain_is_not_taken_for_the_new_one() -> None:
    """It is ahead of the book when ids begin again lower: all diffs of the new chain would be old to it."""
    one = restored(100)
    one.diff(101, 105, 0, [], [], 1)
    one.snapshot(110, [(20, 1)], [(22, 1)])
    assert one.diff(1, 3, 0, [], [], 2) is book.GAP and not one.in_step


def test_a_chain_that_goes_on_leaves_the_snapshot_aside_until_it_has_passed_it() -> None:
    one = restored(100)
    one.diff(101, 105, 0, [(10, 7)], [])
    one.snapshot(110, [(20, 1)], [(22, 1)])
    assert one.diff(106, 107, 0, [], []) is book.APPLIED and one.best() == (10, 7, 12, 4)
    assert isinstance(one.diff(110, 112, 0, [], []), book.Restored), "it was of use after all"
    one.snapshot(115, [(30, 1)], [(32, 1)])
    assert one.diff(113, 116, 0, [], []) is book.APPLIED
    assert one.diff(118, 119, 0, [], []) is book.GAP


def test_a_snapshot_at_the_books_own_diff_is_compared_within_what_both_know() -> None:
    one = restored(100, bids=[(10, 5), (9, 7)], asks=[(12, 4), (13, 6)])
    one.diff(101, 101, 0, [(3, 1)], [(20, 1)])  # beyond what the book's own snapshot showed
    assert one.snapshot(101, [(10, 5), (9, 7), (8, 1)], [(12, 4)]) == book.Ignored(101)
    assert (one.counts["snapshots_compared"], one.counts["snapshots_equal"]) == (1, 1)
    assert one.snapshot(101, [(10, 5), (9, 7)], [(12, 5)]) == book.Restored(0, 0, 0, False, True)
    assert (one.counts["snapshots_compared"], one.counts["snapshots_equal"]) == (2, 1)
    assert one.best() == (10, 5, 12, 5) and one.at_diff == 101
    assert one.diff(102, 102, 0, [], []) is book.APPLIED


def test_a_quote_at_the_same_id_that_is_another_empties_the_book() -> None:
    one = restored(100)
    assert one.quote(100, (1, 1, 2, 2)), "no diff yet: the snapshot's own id proves nothing"
    one.diff(101, 101, 0, [], [])
    assert one.quote(101, (10, 5, 12, 4)) and one.quote(99, (1, 1, 2, 2)) and one.in_step
    assert not one.quote(101, (10, 5, 12, 5)) and not one.in_step
    assert (one.counts["quotes_compared"], one.counts["quotes_equal"]) == (2, 1)


def test_stale_diffs_in_a_row_are_bounded_by_number_and_by_time() -> None:
    one = restored(100_000)
    for number in range(1, book.STALE_MAX + 1):
        assert one.diff(number, number, 0, [], [], 1) is book.STALE
    assert one.diff(book.STALE_MAX, book.STALE_MAX, 0, [], [], 1) is book.GAP and not one.in_step
    one = book.Book()
    one.snapshot(10_000, [(1, 1)], [(2, 1)], receive_ns=5)
    assert one.diff(1, 1, 0, [], [], 1, 1) is book.STALE
    assert one.diff(2, 2, 0, [], [], 1, 5 + book.STALE_NS_MAX) is book.STALE
    assert one.diff(3, 3, 0, [], [], 1, 6 + book.STALE_NS_MAX) is book.GAP
    assert one.snapshot(2, [(1, 1)], [(2, 1)]) == book.Restored(1, 0, 0, False, True)


def test_the_chain_of_diffs_that_wait_is_checked_and_a_hole_said_once() -> None:
    one = book.Book()
    outcomes = [one.diff(n, n, 0, [], [], n) for n in (1, 2, 4, 6)]
    assert outcomes == [book.WAITING, book.WAITING, book.GAP, book.WAITING] and one.waiting == 4
    assert one.snapshot(3, [(1, 1)], [(2, 1)]).__class__ is book.Restored
    assert one.counts["gaps"] == 1, "the next hole was there before the snapshot, and has been said"


def test_ids_that_begin_again_while_diffs_wait_leave_only_the_new_chain() -> None:
    one = book.Book()
    for number in (1_000, 1_001):
        one.diff(number, number, 0, [], [], number)
    assert one.diff(7, 7, 0, [(3, 1)], [], 2_000) is book.GAP and one.waiting == 1
    assert one.snapshot(6, [(1, 1)], [(9, 1)]) == book.Restored(1, 0, 0, False, False)
    assert one.best() == (3, 1, 9, 1)


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
