"""A publisher goes as far as its slowest reader allows, and nowhere without one."""

from __future__ import annotations

from hftd.engine.market import clock_offset, credit


def test_nothing_may_go_out_without_a_reader() -> None:
    credits = credit.Credits(1_000)
    credits.begin(7)
    assert credits.up_to == 0


def test_the_slowest_reader_sets_the_limit_and_one_that_is_gone_does_not() -> None:
    credits = credit.Credits(1_000)
    credits.begin(7)
    assert credits.grant("a", 7, 500, 0) == 500
    assert credits.grant("b", 7, 300, 0) == 300
    assert credits.grant("a", 7, 600, 900) == 300
    assert credits.forget_silent(1_001) == ["b"]
    assert credits.up_to == 600
    assert credits.forget_silent(2_000) == ["a"] and credits.up_to == 0


def test_a_grant_for_another_session_is_ignored_and_a_new_session_begins_at_nothing() -> None:
    credits = credit.Credits(1_000)
    credits.begin(7)
    assert credits.grant("a", 6, 500, 0) == 0
    credits.grant("a", 7, 500, 0)
    credits.begin(8)
    assert credits.up_to == 0


def test_a_restarted_reader_of_the_same_name_replaces_its_predecessor() -> None:
    credits = credit.Credits(1_000)
    credits.begin(7)
    credits.grant("bookd", 7, 500, 0)
    assert credits.grant("bookd", 7, 900, 10) == 900


def test_the_clock_offset_is_a_median_of_enough_samples() -> None:
    offset = clock_offset.ClockOffset()
    for sample in [-1_270] * 20 + [10**9] * 4:
        offset.add(sample)
    assert offset.median_ns() is None
    offset.add(-1_270)
    assert offset.median_ns() == -1_270
