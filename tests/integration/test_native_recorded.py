"""The recorded day through both decoders: every byte equal, and only the snapshots left to Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftd.native import market as native
from hftd.venues import intake, replay
from hftd.wire import market
from tests.support import twins

pytestmark = pytest.mark.recorded

LINES_MAX = 60_000
"""Of each instrument: all kinds of lines of all six instruments, in some ten seconds."""


@pytest.mark.parametrize("folder", ["usdm", "spot", "cm"])
def test_every_line_of_the_tape_is_the_same_to_both(recorded: Path, folder: str) -> None:
    twins.need_native()
    pack_line, unpack = native.pack_line, native.unpack
    assert pack_line is not None and unpack is not None
    tape = replay.Tape([recorded / folder])
    symbols = [one.symbol for one in tape.instruments]
    lines = [0 for _ in symbols]
    left, frames = 0, market.Batch(1)
    with twins.python_alone():
        taken = intake.Intake(tape.instruments)
        for line in tape:
            assert isinstance(line, replay.Line)
            lines[line.instrument] += 1
            if lines[line.instrument] > LINES_MAX:
                continue
            expected = taken.line(line.instrument, line.raw, line.receive_ns, 7)
            found = pack_line(line.raw, symbols[line.instrument], line.instrument, line.receive_ns, 7)
            if found is None:
                left += 1
            else:
                kind, event_ns, packed = found
                assert isinstance(expected, bytes) and packed == expected
                assert (kind, event_ns) == (
                    expected[2],
                    int.from_bytes(expected[24:32], "little", signed=True),
                )
            assert isinstance(expected, bytes)
            data = frames.add(expected)
            if data is not None:
                assert unpack(data, market.Message) == list(market.messages(data))
    assert min(lines) > 40_000 and left < 100, (lines, left)
