"""The daemons' log: whole lines, in the time of one write, lost rather than waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hftd.runtime import log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def written(read: int) -> str:
    return os.read(read, 1 << 20).decode()


def test_a_line_has_time_level_instance_kind_and_fields_with_texts_quoted(pipe: tuple[int, int]) -> None:
    lines = log.Log(pipe[1], "bookd-alpha-1")
    assert lines.line("book.gap", {"symbol": "BTC USDT", "expected": 7, "why": None})
    stamp, _, rest = written(pipe[0]).partition("Z ")
    assert rest == "INFO bookd-alpha-1 book.gap symbol='BTC USDT' expected=7 why=None\n"
    assert len(stamp) == len("2026-01-01T00:00:00.000") and stamp[10] == "T"


def test_whatever_the_fields_hold_it_is_one_line_of_bounded_length(pipe: tuple[int, int]) -> None:
    class Odd:
        def __str__(self) -> str:
            return "first\nsecond"

    lines = log.Log(pipe[1])
    assert lines.line("a.b", {"odd": Odd(), "half": "\ud800", "text": "x\ny"})
    assert written(pipe[0]).count("\n") == 1
    assert lines.line("a.b", {"long": "é" * 100_000})
    found = os.read(pipe[0], 1 << 20)
    assert len(found) == log.LINE_BYTES_MAX and found.endswith(b" ...\n")


def test_a_full_pipe_loses_whole_lines_and_the_caller_no_time(pipe: tuple[int, int]) -> None:
    lines = log.Log(pipe[1])
    lines.never_wait()
    kept = 0
    while lines.line(
        "order.sent", {"n": kept, "text": "x" * 300}
    ):  # a write that waited would never come back: nobody reads
        kept += 1
    assert not lines.line("order.sent", {"n": kept, "text": "x" * 300})
    found = written(pipe[0]).splitlines()
    assert len(found) == kept and [int(line.split("n=")[1].split()[0]) for line in found] == list(
        range(kept)
    ), "each of them whole"
    assert lines.line("order.sent", {"n": kept}), "there is room again"


def test_a_reader_that_is_gone_costs_the_line_and_nothing_else() -> None:
    read, write = os.pipe()
    os.close(read)
    assert not log.Log(write).line("a.b", {})
    os.close(write)


def test_below_its_level_nothing_is_written(pipe: tuple[int, int]) -> None:
    lines = log.Log(pipe[1])
    lines.level = log.LEVELS["warning"]
    assert lines.line("ready", {})
    assert lines.line("alarm.raised", {"id": "a"}, log.OF_SEVERITY["critical"])
    assert written(pipe[0]).count("\n") == 1
