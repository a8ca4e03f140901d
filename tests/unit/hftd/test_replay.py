"""A tape gives its lines in the order in which they were received; what is wrong with it comes out as values
beside them.
"""

from __future__ import annotations

import gzip
import itertools
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.venues import replay
from hftd.wire import feed, market


def capture(path: Path, *lines: tuple[int, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{receive_ns} {raw}\n" for receive_ns, raw in lines).encode()))
    return path


@pytest.fixture
def spot(tmp_path: Path) -> Path:
    folder = tmp_path / "spot"
    folder.mkdir()
    return folder


def read(*paths: Path) -> tuple[list[replay.Line], list[replay.BadLine]]:
    items = list(replay.Tape(paths))
    return [item for item in items if isinstance(item, replay.Line)], [
        item for item in items if isinstance(item, replay.BadLine)
    ]


def test_market_is_the_folder_and_symbol_the_name_without_its_date(tmp_path: Path) -> None:
    for name in (
        "spot/btcusdt_20240808.gz",
        "cm/btcusd_perp_20240808.gz",
        "usdm/ethusdt.gz",
        "usdm/x-2024-08-08.jsonl.gz",
    ):
        capture(tmp_path / name, (1, "{}"))
    found = {(one.market, one.symbol, one.contract) for one in replay.Tape([tmp_path]).instruments}
    assert found == {
        ("spot", "BTCUSDT", "spot"),
        ("cm", "BTCUSD_PERP", "inverse"),
        ("usdm", "ETHUSDT", "linear"),
        ("usdm", "X", "linear"),
    }


def test_ids_are_indices(tmp_path: Path) -> None:
    capture(tmp_path / "spot/b.gz", (1, "{}"))
    capture(tmp_path / "cm/a.gz", (2, "{}"))
    assert [one.id for one in replay.Tape([tmp_path]).instruments] == [0, 1]


def test_dates_of_one_instrument_are_chained_and_instruments_merged_by_receive_time(tmp_path: Path) -> None:
    capture(tmp_path / "spot/a_20240809.gz", (30, '{"n":4}'), (50, '{"n":6}'))
    capture(tmp_path / "spot/a_20240808.gz", (10, '{"n":1}'), (20, '{"n":2}'))
    capture(tmp_path / "spot/b_20240808.gz", (20, '{"n":3}'), (40, '{"n":5}'))
    lines, bad = read(tmp_path)
    assert [line.raw for line in lines] == [b'{"n":%d}' % n for n in range(1, 7)] and not bad
    assert (Path(lines[4].file).name, lines[4].number, lines[4].instrument) == ("b_20240808.gz", 2, 1)


def test_a_tape_can_be_read_again(tmp_path: Path) -> None:
    tape = replay.Tape([capture(tmp_path / "spot/a.gz", (1, "{}"))])
    assert list(tape) == list(tape) != []


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = capture(tmp_path / "spot/a.gz", (1, "{}"))
    assert len(read(path, path)[0]) == 1


def test_other_files_in_a_folder_are_not_captures(tmp_path: Path) -> None:
    capture(tmp_path / "spot/a.gz", (1, "{}"))
    (tmp_path / "LICENSE").write_text("text")
    assert len(replay.Tape([tmp_path]).instruments) == 1


def test_a_path_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        replay.Tape([tmp_path / "nothing.gz"])
    with pytest.raises(InvalidInput, match="no capture"):
        replay.Tape([tmp_path])


def test_a_truncated_file_ends_there_and_what_came_before_is_given(tmp_path: Path) -> None:
    path = capture(tmp_path / "spot/a.gz", *((n, f'{{"n":{n * 7919 % 100_003}}}') for n in range(1, 2_001)))
    path.write_bytes(path.read_bytes()[:-2_000])
    after = capture(tmp_path / "spot/b.gz", (3_000, "{}"))
    lines, bad = read(path, after)
    assert 100 < len(lines) < 2_001 and lines[-1].file == str(after)
    assert [(one.file, one.number) for one in bad] == [(str(path), len(lines))] and "truncated" in bad[
        0
    ].reason


def test_a_damaged_block_gives_all_lines_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "spot/a.gz"
    path.parent.mkdir()
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    good = packer.compress(b"".join(b"%d {}\n" % n for n in range(1, 1_001))) + packer.flush(
        zlib.Z_FULL_FLUSH
    )
    path.write_bytes(good + b"\xff" * 100)
    lines, bad = read(path)
    assert len(lines) == 1_000
    assert [one.number for one in bad] == [1_001] and "damaged" in bad[0].reason


@pytest.mark.parametrize("content", [b"", b"1 {}\n", b"\x00\x01"])
def test_what_is_not_gzip_is_said_at_line_one(spot: Path, content: bytes) -> None:
    path = spot / "a.gz"
    path.write_bytes(content)
    lines, bad = read(path)
    assert (
        not lines
        and [(one.file, one.number) for one in bad] == [(str(path), 1)]
        and "not gzip" in bad[0].reason
    )


def test_several_gzip_members_and_padding_are_one_file(spot: Path) -> None:
    path = spot / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n2 {") + gzip.compress(b"}\n3 {}") + b"\0" * 64)
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [1, 2, 3] and not bad


@pytest.mark.parametrize(
    "line", ["", "x {}", "12", "12 []", "-1 {}", "1.5 {}", "99999999999999999999 {}", "1619378326.39: {}"]
)
def test_a_line_of_another_shape_is_named_and_skipped(spot: Path, line: str) -> None:
    path = spot / "a.gz"
    path.write_bytes(gzip.compress(f"1 {{}}\n{line}\n2 {{}}\n".encode()))
    lines, bad = read(path)
    assert (
        [one.number for one in lines] == [1, 3]
        and [one.number for one in bad] == [2]
        and "unknown shape" in bad[0].reason
    )


def test_a_line_out_of_order_is_named_and_given_all_the_same(spot: Path) -> None:
    path = capture(spot / "a.gz", (10, "{}"), (30, "{}"), (20, "{}"), (25, "{}"))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [10, 30, 20, 25]
    assert [(one.number, "out of order" in one.reason) for one in bad] == [(3, True)]


def test_a_line_without_end_does_not_fill_the_memory(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LINE_BYTES_MAX", 1_000)
    path = spot / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n2 {" + b" " * (3 << 20)))
    lines, bad = read(path)
    assert len(lines) == 1 and "a line of over 1000 bytes" in bad[0].reason


def test_blocks_that_inflate_beyond_the_bound_lose_nothing(
    spot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "INFLATED_BYTES_MAX", 100)
    path = capture(spot / "a.gz", *((n, '{"same":"same"}') for n in range(1, 5_001)))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == list(range(1, 5_001)) and not bad


# --- lines that would hold up, or fill up, whoever reads them -----------------------------------------------

HOUR_NS = 3_600_000_000_000


@pytest.mark.parametrize("receive_ns", [market.TIME_NS_MAX + 1, 1 << 63, 9_999_999_999_999_999_999])
def test_a_receive_time_that_is_none_is_a_bad_line_and_the_others_fit_the_feed(
    spot: Path, receive_ns: int
) -> None:
    path = capture(spot / "a.gz", (1, "{}"), (receive_ns, "{}"), (2, "{}"))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [1, 2]
    assert [(one.number, one.reason) for one in bad] == [(2, f"received at {receive_ns}: after 2100-01-01")]
    last = capture(spot / "b.gz", (market.TIME_NS_MAX, "{}"))
    feed.pack([(line.instrument, line.receive_ns, line.raw) for line in read(last)[0]], 1, 1)


def placed(*rows: tuple[int, str]) -> list[tuple[int, str]]:
    return [(at_s * 1_000_000_000, f'{{"n":"{name}"}}') for at_s, name in rows]


def names(lines: list[replay.Line]) -> str:
    return "".join(line.raw.decode().split('"')[3] for line in lines)


@pytest.mark.parametrize("off_s", [61, 3_600, 9 * 365 * 86_400, -61, -3_600, -10_000])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_one_line_of_a_wrong_time_is_named_and_keeps_its_place(tmp_path: Path, at: int, off_s: int) -> None:
    """The merge goes by receive time: by its own it would come long before or after all others."""
    rows = [(10_010, "a"), (10_030, "c"), (10_050, "e"), (10_070, "g")]
    wrong = (rows[max(at - 1, 0)][0] + off_s, "X")
    path = capture(tmp_path / "spot/a.gz", *placed(*rows[:at], wrong, *rows[at:]))
    other = capture(
        tmp_path / "spot/b.gz", *placed((10_020, "b"), (10_040, "d"), (10_055, "f"), (10_080, "h"))
    )
    lines, bad = read(path, other)
    found = names(lines)
    assert found.replace("X", "") == "abcdefgh", "the others are where they were"
    if at == 0 and off_s < 0:
        assert found[0] == "X" and not bad, "as a recorder that paused behind its first line"
        return
    around = rows[max(at - 1, 0)][1], rows[at][1]
    assert at == 0 or found.index(around[0]) < found.index("X")
    assert found.index("X") < found.index(around[1])
    assert [(one.file, one.number) for one in bad] == [(str(path), at + 1)]
    assert bad[0].reason.startswith(f"received at {wrong[0] * 10**9}, ")
    assert bad[0].reason.endswith(" the lines around it; it keeps its place")
    (line,) = (line for line in lines if b"X" in line.raw)
    assert line.receive_ns == wrong[0] * 10**9, "what the recorder wrote"
    assert rows[max(at - 1, 0)][0] * 10**9 <= line.place_ns <= rows[at][0] * 10**9


@pytest.mark.parametrize("back_s", [100, 3_600, 10_000])
def test_a_clock_that_is_set_back_for_good_moves_nothing_and_is_named_once(
    tmp_path: Path, back_s: int
) -> None:
    rows = [(10_010, "a"), (10_030, "c"), (10_050 - back_s, "e"), (10_070 - back_s, "g")]
    path = capture(tmp_path / "spot/a.gz", *placed(*rows))
    other = capture(
        tmp_path / "spot/b.gz", *placed((10_020, "b"), (10_030, "d"), (10_045, "f"), (10_055, "h"))
    )
    lines, bad = read(path, other)
    assert names(lines) == "abcedfgh"
    assert [line.place_ns // 10**9 for line in lines if line.file == str(path)] == [
        10_010,
        10_030,
        10_030,
        10_050,
    ]
    ((file, number, reason),) = bad
    assert (file, number) == (str(path), 3) and reason.startswith("out of order: ")


def test_a_clock_that_is_put_right_again_is_the_place_again(spot: Path) -> None:
    seconds = [9_999, 10_000, 9_000, 9_001, 10_003, 10_004, 10_005]
    lines, bad = read(capture(spot / "a.gz", *placed(*zip(seconds, "abcdefg", strict=True))))
    assert names(lines) == "abcdefg"
    assert [line.place_ns // 10**9 for line in lines] == [
        9_999,
        10_000,
        10_000,
        10_001,
        10_003,
        10_004,
        10_005,
    ]
    assert [one.number for one in bad] == [3]


@given(
    st.lists(
        st.sampled_from([0, 1, 59, 61, 3_600, -1, -61, -3_600, 10**9, -(10**9)]), min_size=1, max_size=30
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_clocks_say_every_line_is_given_once_and_in_its_files_order(steps_s: list[int]) -> None:
    times = [max(0, 2 * 10**9 + step) * 10**9 for step in itertools.accumulate(steps_s)]
    order = replay._Order()
    given: list[replay.Line] = []
    for number, receive_ns in enumerate(times):
        line = replay.Line(receive_ns, 0, b"{}", "a", number)
        found = [line] if order.follows(receive_ns) else order.take(line)
        given += [each for each in found if isinstance(each, replay.Line)]
        assert number + 1 - len(given) <= (2 if order._before_ns is None else 1), (
            "of the first line two wait for the third"
        )
    given += [each for each in order.end() if isinstance(each, replay.Line)]
    assert [line.number for line in given] == [*range(len(times))]
    assert [line.receive_ns for line in given] == times


def test_a_recorder_that_paused_is_believed(spot: Path) -> None:
    path = capture(spot / "a.gz", (10, "{}"), (HOUR_NS, "{}"), (HOUR_NS + 1, "{}"), (3 * HOUR_NS, "{}"))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [10, HOUR_NS, HOUR_NS + 1, 3 * HOUR_NS] and not bad


def test_a_bad_line_comes_out_before_the_next_good_one_is_read(spot: Path) -> None:
    path = spot / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n2 {}\n" + b"\n" * 5_000 + b"3 {}\n"))
    items = iter(replay.Tape([path]))
    assert [type(item) for item in itertools.islice(items, 3)] == [replay.Line, replay.Line, replay.BadLine]


def test_kilobytes_of_compressed_newlines_cost_neither_memory_nor_time(spot: Path) -> None:
    path, after = spot / "a.gz", capture(spot / "b.gz", (5, "{}"))
    path.write_bytes(gzip.compress(b"\n" * (20 << 20)))
    assert path.stat().st_size < 21_000
    tracemalloc.start()
    count = 0
    for count, item in enumerate(replay.Tape([path, after]), start=1):  # noqa: B007
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == replay.BAD_IN_A_ROW_MAX + 2 and peak < 32 << 20
    lines, bad = read(path, after)
    assert [line.file for line in lines] == [str(after)]
    assert bad[-1].reason == "after 10000 bad lines in a row the rest of the file is skipped"


def test_good_lines_between_bad_ones_keep_a_file_going(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "BAD_IN_A_ROW_MAX", 3)
    path = spot / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n\n\n2 {}\n\n\n3 {}\n\n\n\n4 {}\n"))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [1, 2, 3] and len(bad) == 8 and bad[-1].number == 11


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A FIFO would be waited for until somebody writes to it."""
    fifo, link = tmp_path / "spot" / "a.gz", tmp_path / "spot" / "b.gz"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link, Path("/dev/zero")):
        with pytest.raises(InvalidInput, match="not a regular file"):
            replay.Tape([path])
    with pytest.raises(InvalidInput, match="no capture in this folder"):
        replay.Tape([fifo.parent])
    later = capture(tmp_path / "spot" / "c.gz", (1, "{}"))
    tape = replay.Tape([later])
    later.unlink()
    os.mkfifo(later)
    assert list(tape) == [replay.BadLine(str(later), 1, "not a regular file")]


def test_a_name_that_cannot_go_out_as_text_is_refused(tmp_path: Path) -> None:
    for name in (b"\xff.gz", b"\x1b[31m.gz"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(b"")
        with pytest.raises(InvalidInput, match="unprintable"):
            replay.Tape([path])
