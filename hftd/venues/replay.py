"""Recorded capture, read back in the order in which it was received. Used by simd (the tape), marketd
(benchmark) and `data verify`.

A capture file is gzip with one message on each line: `<local receive time, UNIX ns> <verbatim JSON>`. The
market is the folder's name, one of MARKETS and nothing else, since it decides about money; the symbol is the
file's name without its date or hour, in upper case. The files of one instrument are chained by the time that
their names mean. All instruments are merged by receive time, lazily: memory is bounded by one
block of each open file. What the JSON means: venues/binance.py.

Bad input never ends the tape. A line that cannot be used comes out at once, in its place, as a BadLine with
file, line and reason, and reading goes on with the next line. After damage to the gzip data, or after
BAD_IN_A_ROW_MAX bad lines without a good one, the rest of that file is skipped, and a BadLine says so.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import InvalidInput
from hftd.venues import reference
from hftd.wire import feed, market, requests

BLOCK_BYTES = 1 << 16
INFLATED_BYTES_MAX = 1 << 20
"""Inflated at a time: a few compressed bytes can stand for gigabytes."""
LINE_BYTES_MAX = feed.LINE_BYTES_MAX
BAD_IN_A_ROW_MAX = 10_000
"""A file with this many bad lines and no good one among them is not a capture. Without an end to it, a few
kilobytes of compressed newlines would keep a reader busy for minutes."""
JUMP_NS_MAX = 60_000_000_000
"""Two lines of an instrument that are further apart, either way, are a recorder that paused or a clock that
jumped; the line behind them tells which."""
EXPONENT = -8
MARKETS = {"spot": "spot", "usdm": "linear", "cm": "inverse"}
"""Folder -> contract."""

# A day, an hour of it, or more: 20250303, 2025-03-03, 2025030312, 2025-03-03T12, 20250303_1230. A contract's
# own date has six digits (BTCUSDT_250328) and stays in its symbol.
_TIME = (
    r"(?P<year>20\d\d)(?P<dash>[-_.]?)(?P<month>0[1-9]|1[0-2])(?P=dash)(?P<day>0[1-9]|[12]\d|3[01])"
    r"(?:[-_.tT]?(?P<hour>[01]\d|2[0-3])(?:[-_:]?(?P<minute>[0-5]\d)(?:[-_:]?(?P<second>[0-5]\d))?)?)?[zZ]?"
)
_NAME = re.compile(rf"(?P<symbol>[^.]+?)(?:[-_.]{_TIME})?(?:\..*)?", re.ASCII)
_GZIP = zlib.MAX_WBITS | 16


class Line(NamedTuple):
    receive_ns: int
    instrument: int
    """Id; also the index into Tape.instruments."""
    raw: bytes
    file: str
    number: int
    shift_ns: int = 0
    """Added to the receive time it is the line's place among the others: the recorder's clock has jumped."""

    @property
    def place_ns(self) -> int:
        return self.receive_ns + self.shift_ns


class BadLine(NamedTuple):
    file: str
    number: int
    reason: str


class Tape:
    """Can be iterated any number of times; each iteration starts at the beginning.

    Raises:
        InvalidInput: a path does not exist, is not a regular file or may not be read, a file is in a folder
        that is no market, its instrument is not in the reference data, or there is no capture at all. Nothing
        has been read then.
    """

    def __init__(self, paths: Sequence[Path], known: reference.Reference | None = None) -> None:
        """`known`: reference data; an instrument that is not in it is refused, where there is any."""
        self.paths = tuple(paths)
        series: dict[tuple[str, str], list[tuple[str, Path]]] = {}
        for path in captures(paths):
            market_name, symbol, date = named(path)
            series.setdefault((market_name, symbol), []).append((date, path))
        if len(series) > market.INSTRUMENTS_MAX:
            raise InvalidInput(f"{len(series)} instruments; at most {market.INSTRUMENTS_MAX} are allowed")
        self.instruments: list[requests.Instrument] = []
        self.files: list[list[Path]] = []
        """For each instrument, its files in the order of the times in their names."""
        for number, (market_name, symbol) in enumerate(sorted(series)):
            self.instruments.append(_instrument(number, market_name, symbol, known))
            self.files.append([path for _, path in sorted(series[market_name, symbol])])

    def __repr__(self) -> str:
        return f"<Tape {len(self.instruments)} instruments, {sum(map(len, self.files))} files>"

    def __iter__(self) -> Iterator[Line | BadLine]:
        # By place, then instrument. The merge holds one item of each series at a time, so nothing after those
        # two is ever compared.
        series = (_series(number, files) for number, files in enumerate(self.files))
        for _, _, item in heapq.merge(*series):
            yield item


def _instrument(
    number: int, market_name: str, symbol: str, known: reference.Reference | None
) -> requests.Instrument:
    contract = MARKETS[market_name]
    if known:
        terms = known.get((market_name, symbol))
        if terms is None:
            raise InvalidInput(
                f"{market_name}:{symbol} is not among the {len(known)} instruments of the reference data "
                "(settings instruments and exchange_info)"
            )
        if terms.contract != contract:
            raise InvalidInput(
                f"{market_name}:{symbol}: the reference data says {terms.contract}, its folder {contract}"
            )
        contract = terms.booked_as
    return requests.Instrument(number, market_name, symbol, EXPONENT, EXPONENT, contract)


def captures(paths: Sequence[Path]) -> list[Path]:
    """The named files, and the `*.gz` files in the named folders, each once. Raises InvalidInput."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*.gz") if file.is_file())
            if not inside:
                raise InvalidInput(f"{path}: no capture in this folder (expected *.gz)")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        elif path.exists():
            raise InvalidInput(f"{path}: not a regular file")
        else:
            raise InvalidInput(f"{path}: no such file or folder")
    if not found:
        raise InvalidInput("no capture file named")
    for path in found:
        if not os.access(path, os.R_OK):
            raise InvalidInput(f"{path}: cannot be read (permission denied)")
        folder, symbol, time = named(path)
        if not "".join((folder, symbol, time)).isprintable():
            raise InvalidInput(f"{str(path)!r}: a name with unprintable characters cannot name an instrument")
        if folder not in MARKETS:
            raise InvalidInput(
                f"{path}: the folder {folder!r} is no market; wanted: {', '.join(MARKETS)} (Binance's spot, "
                "USD-M and COIN-M), because contract and money follow from it"
            )
    return list(found)


