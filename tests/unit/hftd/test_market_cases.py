"""Captures that each showed a fault, with what is right of them: as `data verify` counts it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import InvalidInput
from hftd.cli import verbs
from hftd.daemons.simd import tape as feed_tape
from hftd.engine import accounts, fixed
from hftd.engine.market import books
from hftd.venues import base, binance, data_verify, intake, replay, sim, sim_faults
from hftd.wire import market, orders
from tests.support import cases

pytestmark = pytest.mark.usefixtures("decoder")

HEALTHY: dict[str, Any] = {
    "stale": 0,
    "gaps": 0,
    "resyncs": 0,
    "crossed": 0,
    "waiting": 0,
    "snapshots_compared": 0,
    "snapshots_equal": 0,
    "bad_lines": [],
    "exit": 0,
}
RIGHT: dict[str, dict[str, Any]] = {
    "01-update-ids-start-again/restart": {
        "applied": 24,
        "gaps": 1,
        "resyncs": 1,
        "quotes": (24, 24),
        "exit": 1,
    },
    "01-update-ids-start-again/restart-no-snapshot": {
        "applied": 12,
        "gaps": 1,
        "quotes": (12, 12),
        "waiting": 12,
        "exit": 1,
    },
    "01-update-ids-start-again/healthy": {"applied": 24, "stale": 2, "quotes": (24, 24)},
    "02-snapshot-before-first-diff/hole": {
        "applied": 22,
        "gaps": 1,
        "resyncs": 1,
        "quotes": (22, 22),
        "exit": 1,
    },
    "02-snapshot-before-first-diff/healthy": {"applied": 22, "quotes": (22, 22)},
    "03-no-snapshot/no-snapshot": {"applied": 0, "quotes": (0, 0), "waiting": 12, "exit": 1},
    "03-no-snapshot/no-snapshot-and-holes": {
        "applied": 0,
        "gaps": 1,
        "quotes": (0, 0),
        "waiting": 12,
        "exit": 1,
    },
    "03-no-snapshot/snapshot-too-late": {"applied": 0, "stale": 12, "quotes": (0, 0), "exit": 1},
    "04-partial-depth/ahead": {"level_updates": 40, "applied": 20, "quotes": (20, 20)},
    "04-partial-depth/behind": {"level_updates": 40, "applied": 20, "quotes": (20, 20)},
    "04-partial-depth/mixed-spot": {
        "messages": 51,
        "level_updates": 40,
        "applied": 20,
        "quotes": (20, 20),
    },
    "04-partial-depth/only": {"level_updates": 0, "applied": 0, "quotes": (0, 0), "exit": 1},
    "05-bookings-as-trades/bookings": {"messages": 11, "applied": 2},
    "07-microseconds/microseconds": {
        "messages": 31,
        "level_updates": 10,
        "applied": 10,
        "quotes": (10, 10),
        "clock_offset_ms": 2.5,
    },
    "07-microseconds/healthy": {
        "messages": 31,
        "level_updates": 10,
        "applied": 10,
        "quotes": (10, 10),
        "clock_offset_ms": 2.5,
    },
    "17-crossed-and-contradicted/crossed": {
        "applied": 21,
        "resyncs": 1,
        "crossed": 1,
        "quotes": (20, 20),
        "snapshots_compared": 2,
        "snapshots_equal": 2,
        "exit": 1,
    },
    "17-crossed-and-contradicted/contradicted": {
        "applied": 13,
        "resyncs": 1,
        "quotes": (0, 0),
        "snapshots_compared": 1,
        "exit": 1,
    },
    "17-crossed-and-contradicted/healthy": {
        "applied": 13,
        "quotes": (0, 0),
        "snapshots_compared": 1,
        "snapshots_equal": 1,
    },
    "19-folders-and-file-names/healthy": {"applied": 6, "quotes": (6, 6)},
    "19-folders-and-file-names/hourly": {"messages": 25, "applied": 12, "quotes": (12, 12)},
    "19-folders-and-file-names/two-date-forms": {"messages": 25, "applied": 12, "quotes": (12, 12)},
    "20-receive-times/healthy": {"applied": 10},
    "20-receive-times/over-int64": {"applied": 5, "gaps": 1, "waiting": 4, "bad_lines": [7], "exit": 1},
    "20-receive-times/year-2034": {"applied": 10, "bad_lines": [7], "exit": 1},
    "20-receive-times/hour-ahead": {"applied": 10, "bad_lines": [7], "exit": 1},
    "20-receive-times/hour-back": {"applied": 10, "bad_lines": [7], "exit": 1},
    "21-verify-crash/crash": {
        "messages": 7,
        "level_updates": 3,
        "applied": 2,
        "gaps": 1,
        "resyncs": 1,
        "quotes": (2, 2),
        "clock_offset_ms": 3.0,
        "bad_lines": [4],
        "exit": 1,
    },
    "24-two-bars-of-one-second/late-trade": {"bad_lines": [5], "exit": 1},
    "24-two-bars-of-one-second/late-behind-a-trade": {"bad_lines": [5], "exit": 1},
    "24-two-bars-of-one-second/healthy": {},
    "26-id-over-64-bits/pu": {
        "messages": 7,
        "level_updates": 3,
        "applied": 2,
        "gaps": 1,
        "resyncs": 1,
        "quotes": (2, 2),
        "bad_lines": [4],
        "exit": 1,
    },
}


def found(
    one: data_verify.InstrumentReport, report: data_verify.Report, wanted: dict[str, Any]
) -> dict[str, Any]:
    special = {
        "quotes": (one.quotes_compared, one.quotes_equal),
        "bad_lines": [line.number for line in report.bad_lines],
        "exit": 0 if report.clean else 1,
    }
    return {name: special[name] if name in special else getattr(one, name) for name in wanted}


@pytest.fixture(params=cases.SHIFTS.values(), ids=cases.SHIFTS.keys())
def shift(request: pytest.FixtureRequest) -> cases.Shift:
    assert isinstance(request.param, cases.Shift)
    return request.param


@pytest.mark.parametrize("case", RIGHT)
def test_a_capture_is_counted_as_it_is_right(tmp_path: Path, case: str, shift: cases.Shift) -> None:
    folder = cases.capture(tmp_path, case, shift)
    wanted = HEALTHY | RIGHT[case]
    for each in sorted(folder.iterdir()):
        report = data_verify.verify([each])
        (one,) = report.instruments
        assert found(one, report, wanted) == wanted, each.name


STEADY_MS = [*range(0, 1_001, 100)]
"""When each of eleven lines leaves that were received a tenth of a second apart."""
LEAVES_MS = {
    "healthy": STEADY_MS,
    "over-int64": [ms for ms in STEADY_MS if ms != 600],
    "year-2034": STEADY_MS,
    "hour-ahead": STEADY_MS,
    "hour-back": [0, 100, 200, 300, 400, 500, 500, 600, 700, 800, 900],
}


@pytest.mark.parametrize("speed", [1, 0])
@pytest.mark.parametrize("case", LEAVES_MS)
def test_a_clock_that_jumps_holds_up_no_line_of_the_feed(
    tmp_path: Path, case: str, speed: int, shift: cases.Shift
) -> None:
    folder = cases.capture(tmp_path, f"20-receive-times/{case}", shift)
    left: list[tuple[int, int]] = []
    faults, alarms, gaps, now_ns = sim_faults.Faults(), {}, [], 0

    def bad(line: replay.BadLine) -> None:
        alarm = faults.take(line)
        alarms[alarm.id] = alarm.text

    feeder = feed_tape.Feeder(
        replay.Tape([folder]),
        feed_tape.Pace(speed),
        session=1,
        skip=0,
        send=lambda frame: True,
        on_skipped=lambda lines: None,
        on_sent=lambda lines: left.extend((now_ns // 1_000_000, line.number) for line in lines),
        on_bad=bad,
        on_gap=lambda line, gap_ns: gaps.append(line.number),
        on_end=lambda: None,
    )
    while (due_ns := feeder.turn(now_ns)) is not None:
        now_ns = max(due_ns, now_ns)
    numbers = [number for number in range(1, 12) if case != "over-int64" or number != 7]
    wanted_ms = LEAVES_MS[case] if speed else [0] * len(numbers)
    assert left == [*zip(wanted_ms, numbers, strict=True)]
    (path,) = folder.rglob("*.gz")
    wanted = set() if case == "healthy" else {f"{sim_faults.OTHERS}:{path}"}
    assert alarms.keys() == wanted and all(f"{path} line 7: " in text for text in alarms.values())
    assert not gaps


@pytest.mark.parametrize("case", ["year-2034", "hour-ahead", "hour-back"])
def test_beside_another_file_the_lines_of_a_clock_that_jumps_keep_their_place(
    tmp_path: Path, case: str, shift: cases.Shift
) -> None:
    folder = cases.capture(tmp_path, f"20-receive-times/{case}", shift)
    (beside,) = cases.capture(tmp_path, "20-receive-times/healthy", shift).rglob("*.gz")
    (path,) = folder.rglob("*.gz")
    other = beside.rename(path.with_name(path.name.replace("btc", "eth").replace("sol", "eth")))
    lines = [line for line in replay.Tape([folder]) if isinstance(line, replay.Line)]
    order = {str(path): [], str(other): []}  # type: dict[str, list[int]]
    for at, line in enumerate(lines):
        order[line.file].append(at)
    assert [len(each) for each in order.values()] == [11, 11]
    assert all(abs(one - two) <= 3 for one, two in zip(*order.values(), strict=True)), order


def published(tape: replay.Tape) -> tuple[books.Books, list[tuple[int, market.Message]]]:
    """What bookd publishes of a capture, with the line that it is published at (0 before the first)."""
    taken, state, found = intake.Intake(tape.instruments), books.Books(10**9), []
    state.session = state.sequence = 1

    def send(number: int, packed: bytes) -> None:
        state.frame(market.frame([packed], state.sequence, 1))
        found.extend((number, one) for one in market.messages(market.frame(state.out, 1, 1)))
        state.out.clear()

    for packed in taken.reference(0):
        send(0, packed)
    for line in tape:
        if isinstance(line, replay.BadLine):
            continue
        packed_line = taken.line(line.instrument, line.raw, line.receive_ns, 0)
        if isinstance(packed_line, bytes):
            send(line.number, packed_line)
    closing = [books._packed_bar(bar) for bar in state.bars.close(1 << 63)]
    found.extend((-1, one) for one in market.messages(market.frame(closing, 1, 1)))
    return state, found


def bars_of(
    found: list[tuple[int, market.Message]], shift: cases.Shift
) -> dict[int, list[tuple[float, ...]]]:
    """Second of the capture (1 to 3) -> its bars as open, high, low, close, volume, trades."""
    bars: dict[int, list[tuple[float, ...]]] = {}
    for _, one in found:
        if one.kind == market.Kind.BAR:
            second = one.event_ns // 10**9 - 1_741_003_200 - shift.hours * 3600
            prices = [value - int(shift.price * fixed.UNIT) for pair in one.bids[:2] for value in pair]
            volume, trades = one.bids[2]
            shown = [value / fixed.UNIT for value in (*prices, volume)]
            bars.setdefault(second, []).append((*shown, trades))
    return bars


@pytest.mark.parametrize(
    ("case", "late", "wanted"),
    [
        ("late-trade", 1, {1: (100, 105, 100, 105, 3, 2), 2: (107,) * 4 + (1, 1), 3: (108,) * 4 + (1, 1)}),
        ("late-behind-a-trade", 1, {1: (100, 105, 100, 105, 3, 2), 2: (106, 107, 106, 107, 2, 2)}),
        ("healthy", 0, {1: (100, 105, 90, 90, 7, 3), 2: (107,) * 4 + (1, 1), 3: (108,) * 4 + (1, 1)}),
    ],
)
def test_there_is_one_bar_of_a_second_and_a_late_trade_is_counted_and_published(
    tmp_path: Path, case: str, late: int, wanted: dict[int, tuple[float, ...]], shift: cases.Shift
) -> None:
    tape = replay.Tape([cases.capture(tmp_path, f"24-two-bars-of-one-second/{case}", shift)])
    state, found = published(tape)
    assert bars_of(found, shift) == {second: [bar] for second, bar in wanted.items()}
    assert state.bars.late == late and sum(one.kind == market.Kind.TRADE for _, one in found) == 5


def test_bookings_are_in_no_bar(tmp_path: Path, shift: cases.Shift) -> None:
    tape = replay.Tape([cases.capture(tmp_path, "05-bookings-as-trades/bookings", shift)])
    assert bars_of(published(tape)[1], shift) == {
        0: [(60000.1, 60000.1, 60000.0, 60000.0, 0.03, 2)],
        1: [(60000.1,) * 4 + (0.03, 1)],
        2: [(60000.1,) * 4 + (0.001, 1)],
    }


def test_bookings_fill_no_order(tmp_path: Path, shift: cases.Shift) -> None:
    tape = replay.Tape([cases.capture(tmp_path, "05-bookings-as-trades/bookings", shift)])
    venue = sim.Venue(tape.instruments, accounts.Accounts(), 0, "simd", lambda: 0)
    (reference,), lines = tape.instruments, [line for line in tape if isinstance(line, replay.Line)]
    for line in lines:
        assert venue.line(line.instrument, line.receive_ns, line.raw) == ""
        if line.number == 2:
            bid, _, ask, _ = venue._instruments[0].book.best()
            for name, side, price in (("buy", orders.Side.BUY, bid), ("sell", orders.Side.SELL, ask)):
                of = (
                    reference.market,
                    reference.symbol,
                    side,
                    orders.Kind.POST_ONLY,
                    price,
                    fixed.UNIT // 10,
                )
                venue.place(orders.Place(1, 0, 0, "s", None, name, "s", *of, 0, 0, order_id=name))
    assert [*venue.working] == ["buy", "sell"] and venue.last_execution == 0 and not list(venue.accounts)


def test_a_kind_of_trade_that_nobody_knows_is_a_bad_line_that_names_it() -> None:
    raw = (
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1741003200200,"T":1741003200200,"s":"BTCUSDT",'
        b'"t":1,"p":"1","q":"1","X":"%s","m":true}}'
    )
    for kind in (b"SETTLEMENT", b"market", b""):
        found = binance.Normaliser("usdm", 0, "BTCUSDT")(raw % kind, 1)
        assert isinstance(found, base.Undecodable) and repr(kind.decode()) in found.reason
    assert binance.Normaliser("usdm", 0, "BTCUSDT")(raw % b"ADL", 1) is None


def test_no_crossed_top_is_published_and_the_status_says_when(tmp_path: Path, shift: cases.Shift) -> None:
    tape = replay.Tape([cases.capture(tmp_path, "17-crossed-and-contradicted/crossed", shift)])
    state, found = published(tape)
    move = int(shift.price * fixed.UNIT)
    tops = [
        (number, one.bids[0][0] - move, one.asks[0][0] - move)
        for number, one in found
        if one.kind == market.Kind.TOP
    ]
    assert tops[:2] == [(1, 100 * fixed.UNIT, 101 * fixed.UNIT), (22, 10150000000, 102 * fixed.UNIT)]
    assert all(bid < ask for _, bid, ask in tops)
    statuses = [(number, one.flags) for number, one in found if one.kind == market.Kind.STATUS]
    assert statuses == [(0, 0), (1, market.IN_STEP), (2, 0), (22, market.IN_STEP)]
    (entry,) = state.entries.values()
    assert entry.losses == 1 and "crossed by the diff" in entry.loss


@pytest.mark.parametrize(
    ("case", "best"),
    [
        ("01-update-ids-start-again/restart", ("45000", "5.5", "45010", "3.25")),
        ("02-snapshot-before-first-diff/hole", ("45000", "5.5", "45010", "3.25")),
        ("17-crossed-and-contradicted/contradicted", ("100", "3", "100.5", "7")),
        ("21-verify-crash/crash", ("45000", "5", "45010", "6")),
    ],
)
def test_the_book_at_the_end_is_the_venues(
    tmp_path: Path, case: str, best: tuple[str, ...], shift: cases.Shift
) -> None:
    folder = cases.capture(tmp_path, case, shift)
    for each in sorted(folder.iterdir()):
        state, _ = published(replay.Tape([each]))
        (entry,) = state.entries.values()
        bid, bid_quantity, ask, ask_quantity = map(fixed.parse, best)
        move = int(shift.price * fixed.UNIT)
        assert entry.book.best() == (bid + move, bid_quantity, ask + move, ask_quantity)
        assert entry.trouble() == ""


def test_the_second_line_of_the_case_in_microseconds_is_exact(tmp_path: Path, shift: cases.Shift) -> None:
    (path,) = cases.capture(tmp_path, "07-microseconds/microseconds", shift).rglob("*.gz")
    receive, raw = gzip.decompress(path.read_bytes()).splitlines()[1].split(b" ", 1)
    found = binance.Normaliser("spot")(raw, int(receive))
    assert isinstance(found, market.Message)
    assert found.event_ns - shift.hours * 3600 * 10**9 == 1_741_003_200_100_456_000


def test_microseconds_are_exact_and_their_unit_is_told_by_their_size() -> None:
    raw = (
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"T":1,"s":"X","t":1,"p":"1","q":"1","m":true}}'
    )
    for event, event_ns in (
        (1_741_003_200_100_456, 1_741_003_200_100_456_000),
        (1_741_003_200_100, 1_741_003_200_100_000_000),
        (10**14, 10**17),
        (market.TIME_NS_MAX // 1000, market.TIME_NS_MAX),
    ):
        found = binance.Normaliser("spot")(raw % event, 1)
        assert isinstance(found, market.Message) and found.event_ns == event_ns
    for event in (10**14 - 1, market.TIME_NS_MAX // 1000 + 1, 1_741_003_200_100_456_000):
        assert isinstance(binance.Normaliser("spot")(raw % event, 1), base.Undecodable)


def test_an_unknown_folder_is_refused_by_name_and_nothing_is_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: cases.Shift
) -> None:
    folder = cases.capture(tmp_path, "19-folders-and-file-names/unknown-folder", shift)
    with pytest.raises(InvalidInput) as refused:
        replay.Tape([folder])
    text = str(refused.value)
    (path,) = folder.rglob("*.gz")
    assert str(path) in text and "'coinm'" in text and "spot, usdm, cm" in text and "\n" not in text
    for name in ("delivery", "dapi", "SPOT", "futures", "binance"):
        (folder / name).mkdir()
        path = path.rename(folder / name / path.name)
        with pytest.raises(InvalidInput, match=f"'{name}'"):
            replay.Tape([folder])


def test_coin_m_contracts_are_inverse_and_not_traded(tmp_path: Path, shift: cases.Shift) -> None:
    tape = replay.Tape([cases.capture(tmp_path, "19-folders-and-file-names/healthy", shift)])
    venue = sim.Venue(tape.instruments, accounts.Accounts(), 0, "simd", lambda: 0)
    (of,) = venue._instruments.values()
    assert of.reference.contract == "inverse" and not of.tradable


@pytest.mark.parametrize(
    ("name", "symbol", "time"),
    [
        ("btcusdt.gz", "BTCUSDT", ""),
        ("btcusdt_20250303.gz", "BTCUSDT", "20250303000000"),
        ("BTCUSDT-2025-03-04.jsonl.gz", "BTCUSDT", "20250304000000"),
        ("btcusdt_2025_03_04.gz", "BTCUSDT", "20250304000000"),
        ("btcusdt.20250304.gz", "BTCUSDT", "20250304000000"),
        ("btcusdt_2025030312.gz", "BTCUSDT", "20250303120000"),
        ("btcusdt_20250303_13.gz", "BTCUSDT", "20250303130000"),
        ("btcusdt_2025-03-03T1430.gz", "BTCUSDT", "20250303143000"),
        ("btcusdt_2025-03-03T14:30:05Z.gz", "BTCUSDT", "20250303143005"),
        ("BTCUSDT_250328.gz", "BTCUSDT_250328", ""),
        ("btcusd_250328_20250303.gz", "BTCUSD_250328", "20250303000000"),
        ("btcusd_perp_20240808.gz", "BTCUSD_PERP", "20240808000000"),
        ("btcusdt_20251332.gz", "BTCUSDT_20251332", ""),
        (".gz", ".GZ", ""),
    ],
)
def test_what_the_name_of_a_file_means(name: str, symbol: str, time: str) -> None:
    assert replay.named(Path("/x/spot") / name) == ("spot", symbol, time)


def test_the_table_says_what_could_not_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: cases.Shift
) -> None:
    folder = cases.capture(tmp_path, "03-no-snapshot/no-snapshot-and-holes", shift)
    assert verbs.data_verify([folder]) == 1
    wanted = f"usdm {shift.symbol or 'BTC'}USDT: no diff could be applied: no snapshot"
    assert wanted in capsys.readouterr().out.splitlines()
