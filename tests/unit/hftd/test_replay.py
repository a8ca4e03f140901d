"""A tape gives its lines in the order in which they were received; what is wrong with it comes out as values
beside them.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from hftd.venues import replay


def capture(path: Path, *lines: tuple[int, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{receive_ns} {raw}\n" for receive_ns, raw in lines).encode()))
    return path


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
def test_what_is_not_gzip_is_said_at_line_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    lines, bad = read(path)
    assert (
        not lines
        and [(one.file, one.number) for one in bad] == [(str(path), 1)]
        and "not gzip" in bad[0].reason
    )


def test_several_gzip_members_and_padding_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n2 {") + gzip.compress(b"}\n3 {}") + b"\0" * 64)
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [1, 2, 3] and not bad


@pytest.mark.parametrize(
    "line", ["", "x {}", "12", "12 []", "-1 {}", "1.5 {}", "99999999999999999999 {}", "1619378326.39: {}"]
)
def test_a_line_of_another_shape_is_named_and_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(f"1 {{}}\n{line}\n2 {{}}\n".encode()))
    lines, bad = read(path)
    assert (
        [one.number for one in lines] == [1, 3]
        and [one.number for one in bad] == [2]
        and "unknown shape" in bad[0].reason
    )


def test_a_line_out_of_order_is_named_and_given_all_the_same(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.gz", (10, "{}"), (30, "{}"), (20, "{}"), (25, "{}"))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == [10, 30, 20, 25]
    assert [(one.number, "out of order" in one.reason) for one in bad] == [(3, True)]


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LINE_BYTES_MAX", 1_000)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"1 {}\n2 {" + b" " * (3 << 20)))
    lines, bad = read(path)
    assert len(lines) == 1 and "a line of over 1000 bytes" in bad[0].reason


def test_blocks_that_inflate_beyond_the_bound_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "INFLATED_BYTES_MAX", 100)
    path = capture(tmp_path / "a.gz", *((n, '{"same":"same"}') for n in range(1, 5_001)))
    lines, bad = read(path)
    assert [line.receive_ns for line in lines] == list(range(1, 5_001)) and not bad