def named(path: Path) -> tuple[str, str, str]:
    """(folder, symbol, time as YYYYMMDDhhmmss or "") of a capture file."""
    folder, match = path.absolute().parent.name, _NAME.fullmatch(path.name)
    if match is None:
        return folder, path.name.upper(), ""
    parts = match.group("year", "month", "day", "hour", "minute", "second")
    time = "".join(part or "00" for part in parts) if parts[0] else ""
    return folder, match["symbol"].upper(), time


def _series(instrument: int, files: list[Path]) -> Iterator[tuple[int, int, Line | BadLine]]:
    """The lines of one instrument in the order of its files, each with its place and instrument. What is
    wrong with them is in between.
    """
    order = _Order()
    for path in files:
        for item in _lines(instrument, path):
            if isinstance(item, Line):
                if order.follows(item.receive_ns):
                    yield item.receive_ns, instrument, item
                    continue
                for found in order.take(item):
                    yield order.place_ns, instrument, found
            else:
                yield order.place_ns, instrument, item
    for found in order.end():
        yield order.place_ns, instrument, found


class _Order:
    """Where the lines of one instrument stand among the others', though the clock of its recorder jumps.

    A line more than JUMP_NS_MAX from the one before waits for the next one. If that is where the line before
    was, the line between them alone has a wrong time: it keeps its place between the two. Else the step
    is believed: forward it is a recorder that paused, or a quiet market; back, it is a clock that was set
    back, and everything from there on keeps its place behind what came before. Otherwise the merge would hold
    up all other instruments, or this one, until the times have met again. Lines of times that were wrong are
    named, and none is left out.
    """

    def __init__(self) -> None:
        self.place_ns = 0
        """Of the line that was given last."""
        self._before_ns: int | None = None
        """Its receive time, unless that alone was wrong."""
        self._shift_ns = 0
        """Of each receive time from here on: as far as the clock was set back."""
        self._held: Line | None = None
        self._first: Line | None = None
        """Before any line was given: the first, when the second is far behind it. The third tells which of
        the two has a wrong time."""

    def follows(self, receive_ns: int) -> bool:
        """The ordinary line, which needs nothing: its receive time is its place."""
        before_ns = self._before_ns
        if (
            before_ns is None
            or not before_ns <= receive_ns <= before_ns + JUMP_NS_MAX
            or self._shift_ns
            or self._held is not None
        ):
            return False
        self._before_ns = self.place_ns = receive_ns
        return True

    def take(self, line: Line) -> Iterator[Line | BadLine]:
        """What may be given now that this line is known; itself too, unless it has to wait for the next."""
        first, self._first = self._first, None
        if first is not None and self._held is not None:
            if self._nearer(line.receive_ns, first.receive_ns, self._held.receive_ns):
                yield self._placed(first)
            else:
                yield from self._alone(first, self._held.receive_ns, self._held.receive_ns)
        if self._held is not None:
            if self._before_ns is None and line.receive_ns < self._held.receive_ns - JUMP_NS_MAX:
                self._first, self._held = self._held, line
                return
            yield from self._judge(self._held, line.receive_ns)
        before_ns = self._before_ns
        if before_ns is None or not self._near(line.receive_ns, before_ns):
            self._held = line
            return
        if line.receive_ns < before_ns:
            yield BadLine(line.file, line.number, _behind(line, before_ns))
        yield self._placed(line)

    def end(self) -> Iterator[Line | BadLine]:
        """The lines that wait for one that does not come."""
        if self._first is not None and self._held is not None:
            yield from self._alone(self._first, self._held.receive_ns, self._held.receive_ns)
        if self._held is not None:
            yield from self._judge(self._held, self._held.receive_ns)

    def _judge(self, held: Line, next_ns: int) -> Iterator[Line | BadLine]:
        before_ns, self._held = self._before_ns, None
        if before_ns is None:
            yield self._placed(held)
        elif self._near(next_ns, before_ns) and self._nearer(next_ns, before_ns, held.receive_ns):
            yield from self._alone(held, before_ns, max(before_ns, next_ns))
        elif held.receive_ns > before_ns and next_ns >= held.receive_ns - JUMP_NS_MAX:
            self._shift_ns = max(0, self._shift_ns - (held.receive_ns - before_ns))  # it is put right again
            yield self._placed(held)
        elif held.receive_ns < before_ns and self._near(next_ns, held.receive_ns):
            self._shift_ns += before_ns - held.receive_ns
            yield BadLine(
                held.file, held.number, f"{_behind(held, before_ns)}; all from here on keep their place"
            )
            yield self._placed(held)
        else:
            yield from self._alone(held, before_ns, before_ns)

    def _placed(self, line: Line) -> Line:
        self._before_ns = line.receive_ns
        self.place_ns = line.receive_ns + self._shift_ns
        return line._replace(shift_ns=self._shift_ns) if self._shift_ns else line

    def _alone(self, line: Line, before_ns: int, next_ns: int) -> Iterator[Line | BadLine]:
        off_ns = line.receive_ns - before_ns
        far = f"{abs(off_ns) // 1_000_000_000} s {'ahead of' if off_ns > 0 else 'behind'} the lines around it"
        yield BadLine(line.file, line.number, f"received at {line.receive_ns}, {far}; it keeps its place")
        self.place_ns = (before_ns + next_ns) // 2 + self._shift_ns
        yield line._replace(shift_ns=self.place_ns - line.receive_ns)

    @staticmethod
    def _near(one_ns: int, other_ns: int) -> bool:
        return abs(one_ns - other_ns) <= JUMP_NS_MAX

    @staticmethod
    def _nearer(to_ns: int, one_ns: int, other_ns: int) -> bool:
        return abs(one_ns - to_ns) <= abs(other_ns - to_ns)


