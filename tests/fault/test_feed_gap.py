"""Fault: what simd sends does not all reach marketd. It is noticed, the book resynchronises from a snapshot
and is equal again.

First with a tap between the two real daemons that drops one diff, with the numbers of the feed telling (lost
on the way) and with numbers that hide it (the venue lost it: only the update ids tell); then on a whole
floor, where a stranger takes frames away from the feed.
"""

from __future__ import annotations

import gzip
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from benchmarks import _pair
from controlplane.floor import folders
from controlplane.http import unix
from hftd import bus, settings
from hftd.engine import fixed
from hftd.engine.market import book
from hftd.venues import binance, replay, synthetic
from hftd.wire import feed, market
from tests.support import floors

pytestmark = pytest.mark.timeout(180)
SYNTHETIC_LINES = 20_000
RECORDED_LINES = 15_000
"""Of each file."""


def synthetic_tape(folder: Path) -> Path:
    source = synthetic.Synthetic(11)
    series: dict[int, list[bytes]] = {each.id: [] for each in source.instruments}
    for line in itertools.islice(source, SYNTHETIC_LINES):
        series[line.instrument].append(b"%d %s\n" % (line.receive_ns, line.raw))
    (folder / "spot").mkdir()
    for each in source.instruments:
        (folder / "spot" / f"{each.symbol.lower()}_20231114.gz").write_bytes(
            gzip.compress(b"".join(series[each.id]), 1)
        )
    return folder / "spot"


def recorded_tape(folder: Path, recorded: Path) -> Path:
    """The beginning of the USD-M capture: enough for some hundred diffs of each instrument."""
    (folder / "usdm").mkdir()
    for file in sorted((recorded / "usdm").glob("*.gz")):
        lines = itertools.islice(
            (text for text in replay.inflate(file) if isinstance(text, bytes)), RECORDED_LINES
        )
        (folder / "usdm" / file.name).write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines), 1))
    return folder / "usdm"


class Tap(_pair.Pair):
    """simd, marketd and bookd as processes; the frames of the feed go through here."""

    def __init__(self, folder: Path, tape: Path) -> None:
        super().__init__(folder)
        self.tape = replay.Tape([tape])
        self._endpoint = f"ipc://{folder}/tap"
        self._push, self._pull = bus.pipeline.Push(self._endpoint, hwm=4), bus.pipeline.Pull(hwm=4)
        self._frame: bytes | None = None
        self._diffs = 0
        self.hidden = False
        self.dropped: feed.Line | None = None
        self._drop_at = (
            sum(b"@depth" in line.raw[:64] for line in self.tape if isinstance(line, replay.Line)) // 2
        )

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._push.close()
        self._pull.close()

    def introduce(self, instance: str, endpoints: dict[str, str]) -> None:
        if "feed" in endpoints:
            self._pull.connect(endpoints["feed"])
            endpoints = endpoints | {"feed": self._endpoint}
        super().introduce(instance, endpoints)

    def pump(self) -> None:
        """Pass on what is here and what is taken."""
        while self._frame is not None or self._pull.socket.poll(0):
            if self._frame is None:
                self._frame = self._without_one(self._pull.socket.recv())
            if not self._push.send(self._frame):
                return
            self._frame = None

    def _without_one(self, frame: bytes) -> bytes:
        head, lines = feed.header(frame), list(feed.lines(frame))
        for at, line in enumerate(lines):
            self._diffs += b"@depth" in line.raw[:64]
            if self.dropped is None and self._diffs == self._drop_at:
                self.dropped = lines.pop(at)
                return self._pack(lines, head.sequence, head.session)
        return self._pack(lines, head.sequence - (self.hidden and self.dropped is not None), head.session)

    @staticmethod
    def _pack(lines: list[feed.Line], sequence: int, session: int) -> bytes:
        return feed.pack([(line.instrument, line.receive_ns, line.raw) for line in lines], sequence, session)

    def turned_until(self, wanted: Any, what: str) -> None:
        def so() -> bool:
            self.pump()
            return bool(wanted())

        self.until(so, what, timeout_s=60)

    def books(self) -> dict[str, dict[str, Any]]:
        self.pump()
        return self.ask("bookd", "books") or {}


def whole_books(tape: replay.Tape) -> dict[str, dict[str, Any]]:
    """The end of each book, from every line of the tape."""
    normalise = [binance.Normaliser(each.market, each.id, each.symbol) for each in tape.instruments]
    books = [book.Book() for _ in normalise]
    for line in tape:
        assert isinstance(line, replay.Line)
        message = normalise[line.instrument](line.raw, line.receive_ns)
        if isinstance(message, market.Message):
            books[line.instrument].apply(message)
    return {
        each.name: {"in_step": True, "last": shown.last, "levels": shown.levels}
        | dict(
            zip(("bid", "bid_quantity", "ask", "ask_quantity"), map(fixed.text, shown.best()), strict=True)
        )
        for each, shown in zip(tape.instruments, books, strict=True)
    }


