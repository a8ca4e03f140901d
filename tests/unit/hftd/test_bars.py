"""Bars hold what was traded in their length of time, and come out once."""

from __future__ import annotations

import pytest

from hftd.engine.market import bars


def test_a_bar_is_open_high_low_close_volume_and_count() -> None:
    kept = bars.Bars(100)
    for receive_ns, price, quantity in ((110, 5, 1), (120, 9, 2), (130, 3, 3), (199, 6, 4)):
        assert kept.close(receive_ns) == []
        kept.trade(1, receive_ns, price, quantity)
    assert kept.close(199) == []
    assert kept.close(200) == [bars.Bar(1, 100, 100, open=5, high=9, low=3, close=6, volume=10, trades=4)]
    assert kept.close(10**9) == []


def test_instruments_have_bars_of_their_own_and_a_second_without_trades_has_none() -> None:
    kept = bars.Bars(100)
    kept.trade(2, 50, 1, 1)
    kept.trade(1, 60, 1, 1)
    kept.trade(3, 150, 1, 1)
    assert [(bar.begin_ns, bar.instrument) for bar in kept.close(500)] == [(0, 1), (0, 2), (100, 3)]
    assert kept.due_ns == bars.NEVER_NS


def test_volume_over_64_bits_is_refused_not_wrapped() -> None:
    kept = bars.Bars(100)
    assert kept.trade(1, 0, 1, bars.VOLUME_MAX)
    assert not kept.trade(1, 1, 2, 1)
    assert kept.close(100) == [bars.Bar(1, 0, 100, 1, 1, 1, 1, bars.VOLUME_MAX, 1)]


def test_no_length_is_refused() -> None:
    with pytest.raises(ValueError):
        bars.Bars(0)


def test_a_trade_of_a_bar_that_is_out_or_behind_an_open_one_is_in_no_bar() -> None:
    kept = bars.Bars(100)
    kept.trade(1, 110, 5, 1)
    assert len(kept.close(200)) == 1
    assert kept.trade(1, 199, 9, 1) and kept.late == 1 and kept.close(300) == []
    kept.trade(1, 310, 6, 1)
    assert kept.trade(1, 299, 9, 1) and kept.late == 2
    assert kept.close(400) == [bars.Bar(1, 300, 100, 6, 6, 6, 6, 1, 1)]
    assert kept.trade(1, 250, 9, 1) and kept.late == 3, (
        "behind one that is out, though it had none of its own"
    )
    assert kept.trade(2, 250, 9, 1) and kept.late == 3, "another instrument is not touched"


def test_the_edge_of_a_bar_belongs_to_the_next_one() -> None:
    kept = bars.Bars(100)
    kept.trade(1, 100, 5, 1)
    assert [bar.begin_ns for bar in kept.close(200)] == [100]
    kept.trade(1, 200, 6, 1)
    assert kept.late == 0 and [bar.begin_ns for bar in kept.close(300)] == [200]


def test_a_stream_that_goes_on_inside_a_bar_makes_no_second_one_and_a_new_one_does() -> None:
    kept = bars.Bars(100)
    kept.trade(1, 110, 5, 1)
    assert len(kept.resume()) == 1
    kept.trade(1, 150, 6, 1)
    kept.trade(1, 250, 7, 1)
    assert kept.late == 1 and [bar.begin_ns for bar in kept.close(300)] == [200]
    assert kept.resume() == []
    kept.trade(1, 20, 5, 1)
    assert [bar.begin_ns for bar in kept.close(100)] == [0] and kept.late == 1


def test_another_length_ends_the_open_bars_and_begins_none_in_a_time_that_had_one() -> None:
    kept = bars.Bars(100)
    kept.trade(1, 250, 5, 1)
    assert kept.relength(100) == [], "the same length changes nothing"
    assert kept.relength(1000) == [bars.Bar(1, 200, 100, 5, 5, 5, 5, 1, 1)], "as it was"
    kept.trade(1, 300, 6, 1)
    assert kept.late == 1 and kept.close(999) == [], "the second that holds it had a bar"
    kept.trade(1, 1_200, 7, 1)
    assert kept.close(2_000) == [bars.Bar(1, 1_000, 1_000, 7, 7, 7, 7, 1, 1)]