def _behind(line: Line, before_ns: int) -> str:
    return f"out of order: received at {line.receive_ns}, the line before at {before_ns}"


def _lines(instrument: int, path: Path) -> Iterator[Line | BadLine]:
    """The lines of a file as they stand there; ends at damage and after BAD_IN_A_ROW_MAX bad lines."""
    file, number, bad = str(path), 0, 0
    for text in inflate(path):
        if isinstance(text, str):
            yield BadLine(file, number + 1, text)
            return
        number += 1
        line = _line(instrument, file, number, text)
        yield line
        if isinstance(line, Line):
            bad = 0
            continue
        bad += 1
        if bad >= BAD_IN_A_ROW_MAX:
            yield BadLine(file, number + 1, f"after {bad} bad lines in a row the rest of the file is skipped")
            return


def _line(instrument: int, file: str, number: int, text: bytes) -> Line | BadLine:
    head, _, raw = text.partition(b" ")
    if not head.isdigit() or len(head) > 19 or not raw.startswith(b"{"):
        return BadLine(file, number, "unknown shape: not `<receive time in UNIX ns> <JSON object>`")
    receive_ns = int(head)
    if receive_ns > market.TIME_NS_MAX:
        return BadLine(file, number, f"received at {receive_ns}: after {market.TIME_MAX_TEXT}")
    if len(raw) > LINE_BYTES_MAX:
        return BadLine(file, number, f"a line of over {LINE_BYTES_MAX} bytes")
    return Line(receive_ns, instrument, raw, file, number)


def inflate(path: Path) -> Iterator[bytes | str]:
    """The whole lines of a gzip file; at damage, a text that says what is wrong, and nothing after it."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield "not a regular file"
                return
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
    """What the block holds and, when it is damaged, why: then everything before the damage, which zlib alone
    would not return.
    """
    before = inflater.copy()
    try:
        data = inflater.decompress(block, INFLATED_BYTES_MAX)
        while (
            len(data) % INFLATED_BYTES_MAX == 0 and data and not inflater.unconsumed_tail and not inflater.eof
        ):
            more = inflater.decompress(
                b"", INFLATED_BYTES_MAX
            )  # the input is used up, but output may still be inside
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
