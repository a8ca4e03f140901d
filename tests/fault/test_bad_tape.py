"""Fault: a tape that is truncated, not gzip, damaged, of an unknown shape, on the wrong stream, or out of
order.

`hftctl data verify` names file and line; a floor on that tape says the same in an alarm, takes every frame
before it, and neither crashes nor becomes unhealthy. The tape is made here from the synthetic market, one
fault in one instrument's file, beside one whole file.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controlplane.floor import folders
from controlplane.http import unix
from hftd.venues import base, binance, replay, sim_faults, synthetic
from hftd.wire import market
from tests.support import floors

pytestmark = pytest.mark.timeout(180)
LINES = 4_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "ADAUSDT", "BNBUSDT", "XRPUSDT", "SOLUSDT")
KINDS = {
    market.Kind.DIFF: "diff",
    market.Kind.SNAPSHOT: "snapshot",
    market.Kind.TICKER: "ticker",
    market.Kind.TRADE: "trade",
}


class Bad(NamedTuple):
    symbol: str
    line: int
    reason: str


class Tape(NamedTuple):
    folder: Path
    bad: list[Bad]

    def file(self, symbol: str) -> Path:
        return self.folder / f"{symbol.lower()}_20231114.gz"


def make(folder: Path) -> Tape:
    """A file a symbol; a fault in all of them but the first."""
    folder.mkdir()
    tape = Tape(folder, [])
    listings = tuple(synthetic.Listing("spot", symbol, "1000", "0.1", "0.001") for symbol in SYMBOLS)
    series: dict[str, list[bytes]] = {symbol: [] for symbol in SYMBOLS}
    for line in itertools.islice(synthetic.Synthetic(7, listings), LINES):
        series[SYMBOLS[line.instrument]].append(b"%d %s\n" % (line.receive_ns, line.raw))

    def keep(symbol: str, packed: bytes, *bad: tuple[int, str]) -> None:
        tape.file(symbol).write_bytes(packed)
        tape.bad.extend(Bad(symbol, number, reason) for number, reason in bad)

    keep("BTCUSDT", gzip.compress(b"".join(series["BTCUSDT"])))
    packed = gzip.compress(b"".join(series["ETHUSDT"]))
    cut = packed[: len(packed) * 2 // 3]
    whole = sum(isinstance(text, bytes) for text in replay._inflate(iter([cut])))
    assert 100 < whole < len(series["ETHUSDT"]), "cut inside its data"
    keep("ETHUSDT", cut, (whole + 1, "truncated gzip"))
    keep("ADAUSDT", b"".join(series["ADAUSDT"]), (1, "not gzip"))
    lines = series["BNBUSDT"]
    lines[99] = b"garbage\n"
    lines[199] = lines[199].split()[0] + b' {"what": 1}\n'
    keep("BNBUSDT", gzip.compress(b"".join(lines)), (100, "unknown shape"), (200, "unknown shape"))
    lines = series["XRPUSDT"]
    late = next(n for n in range(50, len(lines)) if lines[n - 1].split()[0] != lines[n].split()[0])
    times = lines[late - 1].split(b" ", 1)[0], lines[late].split(b" ", 1)[0]
    lines[late - 1], lines[late] = (
        now + b" " + lines[n].split(b" ", 1)[1] for now, n in zip(times[::-1], (late - 1, late), strict=True)
    )
    keep("XRPUSDT", gzip.compress(b"".join(lines)), (late + 1, "out of order"))
    lines = series["SOLUSDT"]
    lines[149] = lines[149].replace(b"SOLUSDT", b"DOGEUSDT")
    keep("SOLUSDT", gzip.compress(b"".join(lines)), (150, "symbol 'DOGEUSDT' on the stream of 'SOLUSDT'"))
    return tape


def expected_counts(tape: Tape) -> dict[str, Counter[str]]:
    """What every good line amounts to, by the adapter alone."""
    source = replay.Tape([tape.folder])
    normalise = [binance.Normaliser(each.market, symbol=each.symbol) for each in source.instruments]
    counts: dict[str, Counter[str]] = {each.name: Counter() for each in source.instruments}
    for line in source:
        if isinstance(line, replay.Line):
            message = normalise[line.instrument](line.raw, line.receive_ns)
            if not isinstance(message, base.Undecodable) and message is not None:
                counts[source.instruments[line.instrument].name][KINDS[message.kind]] += 1
    return counts


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Tape:
    return make(tmp_path_factory.mktemp("tape") / "spot")


@pytest.fixture(scope="module")
def floor(tape: Tape) -> Iterator[floors.Floor]:
    with floors.floor("--tape", str(tape.folder), "--speed", "max") as one:
        yield one


def ask(floor: floors.Floor, service: str, what: str) -> Any:
    answer = unix.request(
        folders.Folders(floor.site_dir).agent_socket("alpha"),
        "GET",
        f"/v1/site/ask/{service}/{what}",
        timeout_s=10,
    )
    told = json.loads(answer.body)
    assert told["ok"], told
    return told["body"]


def test_alarms_are_bounded_in_files_and_in_lines_named() -> None:
    faults = sim_faults.Faults()
    found = {}
    for file in range(20):
        for number in range(1, 101):
            alarm = faults.take(replay.BadLine(f"f{file}.gz", number, "not gzip"))
            found[alarm.id] = alarm.text
    assert len(found) == sim_faults.FILES_NAMED + 1
    assert (
        found[f"{sim_faults.OTHERS}:f0.gz"]
        == "f0.gz line 1: not gzip; line 2: not gzip; and 98 more bad lines"
    )
    assert found[sim_faults.OTHERS].startswith(
        "12 more files have bad lines, the last: f19.gz line 100: not gzip"
    )


# --- data verify --------------------------------------------------------------------------------------------


def test_data_verify_names_file_and_line_of_every_fault_and_exits_1(tape: Tape, tmp_path: Path) -> None:
    one = floors.Floor(tmp_path / "no-floor")
    done = one.run("data", "verify", str(tape.folder), "-o", "json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    found = {(bad["file"], bad["line"]): bad["reason"] for bad in report["bad_lines"]}
    assert found.keys() == {(str(tape.file(bad.symbol)), bad.line) for bad in tape.bad}
    for bad in tape.bad:
        assert bad.reason in found[str(tape.file(bad.symbol)), bad.line]
    done = one.run("data", "verify", str(tape.folder))
    assert done.returncode == 1
    for bad in tape.bad:
        assert f"{tape.file(bad.symbol)}:{bad.line}: " in done.stdout + done.stderr


def test_data_verify_takes_what_comes_before_a_fault_and_what_is_whole(tape: Tape, tmp_path: Path) -> None:
    report = floors.Floor(tmp_path / "no-floor").json("data", "verify", str(tape.folder))
    messages = {one["symbol"]: one["messages"] for one in report["instruments"]}
    assert messages == {
        name.partition(":")[2]: sum(counts.values()) for name, counts in expected_counts(tape).items()
    }
    assert messages["BTCUSDT"] > 500 and messages["ETHUSDT"] > 100 and messages["ADAUSDT"] == 0
    (btc,) = [one for one in report["instruments"] if one["symbol"] == "BTCUSDT"]
    assert btc["gaps"] == 0 and btc["quotes_compared"] > 0 and btc["quotes_equal"] == btc["quotes_compared"]


def test_data_verify_of_a_whole_file_exits_0_and_of_no_file_2(tape: Tape, tmp_path: Path) -> None:
    one = floors.Floor(tmp_path / "no-floor")
    assert one.run("data", "verify", str(tape.file("BTCUSDT"))).returncode == 0
    (tmp_path / "empty").mkdir()
    for path, why in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "empty", "no capture in this folder"),
    ):
        done = one.run("data", "verify", str(path))
        assert done.returncode == 2 and not done.stdout
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"hftctl: {path}: {why}")


# --- a floor on it ------------------------------------------------------------------------------------------


def test_an_alarm_in_status_names_file_and_line_of_every_fault(floor: floors.Floor, tape: Tape) -> None:
    def told() -> list[str]:
        return [alarm["text"] for alarm in floor.status()["alarms"] if alarm["subject"] == "tape"]

    floors.wait_for(
        "the end of the tape", lambda: any("the tape has ended" in text for text in told()), pause_s=0.2
    )
    texts = told()
    for bad in tape.bad:
        file = str(tape.file(bad.symbol))
        (text,) = [text for text in texts if file in text]
        assert f"line {bad.line}: {bad.reason}" in text
    assert not any(str(tape.file("BTCUSDT")) in text for text in texts), "nothing is said of the whole file"


def test_every_good_frame_reaches_the_books(floor: floors.Floor, tape: Tape) -> None:
    """A snapshot that a book asks for comes on top of the tape's."""
    wanted = {name: counts for name, counts in expected_counts(tape).items() if counts}

    def equal() -> bool:
        books = ask(floor, "bookd", "books")
        if not wanted.keys() <= books.keys():
            return False
        return all(
            books[name]["counts"].get(kind, 0) == counts[kind]
            for name, counts in wanted.items()
            for kind in ("diff", "ticker", "trade")
        )

    floors.wait_for("bookd's counts equal to the good lines of the tape", equal, pause_s=0.2)
    books = ask(floor, "bookd", "books")
    assert books["spot:BTCUSDT"]["in_step"] and books["spot:BTCUSDT"]["gaps"] == 0
    assert floor.status()["flow"]["lost"] == 0


def test_nothing_crashes_and_the_floor_stays_healthy(floor: floors.Floor) -> None:
    status = floor.status()
    assert status["healthy"]
    assert all(
        i["restarts"] == 0 and i["ready"] for service in status["services"] for i in service["instances"]
    )
