"""The files of a journal: what a segment holds, byte by byte, and finding one's way in it.

    <first sequence, 20 digits>.journal   b"HFTJRNL1", then records: length u32, crc32 u32 (of what follows),
                                          epoch i64, sequence i64, payload
    aside-<epoch>-<sequence>-<n>.journal  what a standby had beyond the common point with its leader, in the
                                          same format; kept for people

Who writes them, and in which order they reach the disk: journal.py.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import InvalidInput, Retryable

MAGIC = b"HFTJRNL1"
_HEAD = struct.Struct("<II")
_KEY = struct.Struct("<qq")
_FRAME_BYTES = _HEAD.size + _KEY.size
PAYLOAD_BYTES_MAX = 1 << 20
"""As the wire's: a longer length in a file is damage."""
INDEX_EVERY = 256
"""Records between two entries of a segment's index: a read from anywhere skips at most this many."""


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

    def offset(self, after: int) -> int:
        """A place at or before the first record with a sequence above `after`."""
        at = bisect_right(self.index, (after, 1 << 62)) - 1
        return self.index[at][1] if at >= 0 else len(MAGIC)

    def add(self, sequence: int, size: int) -> None:
        if self.records % INDEX_EVERY == 0:
            self.index.append((sequence, self.size))
        self.records += 1
        self.size += size


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


def read_whole(path: Path, *, last: bool) -> bytes | None:
    """The content of a segment; None for a last one in which nothing was written yet (the power went, or the
    disk was full, when it was begun), which is removed.

    Raises:
        InvalidInput: it is not a segment.
    """
    content = path.read_bytes()
    if last and len(content) <= len(MAGIC) and MAGIC.startswith(content):
        path.unlink()
        return None
    if not content.startswith(MAGIC):
        raise InvalidInput(
            f"{path}: not a journal segment (begins with {content[:8]!r} instead of {MAGIC!r})"
        )
    return content


def write_side(path: Path, tail: list[SegmentRecord]) -> None:
    content = bytearray(MAGIC)
    for record in tail:
        content += frame(*record)
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise JournalFull(
            f"{path}: {len(tail)} records were not set aside: {exc.strerror}", retry_after_s=1.0
        ) from exc
