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
