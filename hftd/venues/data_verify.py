"""`hftctl data verify`: is a capture whole, and do the product's own adapter and book agree with the venue?

It reads the files through venues/replay.py, venues/binance.py and engine/market/book.py, as the floor does,
and counts by the venue's rules. Every bookTicker whose update id is that of the diff applied last is compared
with the rebuilt best bid and offer. Nothing is judged between a gap and the next snapshot. Findings are in
the report, not exceptions.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hftd.engine.market import book
from hftd.venues import base, binance, replay
from hftd.wire import market

BAD_LINES_MAX = 10_000
"""Listed one by one; the rest are only counted, so that a file of garbage does not fill the memory."""


@dataclass(slots=True)
class InstrumentReport:
    market: str
    symbol: str
    messages: int = 0
    """Good lines, snapshots included."""
    level_updates: int = 0
    """Levels of all diffs received."""
    applied: int = 0
    stale: int = 0
    gaps: int = 0
    resyncs: int = 0
    crossed: int = 0
    """Diffs that left bid >= ask."""
    quotes_compared: int = 0
    quotes_equal: int = 0
    """Price and quantity on both sides."""
    clock_offset_ms: float | None = None
    """Median of receive minus event time; None where no message says when it happened. Negative: the
    recorder's clock is behind the venue's."""


@dataclass(slots=True)
class Report:
    instruments: list[InstrumentReport] = field(default_factory=list)
    bad_lines: list[replay.BadLine] = field(default_factory=list)
    bad_lines_unlisted: int = 0

    @property
    def clean(self) -> bool:
        """No bad line, no gap, never crossed, every compared quote equal."""
        return not self.bad_lines and all(
            not one.gaps and not one.crossed and one.quotes_compared == one.quotes_equal
            for one in self.instruments
        )

    def plain(self) -> dict[str, Any]:
        bad = [{"file": one.file, "line": one.number, "reason": one.reason} for one in self.bad_lines]
        if self.bad_lines_unlisted:
            bad.append(
                {
                    "file": bad[-1]["file"],
                    "line": bad[-1]["line"],
                    "reason": f"and {self.bad_lines_unlisted} more bad lines",
                }
            )
        return {"instruments": [asdict(one) for one in self.instruments], "bad_lines": bad}


class _Series:
    """One instrument being verified."""

    def __init__(self, market: str, symbol: str) -> None:
        self.report = InstrumentReport(market, symbol)
        self.normalise = binance.Normaliser(market, symbol=symbol)
        self.book = book.Book()
        self.offsets_ns = array("q")

    def take(self, message: market.Message) -> None:
        report = self.report
        if message.event_ns:
            self.offsets_ns.append(message.receive_ns - message.event_ns)
        kind = message.kind
        if kind == market.Kind.DIFF:
            report.level_updates += len(message.bids) + len(message.asks)
            outcome = self.book.diff(
                message.first, message.last, message.previous, message.bids, message.asks
            )
            if outcome is book.APPLIED:
                report.applied += 1
                report.crossed += self.book.crossed
            elif outcome is book.STALE:
                report.stale += 1
            elif outcome is book.GAP:
                report.gaps += 1
        elif kind == market.Kind.SNAPSHOT:
            self._restore(self.book.snapshot(message.last, message.bids, message.asks))
        elif kind == market.Kind.TICKER and message.last == self.book.at_diff:
            report.quotes_compared += 1
            report.quotes_equal += self.book.best() == message.bids[0] + message.asks[0]

    def _restore(self, restored: book.Restored | book.Ignored) -> None:
        if isinstance(restored, book.Ignored):
            return
        report = self.report
        report.applied += restored.applied
        report.crossed += restored.crossed
        report.gaps += restored.gap
        if restored.resync:
            report.resyncs += 1
        else:
            report.stale += restored.stale

    def finished(self) -> InstrumentReport:
        if self.offsets_ns:
            self.report.clock_offset_ms = round(statistics.median(self.offsets_ns) / 1e6, 3)
        return self.report


def verify(paths: Sequence[Path]) -> Report:
    """Read the captures (files, or folders recursively) from beginning to end.

    Raises:
        InvalidInput: a path does not exist, or there is nothing to read.
    """
    tape = replay.Tape(paths)
    series = [_Series(instrument.market, instrument.symbol) for instrument in tape.instruments]
    report = Report()

    def bad(line: replay.BadLine) -> None:
        if len(report.bad_lines) < BAD_LINES_MAX:
            report.bad_lines.append(line)
        else:
            report.bad_lines_unlisted += 1

    for line in tape:
        if isinstance(line, replay.BadLine):
            bad(line)
            continue
        one = series[line.instrument]
        message = one.normalise(line.raw, line.receive_ns)
        if isinstance(message, base.Undecodable):
            bad(replay.BadLine(line.file, line.number, message.reason))
            continue
        one.report.messages += 1
        if message is not None:
            one.take(message)
    report.instruments = [one.finished() for one in series]
    return report
