"""The file of a backup: a line that says what it is of, a line a key, a line with the SHA-256 of all before.

    {"format":"hftctl-backup","version":1,"site":"lab",...}
    ["specs/omsd","eyJuYW1lIjoi..."]
    {"records":217,"sha256":"..."}

Keys are without the site's prefix, values in base64. `writing` makes it whole or not at all, 0600; `opened`
has read and checked all of it before it gives anything away, so that what is cut, edited or of a newer hftctl
changes no store. Neither holds more than a line of it in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.model import bounds

FORMAT = "hftctl-backup"
VERSION = 1
"""Raised when an earlier hftctl would restore such a file wrongly; fields may be added without that."""
LINE_BYTES_MAX = 1 << 20
"""The port's largest value, 512 KiB, is 683 KiB in base64."""
BUFFER_BYTES = 1 << 18


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    format: str = FORMAT
    version: int = VERSION
    site: str
    taken_ns: bounds.WallNs
    """UNIX ns, by the clock of who took it."""
    taken_at: str = ""
    """The same for people."""
    by: str = ""
    host: str = ""
    floor: str = ""
    """Id of the floor that the site is of; empty: the store said none."""
    incarnation: bounds.Incarnation = 0
    """Of the store; 0: it had none."""
    store_kind: str = ""
    store_version: str = ""
    revision: int = 0
    """Of the store: all keys are as they were at it (Consul: the newest among them)."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    key: str
    """Without the site's prefix."""
    value: bytes


class Trailer(msgspec.Struct, frozen=True):
    records: int
    sha256: str
    """Of every byte before this line, in hexadecimal."""


class _Version(msgspec.Struct):
    format: str = ""
    version: int = 0


_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(Record)
_trailer = msgspec.json.Decoder(Trailer)


class Writer:
    """Takes the records of a file that is being made."""

    def __init__(self, out: IO[bytes], header: Header) -> None:
        self.records = 0
        self._out = out
        self._digest = hashlib.sha256()
        self._line(_encode(header))

    def add(self, key: str, value: bytes) -> None:
        self._line(_encode(Record(key, value)))
        self.records += 1

    def end(self) -> Trailer:
        trailer = Trailer(self.records, self._digest.hexdigest())
        self._out.write(_encode(trailer) + b"\n")
        return trailer

    def _line(self, content: bytes) -> None:
        line = content + b"\n"
        self._digest.update(line)
        self._out.write(line)


@contextlib.contextmanager
def writing(path: Path, header: Header) -> Iterator[Writer]:
    """A whole file at the end of the block, or what was there before. Raises OSError as `files.replacing`."""
    with files.replacing(path) as out:
        writer = Writer(out, header)
        yield writer
        writer.end()


class Backup:
    """One that was found whole. `records` may be gone through again and again."""

    def __init__(self, path: Path, source: IO[bytes], header: Header, trailer: Trailer) -> None:
        self.path, self.header, self.trailer = path, header, trailer
        self._source = source

    def __repr__(self) -> str:
        return f"<Backup {self.path}: {self.header.site}, {self.trailer.records} keys>"

    def records(self) -> Iterator[Record]:
        """In the order of the file. Raises InvalidInput: it was changed since it was opened."""
        self._source.seek(0)
        _, read = _read_header(self.path, self._source)
        yield from read
        if read.trailer != self.trailer:
            raise InvalidInput(f"{self.path}: changed while it was read")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Backup]:
    """The backup in `path`, checked to its last byte.

    Raises:
        InvalidInput: it is not there, or no whole backup that this hftctl reads: cut, edited, newer.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO holds nobody up
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInput(f"{path}: not a regular file, wanted one that `hftctl backup` wrote")
    with os.fdopen(fd, "rb", buffering=BUFFER_BYTES) as source:
        header, read = _read_header(path, source)
        yield Backup(path, source, header, _to_the_end(read))


def header_of(path: Path) -> Header | None:
    """The first line of it alone, unchecked; None: it is not one."""
    try:
        with path.open("rb") as source:
            return _read_header(path, source)[0]
    except (OSError, InvalidInput):
        return None


def _to_the_end(read: _Records) -> Trailer:
    for _ in read:
        pass
    assert read.trailer is not None, "the loop ends with a trailer or an error"
    return read.trailer


class _Records:
    """The lines after the header; `trailer` is there after the last one."""

    def __init__(self, path: Path, source: IO[bytes], first: bytes) -> None:
        self.trailer: Trailer | None = None
        self._path, self._source = path, source
        self._digest = hashlib.sha256(first)

    def __iter__(self) -> Iterator[Record]:
        records = 0
        while True:
            line = _line(self._path, self._source, f"after {records} keys")
            if not line.startswith(b"["):
                break
            try:
                record = _record.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                raise InvalidInput(
                    f"{self._path}: damaged: line {records + 2} is no record ({bounds.cut(str(exc), 200)})"
                ) from exc
            self._digest.update(line)
            records += 1
            yield record
        self.trailer = self._checked(line, records)

    def _checked(self, line: bytes, records: int) -> Trailer:
        try:
            trailer = _trailer.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{self._path}: damaged: line {records + 2} is no record") from exc
        if self._source.read(1):
            raise InvalidInput(f"{self._path}: damaged: there is more after its last line")
        if trailer.records != records or trailer.sha256 != self._digest.hexdigest():
            raise InvalidInput(
                f"{self._path}: edited or damaged: it has {records} keys with the SHA-256 "
                f"{self._digest.hexdigest()[:16]}..., and says of itself {trailer.records} with "
                f"{bounds.cut(trailer.sha256, 16)}...; nothing was changed"
            )
        return trailer


def _read_header(path: Path, source: IO[bytes]) -> tuple[Header, _Records]:
    line = _line(path, source, "in its first line")
    try:
        found = msgspec.json.decode(line, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = _Version()
    if found.format != FORMAT:
        raise InvalidInput(f"{path}: not a backup, wanted a file that `hftctl backup` wrote")
    if not 0 < found.version <= VERSION:
        raise InvalidInput(
            f"{path}: found a backup of version {found.version}, and this hftctl reads up to {VERSION}: "
            "restore it with the hftctl that wrote it, or a newer one"
        )
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path}: damaged: its first line says {bounds.cut(str(exc), 200)}") from exc
    return header, _Records(path, source, line)


def _line(path: Path, source: IO[bytes], where: str) -> bytes:
    try:
        line = source.readline(LINE_BYTES_MAX)
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc.strerror}") from exc
    if line.endswith(b"\n"):
        return line
    if len(line) >= LINE_BYTES_MAX:
        raise InvalidInput(f"{path}: not a backup: a line of over {LINE_BYTES_MAX} bytes {where}")
    raise InvalidInput(f"{path}: cut: it ends {where}, without the line that a whole backup ends with")
