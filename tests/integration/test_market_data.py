"""marketd and bookd as two processes on real sockets; the test is their agent and the venue."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _pair
from hftd import bus, settings
from hftd.engine import fixed
from hftd.engine.market import book, silence
from hftd.venues import binance, replay, synthetic
from hftd.wire import codec, feed, market, requests

FRAME_LINES = 16
SILENT_S = silence.SILENT_NS / 1e9


class Venue:
    """simd as far as marketd sees it: pushes lines of the synthetic market, answers for its own books."""

    def __init__(self, folder: Path, seed: int = 5) -> None:
        self.source = synthetic.Synthetic(seed)
        self.lines: Iterator[replay.Line] = iter(self.source)
        self.normalise = [
            binance.Normaliser(one.market, one.id, one.symbol) for one in self.source.instruments
        ]
        self.books = [book.Book() for _ in self.normalise]
        self.endpoints = {name: f"ipc://{folder}/simd.{name}" for name in ("feed", "snapshots")}
        self._push = bus.pipeline.Push(self.endpoints["feed"], hwm=4)
        self._router = bus.link.Router(self.endpoints["snapshots"])
        self.session, self.sent, self.snapshots = 1, 0, 0
        self.asker = b""
        """Whoever asked last: marketd's connection."""

    def close(self) -> None:
        self._push.close()
        self._router.close()

    def send(self, lines: list[replay.Line], *, lose: int | None = None) -> bool:
        """Push a frame; line `lose` of it counts as sent and is not in it. The books are the venue's, so they
        get it all the same.
        """
        kept = [
            (line.instrument, line.receive_ns, line.raw)
            for number, line in enumerate(lines)
            if number != lose
        ]
        if not self._push.send(feed.pack(kept, self.sent + 1, self.session)):
            return False
        self.sent += len(lines)
        for line in lines:
            if line.instrument >= len(self.books):
                continue
            message = self.normalise[line.instrument](line.raw, line.receive_ns)
            if isinstance(message, market.Message):
                self.books[line.instrument].apply(message)
        return True

    def beat(self) -> None:
        self._push.send(feed.beat(self.sent + 1, self.session))

    def answer(self) -> None:
        while self._router.socket.poll(0):
            identity, frame = self._router.socket.recv_multipart()
            self.asker = identity
            asked, envelope = requests.decode_asked(frame), (codec.VERSION, 1, 0, "simd", None)
            if isinstance(asked, requests.InstrumentsWanted):
                self._router.send(
                    identity, codec.encode(requests.Instruments(*envelope, self.source.instruments))
                )
            elif isinstance(asked, requests.SnapshotWanted) and self.books[asked.instrument].in_step:
                shown = self.books[asked.instrument]
                self.snapshots += 1
                raw = binance.snapshot(shown.last, *shown.depth(10_000))
                self._router.send(
                    identity, codec.encode(requests.SnapshotFrame(*envelope, asked.instrument, 1, raw))
                )


