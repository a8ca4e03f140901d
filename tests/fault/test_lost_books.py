"""A book that the tape proves wrong, on real simd, marketd and bookd: it is named while it waits, nothing is
published of it, and it comes back as soon as the tape lets it.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _pair
from hftd import settings
from hftd.daemons import bookd
from tests.support import cases

TRADES = b"".join(
    b'17231612563%02d000000 {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256322,'
    b'"T":1723161256322,"s":"BTCUSDT","t":%d,"p":"61800.30","q":"0.006","m":true}}\n' % (number, 100 + number)
    for number in range(9)
)


@pytest.fixture(params=cases.SHIFTS.values(), ids=cases.SHIFTS.keys())
def shift(request: pytest.FixtureRequest) -> cases.Shift:
    assert isinstance(request.param, cases.Shift)
    return request.param


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hft-") as name:
        yield Path(name)


def played(folder: Path, case: str, shift: cases.Shift) -> _pair.Pair:
    """The three daemons after the whole capture of a case at full speed."""
    return played_tape(folder, cases.capture(folder, case, shift))


def played_tape(folder: Path, tape: Path) -> _pair.Pair:
    floor = _pair.Pair(folder)
    floor.start("simd", settings.SimSettings(tape=(str(tape),), speed="max"))
    floor.start("marketd", settings.MarketSettings())
    floor.start("bookd", settings.BookSettings())
    return floor


def alarms(floor: _pair.Pair, daemon: str) -> dict[str, str]:
    status = floor.status.get(f"{daemon}-alpha-1")
    return {alarm.id: alarm.text for alarm in status.alarms} if status else {}


def critical(floor: _pair.Pair, daemon: str) -> set[str]:
    """What makes the site unhealthy."""
    status = floor.status.get(f"{daemon}-alpha-1")
    return {alarm.id for alarm in status.alarms if alarm.severity == "critical"} if status else set()


def books(floor: _pair.Pair) -> dict[str, dict[str, Any]]:
    return floor.ask("bookd", "books") or {}


def ended(floor: _pair.Pair) -> bool:
    return "tape_end" in alarms(floor, "simd")


def test_books_come_back_by_the_snapshot_before_the_first_new_diff(folder: Path, shift: cases.Shift) -> None:
    with played(folder, "02-snapshot-before-first-diff/hole", shift) as floor:
        floor.until(lambda: ended(floor), "the end of the tape")

        def whole() -> bool:
            found = books(floor).values()
            return len(found) == 2 and all(one["in_step"] and one["applied"] == 22 for one in found)

        floor.until(whole, "both books in step, every diff applied")
        found = books(floor).values()
        assert [(one["gaps"], one["resyncs"]) for one in found] == [(1, 1), (1, 1)]
        assert all(one["quotes_equal"] == one["quotes_compared"] for one in found)
        floor.until(
            lambda: (
                {event.fields["instrument"] for event in floor.events if event.kind == "book.lost"}
                == {*books(floor)}
            ),
            "an event for each",
        )
        assert not [
            id for daemon in ("simd", "bookd") for id in alarms(floor, daemon) if id.startswith("book:")
        ]


@pytest.mark.parametrize(
    ("case", "line", "why"),
    [
        ("01-update-ids-start-again/restart-no-snapshot", 26, "ids begin again lower"),
        ("03-no-snapshot/no-snapshot", 0, "no snapshot has come"),
        ("17-crossed-and-contradicted/crossed", 2, "crossed by the diff"),
    ],
)
def test_a_book_that_waits_is_an_alarm_that_names_what_lost_it(
    folder: Path, case: str, line: int, why: str, shift: cases.Shift
) -> None:
    tape = cases.capture(folder, case, shift)
    if case.startswith("17"):  # until the snapshot that heals it
        for path in tape.rglob("*.gz"):
            path.write_bytes(gzip.compress(b"\n".join(gzip.decompress(path.read_bytes()).split(b"\n")[:21])))
    floor = played_tape(folder, tape)
    with floor:
        floor.until(lambda: ended(floor), "the end of the tape")
        floor.until(lambda: len(books(floor)) > 0, "bookd has heard of the instruments")
        for name in books(floor):
            floor.until(
                lambda name=name: why in alarms(floor, "bookd").get(f"book:{name}", ""),
                f"bookd's alarm of {name}",
            )
            if line:
                text_of_simd = alarms(floor, "simd").get(f"book:{name}", "")
                assert f"line {line}: " in text_of_simd and why in text_of_simd
        assert not any(one["in_step"] for one in books(floor).values())
        lost = {f"book:{name}" for name in books(floor)}
        for daemon in ("simd", "bookd") if line else ("bookd",):
            floor.until(lambda daemon=daemon: critical(floor, daemon) == lost, f"critical by {daemon}")
        assert floor.status["bookd-alpha-1"].ready, "it serves the others: no restart helps"


def test_a_traded_instrument_without_depth_has_no_book_to_lose(folder: Path) -> None:
    tape = folder / "tape" / "spot" / "BTCUSDT_20250303.gz"
    tape.parent.mkdir(parents=True)
    tape.write_bytes(gzip.compress(TRADES))
    with played_tape(folder, tape.parent) as floor:
        floor.until(lambda: ended(floor), "the end of the tape")
        floor.until(lambda: "book:spot:BTCUSDT" in alarms(floor, "bookd"), "a warning")
        end_s = time.monotonic() + bookd.BOOK_LOST_S + 2
        while time.monotonic() < end_s:
            floor.turn()
            assert not critical(floor, "bookd") | critical(floor, "simd")


def test_no_old_book_stays_in_step_when_ids_begin_again_with_a_snapshot(
    folder: Path, shift: cases.Shift
) -> None:
    with played(folder, "01-update-ids-start-again/restart", shift) as floor:
        floor.until(lambda: ended(floor), "the end of the tape")

        def new() -> bool:
            found = books(floor).values()
            return len(found) == 2 and all(one["in_step"] and one["applied"] == 24 for one in found)

        floor.until(new, "both books are the new chain's")
        assert {one["bid_quantity"] for one in books(floor).values()} == {"5.5"}


def test_bars_of_a_late_trade_and_skipped_frames_are_counted(folder: Path, shift: cases.Shift) -> None:
    with played(folder, "24-two-bars-of-one-second/late-trade", shift) as floor:
        floor.until(
            lambda: ended(floor) and floor.status["bookd-alpha-1"].counters.get("late_trades") == 1,
            "one late trade",
        )
