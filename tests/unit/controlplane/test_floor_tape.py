"""`up --tape` refuses what simd could replay nothing of, and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.cli import main
from controlplane.errors import InvalidInput
from controlplane.floor import tape
from hftd.venues import replay, synthetic

NOW = 1_795_000_000_000_000_000
DIFF = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": 1, "u": 2, "b": [], "a": []}
LINES = {
    "with its stream's envelope": {"stream": "btcusdt@depth", "data": DIFF},
    "raw": DIFF,
    "a snapshot": {"lastUpdateId": 1, "bids": [], "asks": []},
    "a quote of spot": {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"},
}


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # a test's name holds it: the same in every process


def capture(path: Path, *lines: bytes) -> Path:
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


@pytest.mark.parametrize("what", LINES)
def test_one_line_of_market_data_among_rubbish_is_a_tape(what: str, tmp_path: Path) -> None:
    line = b"%d %s" % (NOW, json.dumps(LINES[what]).encode())
    path = capture(tmp_path / "btcusdt_20261129.gz", b"", b"rubbish", b'1 {"what": 1}', line)
    assert tape.require(path, "--tape") == path and tape.require(tmp_path, "--tape") == tmp_path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"root:x:0:0:root:/root:/bin/bash\n", "not gzip"),
        (b"", "it is empty"),
        (packed(b""), "it is empty"),
        (packed(b"no tape\n" * 3), "3 lines, none of them"),
        (packed(b"%d []\n%d {}\n" % (NOW, NOW)), "2 lines, none of them"),
        (packed(b'{"e": "depthUpdate"}\n'), "1 lines, none of them"),
        (packed(b"\n" * 20_000), "10000 lines, none of them"),
    ],
)
def test_a_file_without_one_is_refused_by_name_with_what_is_wanted(
    content: bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "passwd.gz"
    path.write_bytes(content)
    for named, where in ((path, ""), (tmp_path, "passwd.gz: ")):
        with pytest.raises(InvalidInput) as refused:
            tape.require(named, f"--tape {named}")
        assert str(refused.value).startswith(
            f"--tape {named}: not one line of market data ({where}{why}; wanted: gzip"
        )


def test_the_verb_refuses_it_with_2_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    assert main.run(["up", "--detach", "--tape", "/etc/passwd", "--site-dir", str(site)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("hftctl: --tape /etc/passwd: not one line of market data (not gzip")
    assert said.out == "" and not site.exists()


def test_a_tape_that_a_services_file_names_is_looked_at_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, capture = tmp_path / "services.yml", tmp_path / "spot" / "btcusdt_20240808.gz"
    capture.parent.mkdir()
    capture.write_bytes(Path("/etc/passwd").read_bytes())
    file.write_text(
        "services:\n  - name: simd\n    daemon: simd\n    mode: singleton\n    hosts: [alpha]\n"
        f"    settings: {{tape: [{capture}]}}\n"
    )
    words = ["up", "--detach", "--services", str(file), "--site-dir", str(tmp_path / "site")]
    assert main.run(words) == 2
    assert f"simd.settings.tape: {capture}: not one line of market data" in capsys.readouterr().err


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else_and_what_is_taken_is_a_line_of_the_replay_too(raw: bytes) -> None:
    for line in (raw, b"%d %s" % (NOW, raw), b'%d {"e":%s}' % (NOW, raw)):
        if tape.is_market_data(line):
            assert isinstance(replay._line(0, "f", 1, line), replay.Line)


def test_every_line_of_the_synthetic_market_is_market_data() -> None:
    listings = (synthetic.Listing("spot", "BTCUSDT", "1000", "0.1", "0.001"),)
    lines = synthetic.Synthetic(7, listings)
    for _, line in zip(range(500), lines, strict=False):
        assert tape.is_market_data(b"%d %s\n" % (line.receive_ns, line.raw))