class Market:
    """The pair and the venue, turned together."""

    def __init__(self, folder: Path) -> None:
        self.pair, self.venue = _pair.Pair(folder), Venue(folder)
        self.pair.start("marketd", settings.MarketSettings())
        self.pair.introduce("simd-alpha-1", self.venue.endpoints)

    def start_bookd(self) -> None:
        self.pair.start("bookd", settings.BookSettings())

    def until(self, wanted: Any, what: str) -> None:
        def so() -> bool:
            self.venue.answer()
            return bool(wanted())

        self.pair.until(so, what)

    def send(self, frames: int, **how: Any) -> None:
        for _ in range(frames):
            lines = list(itertools.islice(self.venue.lines, FRAME_LINES))
            self.until(lambda lines=lines: self.venue.send(lines, **how), "the pipe takes a frame")

    def alarms(self, daemon: str) -> dict[str, str]:
        """Id -> severity."""
        return {alarm.id: alarm.severity for alarm in self.pair.status[f"{daemon}-alpha-1"].alarms}

    def for_seconds(self, seconds: float) -> Iterator[None]:
        """Turn, for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.venue.answer()
            self.pair.turn(20)
            yield

    def books(self) -> dict[str, Any]:
        self.venue.answer()
        return self.pair.ask("bookd", "books") or {}

    def in_step(self) -> bool:
        """bookd's books are the venue's, to the last id and the best of both sides."""
        found = self.books()
        for one, shown in zip(self.venue.source.instruments, self.venue.books, strict=True):
            there = found.get(one.name)
            best = [*map(fixed.text, shown.best())]
            if not there or (there["last"], there["levels"]) != (shown.last, shown.levels):
                return False
            if [there[key] for key in ("bid", "bid_quantity", "ask", "ask_quantity")] != best:
                return False
        return True

    def sum(self, key: str) -> int:
        return sum(one[key] for one in self.books().values())


@pytest.fixture
def floor() -> Iterator[Market]:
    with tempfile.TemporaryDirectory(prefix="hft-") as name:
        floor = Market(Path(name))
        try:
            with floor.pair:
                yield floor
        finally:
            floor.venue.close()


def test_the_tape_begins_with_the_first_reader_and_its_books_are_the_venues(floor: Market) -> None:
    floor.until(
        lambda: "marketd-alpha-1" in floor.pair.status and floor.pair.status["marketd-alpha-1"].ready,
        "marketd is ready",
    )
    lines = list(itertools.islice(floor.venue.lines, FRAME_LINES))
    assert not floor.venue.send(lines), "nobody reads yet"
    floor.start_bookd()
    floor.until(lambda: floor.venue.send(lines), "the first frame is taken")
    floor.send(100)
    floor.until(floor.in_step, "the books are the venue's")
    assert floor.sum("gaps") == 0 and floor.sum("quotes_compared") == floor.sum("quotes_equal") > 0
    assert (
        sum(sum(one["counts"].values()) - one["counts"]["instrument"] for one in floor.books().values())
        >= floor.venue.sent
    )


def test_a_diff_lost_between_venue_and_marketd_is_noticed_and_the_book_equal_again(floor: Market) -> None:
    floor.start_bookd()
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's")
    while True:
        lines = list(itertools.islice(floor.venue.lines, FRAME_LINES))
        diff = next((number for number, line in enumerate(lines) if b"@depth" in line.raw), None)
        floor.until(
            lambda lines=lines, diff=diff: floor.venue.send(lines, lose=diff), "the pipe takes a frame"
        )
        if diff is not None:
            break
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's again")
    assert (floor.sum("gaps"), floor.sum("resyncs"), floor.venue.snapshots) >= (1, 1, 1)
    floor.until(
        lambda: floor.pair.status["marketd-alpha-1"].counters.get("lost") == 1, "marketd counted the line"
    )


def test_a_killed_bookd_comes_back_and_resynchronises(floor: Market) -> None:
    floor.start_bookd()
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's")
    floor.pair.stop("bookd")
    floor.start_bookd()
    floor.send(100)
    floor.until(floor.in_step, "the new bookd's books are the venue's")


def test_a_killed_marketd_comes_back_and_everything_resynchronises(floor: Market) -> None:
    floor.start_bookd()
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's")
    floor.pair.stop("marketd")
    floor.pair.start("marketd", settings.MarketSettings())
    floor.send(100)
    floor.until(floor.in_step, "the books are the venue's again")
    assert floor.sum("resyncs") == len(floor.venue.books)


def test_a_new_session_of_the_venue_resynchronises_everything(floor: Market) -> None:
    floor.start_bookd()
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's")
    before = floor.pair.ask("marketd", "counts")
    floor.venue.session, floor.venue.sent = 2, 0
    floor.send(50)
    floor.until(floor.in_step, "the books are the venue's again")
    after = floor.pair.ask("marketd", "counts")
    assert before is not None and after is not None and after["session"] > before["session"]
    assert floor.sum("resyncs") == len(floor.venue.books) and floor.sum("gaps") == 0


def test_a_frozen_bookd_stops_the_venue_and_loses_nothing(floor: Market) -> None:
    floor.start_bookd()
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    frozen = floor.pair.processes["bookd"].pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        begun, refused_since = floor.venue.sent, time.monotonic()
        lines = list(itertools.islice(floor.venue.lines, FRAME_LINES))
        while time.monotonic() - refused_since < 0.5:
            if floor.venue.send(lines):
                lines, refused_since = (
                    list(itertools.islice(floor.venue.lines, FRAME_LINES)),
                    time.monotonic(),
                )
            floor.venue.answer()
            assert floor.venue.sent - begun < 20_000, "the credit of one window and the pipes, not more"
    finally:
        os.kill(frozen, signal.SIGCONT)
    floor.until(lambda: floor.venue.send(lines), "the pipe takes a frame again")
    floor.send(5)
    floor.until(floor.in_step, "the books are the venue's")
    assert floor.sum("gaps") == 0
    floor.until(lambda: "lost" in floor.pair.status["bookd-alpha-1"].counters, "bookd's counters")
    assert floor.pair.status["bookd-alpha-1"].counters["lost"] == 0


def test_a_feed_that_beats_is_quiet_and_one_that_does_not_is_silent_until_it_does(floor: Market) -> None:
    floor.start_bookd()
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    beaten_s = 0.0
    for _ in floor.for_seconds(SILENT_S + 3):
        if time.monotonic() - beaten_s > 0.9:
            floor.venue.beat()
            beaten_s = time.monotonic()
        assert "feed_silent" not in floor.alarms("marketd")
    began_s = time.monotonic()
    floor.until(lambda: floor.alarms("marketd").get("feed_silent") == "critical", "silent")
    assert time.monotonic() - began_s >= SILENT_S - 2
    assert floor.pair.status["marketd-alpha-1"].ready, "no restart helps"
    assert "market_silent" not in floor.alarms("bookd"), "marketd is there"
    floor.venue.beat()
    floor.until(lambda: "feed_silent" not in floor.alarms("marketd"), "it is back")
    floor.send(5)
    floor.until(floor.in_step, "nothing was lost")
    assert floor.sum("gaps") == 0


def test_a_feed_that_credit_holds_back_is_not_silent(floor: Market) -> None:
    floor.start_bookd()
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    frozen = floor.pair.processes["bookd"].pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        lines = list(itertools.islice(floor.venue.lines, FRAME_LINES))
        for _ in floor.for_seconds(SILENT_S + 4):
            while floor.venue.send(lines):
                lines = list(itertools.islice(floor.venue.lines, FRAME_LINES))
            assert "feed_silent" not in floor.alarms("marketd")
    finally:
        os.kill(frozen, signal.SIGCONT)
    floor.until(lambda: floor.venue.send(lines), "it goes on")


def test_a_market_data_daemon_that_hangs_is_silent_to_its_readers_and_no_longer_afterwards(
    floor: Market,
) -> None:
    floor.start_bookd()
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    frozen = floor.pair.processes["marketd"].pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        floor.until(lambda: floor.alarms("bookd").get("market_silent") == "critical", "silent")
    finally:
        os.kill(frozen, signal.SIGCONT)
    floor.until(lambda: "market_silent" not in floor.alarms("bookd"), "it is back")


def test_a_venue_that_does_not_say_what_it_trades_has_a_silent_feed(floor: Market) -> None:
    floor.start_bookd()
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    instruments, floor.venue.source.instruments = floor.venue.source.instruments, []
    floor.venue.session, floor.venue.sent = 2, 0
    floor.venue.beat()
    floor.until(lambda: "feed_silent" in floor.alarms("marketd"), "it stands")
    floor.venue.source.instruments = instruments
    counts = floor.pair.ask("marketd", "counts")

    def goes_on() -> bool:
        floor.venue.beat()
        return "feed_silent" not in floor.alarms("marketd")

    floor.until(goes_on, "it goes on")
    after = floor.pair.ask("marketd", "counts")
    assert counts is not None and after is not None and after["session"] > counts["session"]


def test_lines_that_do_not_decode_are_counted_named_and_dropped(floor: Market) -> None:
    floor.start_bookd()
    floor.send(20)
    bad = [
        replay.Line(1, 0, b'{"stream":"btcusdt@trade","data":{"p":1}}', "", 0),
        replay.Line(1, 99, b"{}", "", 0),
    ]
    floor.until(lambda: floor.venue.send(bad), "the pipe takes a frame")
    floor.send(20)
    floor.until(floor.in_step, "the books are the venue's")
    floor.until(
        lambda: floor.pair.status["marketd-alpha-1"].counters.get("undecodable") == 2, "marketd counted them"
    )
    alarms = {alarm.id: alarm for alarm in floor.pair.status["marketd-alpha-1"].alarms}
    assert (
        "unknown shape" in alarms["undecodable:spot:BTCUSDT"].text
        and "undecodable:unknown instruments" in alarms
    )


def test_the_clock_alarm_fires_when_receive_times_lie_before_event_times(floor: Market) -> None:
    floor.start_bookd()
    ahead_ms = synthetic.START_NS // 1_000_000 + 1_270
    late = [
        replay.Line(
            synthetic.START_NS,
            0,
            binance.trade("BTCUSDT", ahead_ms, n, 10**12, 10**8, buyer_is_maker=True),
            "",
            n,
        )
        for n in range(100)
    ]
    floor.until(lambda: floor.venue.send(late), "the pipe takes a frame")
    floor.until(
        lambda: any(
            a.id == "clock_offset:spot" and "1270 ms" in a.text
            for a in floor.pair.status["marketd-alpha-1"].alarms
        ),
        "the alarm",
    )
