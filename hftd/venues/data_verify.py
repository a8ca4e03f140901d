"""`hftctl data verify`: is a capture whole, and do the product's own adapter and book agree with the venue?

It reads the files through venues/replay.py, venues/binance.py and engine/market/book.py, as the floor does,
and counts by the venue's rules. Every bookTicker whose update id is that of the diff applied last is compared
with the rebuilt best bid and offer, every such snapshot with the rebuilt book. Between a gap and the next
snapshot only the chain of ids is judged. What could not be checked at all is a finding too. Findings are in
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
    """Holes in the chain of update ids, also among diffs that wait for a snapshot; once until that comes."""
    resyncs: int = 0
    crossed: int = 0
    """Diffs that left bid >= ask; the book was emptied each time."""
    quotes_compared: int = 0
    quotes_equal: int = 0
    """Price and quantity on both sides."""
    clock_offset_ms: float | None = None
    """Median of receive minus event time; None where no message says when it happened. Negative: the
    recorder's clock is behind the venue's."""
    waiting: int = 0
    """Diffs that wait for a snapshot at the end of the capture."""
    snapshots_compared: int = 0
    """Those that came for a book in step at its own update id."""
    snapshots_equal: int = 0

    @property
    def whole(self) -> bool:
        return not (
            self.gaps
            or self.crossed
            or self.waiting
            or self.quotes_compared != self.quotes_equal
            or self.snapshots_compared != self.snapshots_equal
        )


@dataclass(slots=True)
class Report:
    instruments: list[InstrumentReport] = field(default_factory=list)
    bad_lines: list[replay.BadLine] = field(default_factory=list)
    bad_lines_unlisted: int = 0
    findings: list[str] = field(default_factory=list)
    """What could not be checked, and trades that are missing: such a capture is not clean. A line each."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of a capture, and what is no finding."""

    @property
    def clean(self) -> bool:
        """No bad line, no gap, never crossed, every compared quote and snapshot equal, no diff waits, no
        trade is missing; and where there is depth, a book was built of it.
        """
        return not self.bad_lines and not self.findings and all(one.whole for one in self.instruments)

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
        self.diffs = self.snapshots = 0
        self._microseconds = False

    def take(self, message: market.Message) -> str:
        """Why its line is a bad one all the same: a trade that came before. Else empty."""
        report, event_ns = self.report, message.event_ns
        if event_ns:
            self.offsets_ns.append(message.receive_ns - event_ns)
            self._microseconds = self._microseconds or event_ns % 1_000_000 != 0
        if message.kind == market.Kind.DIFF:
            self.diffs += 1
            report.level_updates += len(message.bids) + len(message.asks)
        elif message.kind == market.Kind.SNAPSHOT:
            self.snapshots += 1
        elif message.kind == market.Kind.TRADE and not self.normalise.trades.take(
            message.trade_or_bar, event_ns, message.bids[0]
        ):
            return f"trade {message.trade_or_bar} again; it counts once"
        self.book.apply(message)
        return ""

    def finished(self) -> InstrumentReport:
        report = self.report
        for name, count in self.book.counts.items():
            setattr(report, name, count)
        report.waiting = self.book.waiting
        if self.offsets_ns:
            report.clock_offset_ms = round(statistics.median(self.offsets_ns) / 1e6, 3)
        return report

    def unproved(self) -> str:
        """Why nothing could be checked where there is depth; empty when something was, or there is none."""
        if self.report.applied or not (self.diffs or self.snapshots or self._skipped("partial depth")):
            return ""
        if self.diffs and not self.snapshots:
            why = "no snapshot"
        elif self.diffs:
            why = "no snapshot that a diff follows"
        else:
            why = "there is no diff"
        return f"{self._name}: no diff could be applied: {why}"

    def trades_missing(self) -> str:
        missing = self.normalise.trades.missing
        return f"{self._name}: trades missing by their ids: {missing}" if missing else ""

    def notes(self) -> list[str]:
        found = []
        if self._microseconds:
            found.append(f"{self._name}: event times in microseconds")
        skipped = ", ".join(f"{kind} {count}" for kind, count in sorted(self.normalise.skipped.items()))
        if skipped:
            found.append(f"{self._name}: skipped, no data of ours: {skipped}")
        return found

    def _skipped(self, kind: str) -> int:
        return self.normalise.skipped.get(kind, 0)

    @property
    def _name(self) -> str:
        return f"{self.report.market} {self.report.symbol}"


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
        if message is not None and (wrong := one.take(message)):
            bad(replay.BadLine(line.file, line.number, wrong))
    report.instruments = [one.finished() for one in series]
    report.findings = [why for one in series for why in (one.unproved(), one.trades_missing()) if why]
    report.notes = [note for one in series for note in one.notes()]
    return report