@pytest.mark.parametrize("hidden", [False, True], ids=["the-feed-numbers-tell", "only-the-update-ids-tell"])
@pytest.mark.parametrize("kind", ["synthetic", pytest.param("recorded", marks=pytest.mark.recorded)])
def test_one_diff_dropped_between_simd_and_marketd_is_noticed_and_the_book_is_equal_again(
    kind: str, hidden: bool, request: pytest.FixtureRequest
) -> None:
    with tempfile.TemporaryDirectory(prefix="hft-") as name:
        folder = Path(name)
        tape = (
            synthetic_tape(folder)
            if kind == "synthetic"
            else recorded_tape(folder, request.getfixturevalue("recorded"))
        )
        with Tap(folder, tape) as floor:
            floor.hidden = hidden
            expected = whole_books(floor.tape)
            floor.start("simd", settings.SimSettings(tape=(str(tape),), speed="max"))
            floor.start("marketd", settings.MarketSettings())
            floor.start("bookd", settings.BookSettings())

            def equal() -> bool:
                found = floor.books()
                return all(
                    name in found and all(found[name][key] == value for key, value in shown.items())
                    for name, shown in expected.items()
                )

            floor.turned_until(equal, "bookd's books are those of the whole tape")
            assert floor.dropped is not None
            books, counts = floor.books(), floor.ask("marketd", "counts")
            hit = floor.tape.instruments[floor.dropped.instrument].name
            for name, found in books.items():
                assert (found["gaps"], found["resyncs"]) == ((1, 1) if name == hit else (0, 0)), name
                assert found["quotes_compared"] == found["quotes_equal"] > 0, (
                    "nothing was judged while the book was out of step"
                )
            assert counts is not None
            published = sum(
                n
                for kinds in counts["instruments"].values()
                for kind, n in kinds.items()
                if kind != "snapshot"
            )
            assert (
                published
                == sum(
                    not line.raw.startswith(b'{"lastUpdateId"')
                    for line in floor.tape
                    if isinstance(line, replay.Line)
                )
                - 1
            )
            status = floor.status["marketd-alpha-1"]
            floor.turned_until(
                lambda: floor.status["marketd-alpha-1"].counters.get("lost", 0) == (not hidden),
                f"marketd's own count; {status}",
            )
            assert any(event.kind == "feed.gap" for event in floor.events) is not hidden


# --- on a floor ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor("--seed", "3") as one:
        yield one


def books(floor: floors.Floor) -> dict[str, dict[str, Any]]:
    answer = unix.request(
        folders.Folders(floor.site_dir).agent_socket("alpha"), "GET", "/v1/site/ask/bookd/books", timeout_s=10
    )
    told = json.loads(answer.body)
    return dict(told["body"]) if told["ok"] else {}


def taken_away(floor: floors.Floor) -> int:
    """Frames of the feed that a stranger has pulled, the last one with a diff; what else was in its pipe is
    lost with it.
    """
    pull = bus.pipeline.Pull(hwm=1)
    try:
        pull.connect(floor.instance("simd-alpha-1")["endpoints"]["feed"])
        for count in itertools.count(1):
            assert pull.socket.poll(20_000, zmq.POLLIN), "the feed goes on"
            if any(b"@depth" in line.raw for line in feed.lines(pull.socket.recv())):
                return count
    finally:
        pull.close()
    raise AssertionError("not reached")


def test_frames_taken_away_on_a_floor_are_counted_said_and_healed_without_a_restart(
    floor: floors.Floor,
) -> None:
    before = floors.wait_for(
        "books in step",
        lambda: (now := books(floor)) and all(one["quotes_compared"] > 20 for one in now.values()) and now,
    )
    assert floor.status()["flow"]["lost"] == 0
    assert taken_away(floor) >= 1
    floors.wait_for("lost messages in the status", lambda: floor.status()["flow"]["lost"] > 0)
    floors.wait_for(
        "an event", lambda: [event for event in floor.json("events") if event["kind"] == "feed.gap"]
    )

    def healed() -> bool:
        """In step, and judged right by more quotes than before."""
        now = books(floor)
        return all(
            one["in_step"] and one["quotes_compared"] > before[name]["quotes_compared"] + 20
            for name, one in now.items()
        )

    floors.wait_for("books in step again", healed)
    now = books(floor)
    assert all(
        one["quotes_equal"] == one["quotes_compared"] and one["crossed"] == 0 for one in now.values()
    ), now
    assert sum(one["resyncs"] for one in now.values()) >= 1
    status = floor.status()
    assert status["healthy"] and all(
        i["restarts"] == 0 for service in status["services"] for i in service["instances"]
    )


def test_trading_goes_on_after_the_gap(floor: floors.Floor) -> None:
    orders = floor.status()["flow"]["orders"]
    floors.wait_for("new orders", lambda: floor.status()["flow"]["orders"] > orders + 2, pause_s=0.2)
