"""An instrument's bad lines are one alarm, which ends by itself when they do."""

from __future__ import annotations

from hftd.venues.bad_lines import STANDS_NS, BadLines


def test_lines_of_one_instrument_are_counted_under_one_alarm_with_the_last_reason() -> None:
    bad = BadLines()
    bad.take("spot:BTCUSDT", "unknown shape", 0)
    alarm = bad.take("spot:BTCUSDT", "snapshot: no bids", 1)
    assert alarm == (
        "undecodable:spot:BTCUSDT",
        "spot:BTCUSDT",
        "spot:BTCUSDT: lines dropped: 2; the last: snapshot: no bids",
    )
    assert bad.take("spot:ETHUSDT", "unknown shape", 1).text.startswith("spot:ETHUSDT: lines dropped: 1;")


def test_the_alarm_ends_a_while_after_the_last_bad_line_and_counts_anew() -> None:
    bad = BadLines()
    bad.take("spot:BTCUSDT", "unknown shape", 0)
    bad.take("spot:BTCUSDT", "unknown shape", 10)
    assert bad.over(10 + STANDS_NS) == []
    assert bad.over(11 + STANDS_NS) == ["undecodable:spot:BTCUSDT"]
    assert bad.over(11 + STANDS_NS) == []
    assert bad.take("spot:BTCUSDT", "unknown shape", 12 + STANDS_NS).text.startswith(
        "spot:BTCUSDT: lines dropped: 1;"
    )
