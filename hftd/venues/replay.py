"""Recorded capture, read back in the order in which it was received. Used by simd (the tape), marketd
(benchmark) and `data verify`.

A capture file is gzip, a line a message: `<local receive time, UNIX ns> <verbatim JSON>`. Market is the
folder's name, symbol the file's name without its date, in upper case; files of one instrument are chained by
date. All instruments are merged by receive time, lazily: memory is one block of each file that is open. Bad
input never ends the tape: it comes out as a BadLine that names file, line and reason, and the rest goes on.
What the JSON means: venues/binance.py.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import InvalidInput
from hftd.wire import requests

BLOCK_BYTES = 1 << 16
INFLATED_BYTES_MAX = 1 << 20
"""Taken out of one block at a time: a few compressed bytes can claim to be gigabytes."""
LINE_BYTES_MAX = 16 << 20
EXPONENT = -8
CONTRACTS = {"spot": "spot", "usdm": "linear", "cm": "inverse"}

_NAME = re.compile(r"(?P<symbol>.+?)(?:[_-](?P<date>\d{8}|\d{4}-\d\d-\d\d))?")
_GZIP = zlib.MAX_WBITS | 16


class Line(NamedTuple):
    receive_ns: int
    instrument: int
    """Id; also the index into Tape.instruments."""
    raw: bytes
    file: str
    number: int


class BadLine(NamedTuple):
    file: str
    number: int
    reason: str


class Tape:
    """Iterate as often as wanted; each iteration starts at the beginning.

    Raises:
        InvalidInput: a path does not exist or may not be read, or there is no capture file at all; nothing
        has been read then.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        series: dict[tuple[str, str], list[tuple[str, Path]]] = {}
        for path in captures(paths):
            market, symbol, date = named(path)
            series.setdefault((market, symbol), []).append((date, path))
        self.instruments: list[requests.Instrument] = []
        self.files: list[list[Path]] = []
        """For each instrument, its files in the order of their dates."""
        for number, (market, symbol) in enumerate(sorted(series)):
            self.instruments.append(
                requests.Instrument(number, market, symbol, EXPONENT, EXPONENT, CONTRACTS.get(market, "spot"))
            )
            self.files.append([path for _, path in sorted(series[market, symbol])])

    def __repr__(self) -> str:
        return f"<Tape {len(self.instruments)} instruments, {sum(map(len, self.files))} files>"

    def __iter__(self) -> Iterator[Line | BadLine]:
        bad: list[BadLine] = []
        # Lines compare by receive time, then instrument; a series has one line in the merge at a time, so
        # nothing beyond is compared.
        for line in heapq.merge(*(_series(number, files, bad) for number, files in enumerate(self.files))):
            if bad:
                yield from bad
                bad.clear()
            yield line
        yield from bad


def captures(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the `*.gz` files in the folders named, each once. Raises InvalidInput."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*.gz") if file.is_file())
            if not inside:
                raise InvalidInput(f"{path}: no capture in this folder (expected *.gz)")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise InvalidInput(f"{path}: no such file or folder")
    if not found:
        raise InvalidInput("no capture file named")
    for path in found:
        if not os.access(path, os.R_OK):
            raise InvalidInput(f"{path}: cannot be read (permission denied)")
    return list(found)


def named(path: Path) -> tuple[str, str, str]:
    """(market, symbol, date or "") of a capture file."""
    match = _NAME.fullmatch(path.name.split(".", 1)[0])
    if match is None:
        return path.absolute().parent.name, path.name.upper(), ""
    return path.absolute().parent.name, match["symbol"].upper(), match["date"] or ""


def _series(instrument: int, files: list[Path], bad: list[BadLine]) -> Iterator[Line]:
    before_ns = 0
    for path in files:
        file, number = str(path), 0
        for text in inflate(path):
            if isinstance(text, str):
                bad.append(BadLine(file, number + 1, text))
                break
            number += 1
            head, _, raw = text.partition(b" ")
            if not head.isdigit() or len(head) > 19 or not raw.startswith(b"{"):
                bad.append(
                    BadLine(file, number, "unknown shape: not `<receive time in UNIX ns> <JSON object>`")
                )
                continue
            receive_ns = int(head)
            if receive_ns < before_ns:
                bad.append(
                    BadLine(
                        file,
                        number,
                        f"out of order: received at {receive_ns}, the line before at {before_ns}",
                    )
                )
            before_ns = receive_ns
            yield Line(receive_ns, instrument, raw, file, number)


def inflate(path: Path) -> Iterator[bytes | str]:
    """The whole lines of a gzip file; at damage a text that says what is wrong, and nothing after it."""
    try:
        with path.open("rb") as file:
            yield from _inflate(iter(lambda: file.read(BLOCK_BYTES), b""))
    except OSError as exc:
        yield f"cannot be read: {exc.strerror or exc}"


def _inflate(blocks: Iterator[bytes]) -> Iterator[bytes | str]:
    inflater, rest, began = zlib.decompressobj(_GZIP), b"", False
    for read in blocks:
        block = read
        while block:
            if inflater.eof:
                if not block.strip(b"\0"):
                    break  # padding after the last member, as some writers leave it
                inflater = zlib.decompressobj(_GZIP)
            if not began and not block.startswith(b"\x1f"):
                yield "not gzip"
                return
            began = True
            data, wrong = _decompress(inflater, block)
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
            if wrong or len(rest) > LINE_BYTES_MAX:
                yield wrong or f"a line of over {LINE_BYTES_MAX} bytes"
                return
            block = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not began:
        yield "not gzip: the file is empty"
    elif not inflater.eof:
        yield "truncated gzip: the file ends inside its data"
    elif rest:
        yield rest


def _decompress(inflater: zlib._Decompress, block: bytes) -> tuple[bytes, str]:
    """What the block holds and, when it is damaged, why: then all that came before the damage, which zlib
    alone would not give.
    """
    before = inflater.copy()
    try:
        data = inflater.decompress(block, INFLATED_BYTES_MAX)
        while (
            len(data) % INFLATED_BYTES_MAX == 0 and data and not inflater.unconsumed_tail and not inflater.eof
        ):
            more = inflater.decompress(b"", INFLATED_BYTES_MAX)  # the input is eaten, output is still inside
            if not more:
                break
            data += more
        return data, ""
    except zlib.error as exc:
        found = bytearray()
        with contextlib.suppress(zlib.error):
            for at in range(len(block)):
                found += before.decompress(block[at : at + 1])
        return bytes(found), f"damaged gzip: {exc}"
