"""The files of a journal: what a segment holds, byte by byte, and finding one's way in it.

    <first sequence, 20 digits>.journal   b"HFTJRNL1", then records: length u32, crc32 u32 (of what follows),
                                          epoch i64, sequence i64, payload
    <first>-after-<last>.next             the same, while the segment before it, which ends with record
                                          <last>, is not known to be on the disk
    aside-<epoch>-<sequence>-<n>.journal  what a standby had beyond the common point with its leader, in the
                                          same format; kept for people. Until auditd has it: .unaudited

Who writes them, and in which order they reach the disk: journal.py. What becomes of a damaged one: damage.py.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import Retryable
from controlplane.host import files
from hftd.storage.sync_thread import OpenFile

MAGIC = b"HFTJRNL1"
_HEAD = struct.Struct("<II")
_KEY = struct.Struct("<qq")
_FRAME_BYTES = _HEAD.size + _KEY.size
PAYLOAD_BYTES_MAX = 1 << 20
"""As the wire's: a longer length in a file is damage."""
INDEX_EVERY = 256
"""Records between two entries of a segment's index: a read from anywhere skips at most this many."""
READ_BYTES = 256 << 10
"""Read from a file at once: a follower that is far behind must not cost a loop a whole segment each turn."""
_NEXT = re.compile(r"(\d{20})-after-(\d{20})\.next")


class JournalFull(Retryable):
    """The record was not written and nothing of it stays in the file."""


class SegmentRecord(NamedTuple):
    epoch: int
    sequence: int
    payload: bytes


@dataclass(slots=True)
class Segment:
    path: Path
    first: int
    index: list[tuple[int, int]] = field(default_factory=list)
    """(sequence, offset) of every INDEX_EVERY-th record."""
    records: int = 0
    size: int = len(MAGIC)
    file: OpenFile | None = None
    """While it is written, or not wholly on the disk. Then it is read through this: its name may change."""

    def offset(self, after: int) -> int:
        """A place at or before the first record with a sequence above `after`."""
        at = bisect_right(self.index, (after, 1 << 62)) - 1
        return self.index[at][1] if at >= 0 else len(MAGIC)

    def add(self, sequence: int, size: int) -> None:
        if self.records % INDEX_EVERY == 0:
            self.index.append((sequence, self.size))
        self.records += 1
        self.size += size

    def read(self, after: int) -> Iterator[tuple[SegmentRecord, int]]:
        """Its records with a sequence above `after`, each with where it ends; READ_BYTES at a time."""
        offset, wanted = self.offset(after), READ_BYTES
        while offset < self.size:
            content, begin = self._read(offset, min(wanted, self.size - offset)), offset
            for record, end in records(content, 0):
                offset = begin + end
                if record.sequence > after:
                    yield record, offset
            if offset == begin:
                if begin + len(content) >= self.size or wanted > _FRAME_BYTES + PAYLOAD_BYTES_MAX:
                    return
                wanted *= 2  # one record is longer than that

    def _read(self, offset: int, size: int) -> bytes:
        if self.file is not None:
            return os.pread(self.file.fd, size, offset)
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


# --- names --------------------------------------------------------------------------------------------------


def final(folder: Path, first: int) -> Path:
    """The name of a segment whose predecessor is on the disk."""
    return folder / f"{first:020d}.journal"


def provisional(folder: Path, first: int, previous: int) -> Path:
    """Its name until then; `previous` is the record that must stand before it."""
    return folder / f"{first:020d}-after-{previous:020d}.next"


def in_order(folder: Path) -> list[tuple[Path, int, int | None]]:
    """The segments of a folder by their first sequence: (path, first, the record that must stand before it;
    None where a segment has its final name).
    """
    found: list[tuple[int, bool, Path, int | None]] = [
        (int(path.stem), False, path, None) for path in folder.glob("[0-9]*.journal")
    ]
    names = ((path, _NEXT.fullmatch(path.name)) for path in folder.glob("[0-9]*.next"))
    found += [(int(name[1]), True, path, int(name[2])) for path, name in names if name]
    return [(path, first, previous) for first, _, path, previous in sorted(found)]


# --- bytes --------------------------------------------------------------------------------------------------


def frame(epoch: int, sequence: int, payload: bytes) -> bytes:
    """One record as it stands in a file."""
    body = _KEY.pack(epoch, sequence) + payload
    return _HEAD.pack(len(payload), zlib.crc32(body)) + body


def records(content: bytes, offset: int) -> Iterator[tuple[SegmentRecord, int]]:
    """Whole records and where each ends; stops at the first that is torn or damaged."""
    end = len(content)
    while offset + _FRAME_BYTES <= end:
        length, crc = _HEAD.unpack_from(content, offset)
        body_at = offset + _HEAD.size
        next_at = body_at + _KEY.size + length
        if length > PAYLOAD_BYTES_MAX or next_at > end or zlib.crc32(content[body_at:next_at]) != crc:
            return
        epoch, sequence = _KEY.unpack_from(content, body_at)
        yield SegmentRecord(epoch, sequence, content[body_at + _KEY.size : next_at]), next_at
        offset = next_at


def intact(content: bytes, offset: int, after: int) -> Iterator[SegmentRecord]:
    """Whole records from `offset` on, over whatever is damaged between them, with sequences that rise above
    `after`. A torn tail has none.
    """
    end = len(content)
    while offset + _FRAME_BYTES <= end:
        length, crc = _HEAD.unpack_from(content, offset)
        body_at = offset + _HEAD.size
        next_at = body_at + _KEY.size + length
        epoch, sequence = _KEY.unpack_from(content, body_at)
        if (
            length > PAYLOAD_BYTES_MAX
            or next_at > end
            or sequence <= after
            or zlib.crc32(content[body_at:next_at]) != crc
        ):
            offset += 1
            continue
        yield SegmentRecord(epoch, sequence, content[body_at + _KEY.size : next_at])
        offset, after = next_at, sequence


def write_side(path: Path, tail: list[SegmentRecord]) -> None:
    """Write the records to a file of their own, on the disk with its name when this returns.

    Raises:
        JournalFull: it did not fit; there is no such file.
    """
    content = bytearray(MAGIC)
    for record in tail:
        content += frame(*record)
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        files.sync_folder(path.parent)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise JournalFull(
            f"{path}: {len(tail)} records were not set aside: {exc.strerror}", retry_after_s=1.0
        ) from exc


def read_side(path: Path) -> list[SegmentRecord]:
    """What `write_side` wrote; as far as it is whole."""
    return [record for record, _ in records(path.read_bytes(), len(MAGIC))]
