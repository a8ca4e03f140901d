"""The recorded day through the product's own adapter and book: what is known of it must come out."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest

from hftd.engine.market import book, books
from hftd.venues import binance, data_verify, intake, replay
from hftd.wire import market

pytestmark = pytest.mark.recorded

APPLIED_AND_STALE = {
    ("spot", "BTCUSDT"): (6_493, 2),
    ("spot", "ETHUSDT"): (6_468, 2),
    ("usdm", "BTCUSDT"): (6_547, 4),
    ("usdm", "ETHUSDT"): (6_581, 5),
    ("cm", "BTCUSD_PERP"): (44_772, 23),
    ("cm", "ETHUSD_PERP"): (39_133, 22),
}


@pytest.fixture(scope="module")
def report(recorded: Path) -> data_verify.Report:
    return data_verify.verify([recorded])


def test_every_message_and_level_is_read(report: data_verify.Report) -> None:
    assert sum(one.messages for one in report.instruments) == 524_627
    assert sum(one.level_updates for one in report.instruments) == 2_540_651
    assert report.bad_lines == [] and report.clean


def test_no_gap_and_never_crossed(report: data_verify.Report) -> None:
    assert {(one.gaps, one.resyncs, one.crossed) for one in report.instruments} == {(0, 0, 0)}


def test_applied_and_stale_by_the_venues_rules(report: data_verify.Report) -> None:
    assert {
        (one.market, one.symbol): (one.applied, one.stale) for one in report.instruments
    } == APPLIED_AND_STALE


def test_rebuilt_books_equal_the_venues_own_quotes(report: data_verify.Report) -> None:
    found = {(one.market, one.symbol): (one.quotes_compared, one.quotes_equal) for one in report.instruments}
    assert found["usdm", "BTCUSDT"] == (126, 126) and found["usdm", "ETHUSDT"] == (80, 80)


def test_the_recorders_clock_is_seen_to_be_behind(report: data_verify.Report) -> None:
    assert all(
        -1_280 < one.clock_offset_ms < -1_260 for one in report.instruments if one.clock_offset_ms is not None
    )
    assert all(one.clock_offset_ms is not None for one in report.instruments)


@pytest.mark.parametrize("folder", ["usdm", "spot", "cm"])
def test_a_dropped_diff_is_noticed_healed_by_a_snapshot_and_the_book_equal_again(
    recorded: Path, folder: str
) -> None:
    """One diff of each instrument never arrives; the venue answers with a snapshot of its own book, some
    lines later than it was asked.
    """
    tape = replay.Tape([recorded / folder])
    taken, publisher = intake.Intake(tape.instruments), market.Batch(1)
    normalise = [binance.Normaliser(one.market, one.id, one.symbol) for one in tape.instruments]
    venue = [book.Book() for _ in tape.instruments]
    floor = books.Books(10**9)
    diffs = [0 for _ in tape.instruments]
    answers: list[tuple[int, int]] = []
    """(line at which the venue's snapshot arrives, instrument)"""

    def publish(packed: object) -> None:
        assert isinstance(packed, bytes), packed
        publisher.add(packed)
        data = publisher.flush()
        assert data is not None and floor.frame(data) is (publisher.sequence > 2)
        floor.out.clear()

    for packed in taken.reference(1):
        publish(packed)
    for number, line in enumerate(itertools.islice(tape, 25_000)):
        assert isinstance(line, replay.Line)
        message = normalise[line.instrument](line.raw, line.receive_ns)
        assert isinstance(message, market.Message)
        venue[line.instrument].apply(message)
        diffs[line.instrument] += message.kind == market.Kind.DIFF
        if message.kind == market.Kind.DIFF and diffs[line.instrument] == 300:
            continue
        publish(taken.line(line.instrument, line.raw, line.receive_ns, 1))
        if message.kind == market.Kind.DIFF and diffs[line.instrument] == 301:
            assert line.instrument in floor.wanted, "the very next diff shows the gap"
            answers.append((number + 40, line.instrument))
        while answers and answers[0][0] == number:
            _, instrument = answers.pop(0)
            asked = venue[instrument]
            raw = binance.snapshot(asked.last, *asked.depth(100_000))
            publish(taken.line(instrument, raw, line.receive_ns, 1))
    assert all(count > 400 for count in diffs) and not floor.wanted and floor.lost == 0
    for instrument, whole in enumerate(venue):
        entry = floor.entries[instrument]
        assert (entry.outcomes["gaps"], entry.outcomes["resyncs"]) == (1, 1)
        assert entry.outcomes["quotes_equal"] == entry.outcomes["quotes_compared"]
        assert (entry.book.bids, entry.book.asks, entry.book.last) == (whole.bids, whole.asks, whole.last)


def test_marketd_would_raise_its_clock_alarm(recorded: Path) -> None:
    tape = replay.Tape([recorded])
    taken = intake.Intake(tape.instruments)
    for line in itertools.islice(tape, 3_000):
        assert isinstance(line, replay.Line)
        taken.line(line.instrument, line.raw, line.receive_ns, 1)
    for offset in taken.offsets.values():
        median_ns = offset.median_ns()
        assert median_ns is not None and -1_300_000_000 < median_ns < -1_200_000_000


def test_a_recorder_that_was_away_comes_back_with_the_snapshot_before_its_first_diff(
    recorded: Path, tmp_path: Path
) -> None:
    """Seconds 60 to 65 are missing; the snapshot, of 1,000 levels, stands before the first diff behind
    them."""
    (source,) = (recorded / "usdm").glob("btcusdt_*.gz")
    tape, whole = replay.Tape([source]), book.Book()
    normalise = binance.Normaliser("usdm", 0, "BTCUSDT")
    lines: list[bytes] = []
    begin_ns, back = 0, False
    for line in tape:
        assert isinstance(line, replay.Line)
        begin_ns = begin_ns or line.receive_ns
        if (away := line.receive_ns - begin_ns) < 65 * 10**9:
            message = normalise(line.raw, line.receive_ns)
            assert isinstance(message, market.Message)
            whole.apply(message)
        elif not back:
            back = True
            lines.append(b"%d %s" % (line.receive_ns, binance.snapshot(whole.last, *whole.depth(1_000))))
        if not 60 * 10**9 <= away < 65 * 10**9:
            lines.append(b"%d %s" % (line.receive_ns, line.raw))
    path = tmp_path / "usdm" / source.name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b"\n".join(lines), 1))
    (one,) = data_verify.verify([path]).instruments
    assert (one.applied, one.stale, one.gaps, one.resyncs) == (6_451, 4, 1, 1)
    assert (one.quotes_compared, one.quotes_equal, one.crossed) == (125, 125, 0)
