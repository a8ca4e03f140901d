"""`up --tape`: what simd could not replay a line of is refused before anything is started. A floor on it
would come up, be healthy, and trade on nothing.

What a capture is: hftd/venues/replay.py, which this cannot import; test_floor_tape.py compares the two. Bad
lines among good ones are no reason to refuse: simd names them in alarms.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from controlplane.errors import InvalidInput

LOOK_LINES_MAX = 10_000
"""Of a file: after as many bad lines in a row simd skips the rest of it."""
LINE_BYTES_MAX = 4 << 20
BYTES_MAX = 64 << 20
"""Inflated, of all lines looked at: a few bytes of gzip may stand for gigabytes."""
FIELDS = frozenset({"e", "s", "lastUpdateId", "bids"})
"""One of these is in every message of a market, with or without the envelope of its stream."""
WANTED = "wanted: gzip, and on each line <receive time in UNIX ns> <the venue's JSON>"


def require(path: Path, subject: str) -> Path:
    """The path, resolved. `subject` names it in the refusal.

    Raises:
        InvalidInput: there is no such file or folder, it cannot be read, or no line of it is market data.
    """
    path = path.expanduser()
    if not path.exists():
        raise InvalidInput(f"{subject}: no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise InvalidInput(f"{subject}: not a regular file")
    files = sorted(file for file in path.rglob("*.gz") if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise InvalidInput(f"{subject}: no capture in this folder (*.gz wanted)")
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"{subject}: cannot be read (permission denied)")
    first = ""
    for file in files:
        why = _why_not(file)
        if not why:
            return path.resolve()
        first = first or (f"{file.name}: {why}" if path.is_dir() else why)
    raise InvalidInput(f"{subject}: not one line of market data ({first}; {WANTED})")


def _why_not(file: Path) -> str:
    """Why it has no line of market data, as far as was looked; empty: it has one."""
    number = 0
    try:
        for line in _lines(file):
            if is_market_data(line):
                return ""
            number += 1
    except (OSError, EOFError, zlib.error) as exc:
        return "not gzip" if isinstance(exc, gzip.BadGzipFile) and not number else str(exc)
    return f"{number} lines, none of them" if number else "it is empty"


def _lines(file: Path) -> Iterator[bytes]:
    with gzip.open(file) as opened:
        left = BYTES_MAX
        for _ in range(LOOK_LINES_MAX):
            line = opened.readline(LINE_BYTES_MAX)
            left -= len(line)
            if not line or left < 0:
                return
            yield line


def is_market_data(line: bytes) -> bool:
    head, _, raw = line.partition(b" ")
    if not head.isdigit() or len(head) > 19 or not raw.startswith(b"{"):
        return False
    try:
        frame = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    data = frame.get("data", frame)
    return isinstance(data, dict) and not FIELDS.isdisjoint(data)
