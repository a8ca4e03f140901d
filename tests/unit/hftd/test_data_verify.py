"""`data verify` counts by the rules of the venue and names every bad line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from hftd.venues import binance, data_verify

BIDS, ASKS = [(10, 1), (9, 1)], [(12, 1), (13, 1)]


def spot(*lines: bytes | tuple[int, bytes]) -> bytes:
    """Lines received a second apart, from 1 s on; a tuple says its own time."""
    timed = [line if isinstance(line, tuple) else (n * 10**9, line) for n, line in enumerate(lines, 1)]
    return b"".join(b"%d %s\n" % line for line in timed)


def snapshot(last: int) -> bytes:
    return binance.snapshot(last, BIDS, ASKS)


def diff(first: int, last: int, bids: list[tuple[int, int]] | None = None, event_ms: int = 500) -> bytes:
    return binance.diff("BTCUSDT", event_ms, first, last, bids or [(8, 1)], [])


def ticker(last: int, quantity: int = 1) -> bytes:
    return binance.ticker("BTCUSDT", last, (10, quantity, 12, 1))


def verify(folder: Path, data: bytes) -> tuple[data_verify.InstrumentReport, data_verify.Report]:
    path = folder / "spot" / "btcusdt_20240808.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(data))
    report = data_verify.verify([path])
    return report.instruments[0], report


def test_a_whole_capture_is_clean(tmp_path: Path) -> None:
    one, report = verify(
        tmp_path, spot(diff(90, 99), diff(100, 101), snapshot(100), ticker(101), diff(102, 103), ticker(104))
    )
    assert (one.market, one.symbol, one.messages, one.level_updates) == ("spot", "BTCUSDT", 6, 3)
    assert (one.applied, one.stale, one.gaps, one.resyncs, one.crossed) == (2, 1, 0, 0, 0)
    assert (one.quotes_compared, one.quotes_equal) == (1, 1)
    assert report.clean


def test_between_a_gap_and_the_next_snapshot_nothing_is_applied_stale_or_compared(tmp_path: Path) -> None:
    lines = [
        snapshot(100),
        diff(101, 101),
        diff(105, 106),
        diff(107, 108),
        ticker(108),
        diff(107, 108),
        snapshot(108),
        diff(109, 109),
        ticker(109),
    ]
    one, report = verify(tmp_path, spot(*lines))
    assert (one.applied, one.stale, one.gaps, one.resyncs) == (2, 0, 1, 1)
    assert (one.quotes_compared, one.quotes_equal, one.level_updates) == (1, 1, 5)
    assert not report.clean


def test_a_quote_that_differs_is_compared_and_not_equal(tmp_path: Path) -> None:
    one, report = verify(tmp_path, spot(snapshot(100), diff(101, 101), ticker(101, quantity=2)))
    assert (one.quotes_compared, one.quotes_equal) == (1, 0) and not report.clean


def test_a_quote_at_the_snapshots_own_id_is_not_compared(tmp_path: Path) -> None:
    assert verify(tmp_path, spot(snapshot(100), ticker(100)))[0].quotes_compared == 0


def test_a_crossing_diff_empties_the_book_kept_ones_too(tmp_path: Path) -> None:
    lines = [
        diff(101, 101, [(12, 1)]),
        snapshot(100),
        diff(102, 102),
        snapshot(102),
        diff(103, 103, [(13, 1)]),
    ]
    one, report = verify(tmp_path, spot(*lines))
    assert (one.applied, one.crossed, one.resyncs) == (2, 2, 1) and not report.clean


def test_the_clock_offset_is_a_median_in_ms(tmp_path: Path) -> None:
    lines = [(10**9 + n, diff(n, n, event_ms=2_270)) for n in range(1, 4)]
    assert verify(tmp_path, spot((1, snapshot(0)), *lines))[0].clock_offset_ms == -1270.0


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    data = (
        spot(snapshot(100), diff(101, 101), b"{oops}", diff(102, 102), (10**9, diff(103, 103))) + b"no line\n"
    )
    one, report = verify(tmp_path, data)
    assert one.applied == 3 and one.messages == 4, "out of order is reported and applied"
    assert [(bad["line"], bad["reason"].split(":")[0]) for bad in report.plain()["bad_lines"]] == [
        (3, "unknown shape"),
        (5, "out of order"),
        (6, "unknown shape"),
    ]
    assert not report.clean


def test_a_file_of_garbage_does_not_fill_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_verify, "BAD_LINES_MAX", 3)
    bad = verify(tmp_path, b"garbage\n" * 10)[1].plain()["bad_lines"]
    assert len(bad) == 4 and bad[3]["reason"] == "and 7 more bad lines"


def test_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        data_verify.verify([tmp_path / "nothing.gz"])


def test_the_report_has_the_fields_of_the_issue_and_no_others(tmp_path: Path) -> None:
    plain = verify(tmp_path, spot(snapshot(1)))[1].plain()
    assert list(plain) == ["instruments", "bad_lines"]
    names = [
        "market",
        "symbol",
        "messages",
        "level_updates",
        "applied",
        "stale",
        "gaps",
        "resyncs",
        "crossed",
    ]
    behind = ["clock_offset_ms", "waiting", "snapshots_compared", "snapshots_equal"]
    assert list(plain["instruments"][0]) == [*names, "quotes_compared", "quotes_equal", *behind]


def test_trades_that_come_twice_or_never_are_named(tmp_path: Path) -> None:
    trades = [
        binance.trade("BTCUSDT", n, number, 10, 1, buyer_is_maker=True)
        for n, number in ((1, 8), (2, 9), (2, 9), (5, 12), (4, 11), (6, 13))
    ]
    _, report = verify(tmp_path, spot(*trades))
    assert [(line.number, line.reason) for line in report.bad_lines] == [(3, "trade 9 again; it counts once")]
    assert report.findings == ["spot BTCUSDT: trades missing by their ids: 1"] and not report.clean


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([diff(1, 1)], "no diff could be applied: no snapshot"),
        ([diff(1, 1), snapshot(9)], "no diff could be applied: no snapshot that a diff follows"),
        ([snapshot(9)], "no diff could be applied: there is no diff"),
        ([ticker(9), binance.trade("BTCUSDT", 1, 1, 10, 1, buyer_is_maker=True)], ""),
    ],
)
def test_a_capture_with_depth_in_which_nothing_was_proved_says_so(
    tmp_path: Path, lines: list[bytes], why: str
) -> None:
    _, report = verify(tmp_path, spot(*lines))
    assert report.findings == ([f"spot BTCUSDT: {why}"] if why else []) and report.clean is not bool(why)
