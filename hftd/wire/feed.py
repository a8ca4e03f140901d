"""The venue's feed as simd sends it: several lines of a tape in one ZeroMQ message, each verbatim beside its
recorded receive time.

    frame = header {type u16, version u16, lines u32, sequence u64, session u64} + lines
    line  = record {instrument u16, flags u16, length u32, receive ns i64} + `length` verbatim bytes
`sequence` is that of the frame's first line and each line counts one, so the reader sees what it lost. A new
`session` (the sender's start in UNIX ns) starts the count again. Little-endian, no padding; `flags` is 0
until it means something. A frame without lines is a beat: sent once a second, with the sequence of the next
line, it says that the venue is there when nothing happens in its markets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from controlplane.errors import InvalidInput

HEADER = struct.Struct("<HHIQQ")
RECORD = struct.Struct("<HHIq")
FRAME_TYPE = 0x4446  # "FD"
VERSION = 1
BATCH_MAX = 64
"""Lines in a frame; the sender flushes at this or when nothing more is due."""
LINE_BYTES_MAX = 16 << 20
"""A whole book of a busy venue is below 1 MB; more is a mistake."""
SEQUENCE_MAX = 1 << 62
"""Of sequence and session: what is counted on from there stays within 64 bits."""


class Header(NamedTuple):
    sequence: int
    session: int
    lines: int


class Line(NamedTuple):
    instrument: int
    flags: int
    receive_ns: int
    raw: bytes


def pack(lines: Iterable[tuple[int, int, bytes]], sequence: int, session: int) -> bytes:
    """A frame of (instrument, receive_ns, raw) lines."""
    parts: list[bytes] = [b""]
    for instrument, receive_ns, raw in lines:
        parts.append(RECORD.pack(instrument, 0, len(raw), receive_ns))
        parts.append(raw)
    parts[0] = HEADER.pack(FRAME_TYPE, VERSION, len(parts) // 2, sequence, session)
    return b"".join(parts)


def beat(sequence: int, session: int) -> bytes:
    """`sequence` is that of the next line."""
    return pack((), sequence, session)


def header(data: bytes) -> Header:
    """Raises InvalidInput."""
    if len(data) < HEADER.size:
        raise InvalidInput(f"feed frame of {len(data)} bytes, at least {HEADER.size} expected")
    kind, version, count, sequence, session = HEADER.unpack_from(data)
    if kind != FRAME_TYPE or version != VERSION:
        raise InvalidInput(
            f"feed frame of type {kind:#x} version {version}, {FRAME_TYPE:#x} version {VERSION} expected"
        )
    if sequence > SEQUENCE_MAX or session > SEQUENCE_MAX:
        raise InvalidInput(f"feed frame of session {session} at sequence {sequence}: over {SEQUENCE_MAX}")
    return Header(sequence, session, count)


def lines(data: bytes) -> Iterator[Line]:
    """The lines of a frame, in order. Raises InvalidInput when it is cut, after what came before."""
    at, end = HEADER.size, len(data)
    for _ in range(header(data).lines):
        if at + RECORD.size > end:
            raise InvalidInput(f"feed frame ends inside a record at byte {at}")
        instrument, flags, length, receive_ns = RECORD.unpack_from(data, at)
        at += RECORD.size
        if length > LINE_BYTES_MAX or at + length > end:
            raise InvalidInput(
                f"feed frame: record at byte {at - RECORD.size} claims {length} bytes, {end - at} are there"
            )
        yield Line(instrument, flags, receive_ns, data[at : at + length])
        at += length


class Reader:
    """What the header of a frame says of the frames before it."""

    def __init__(self) -> None:
        self._session = 0
        self.expected = 0
        """Sequence that the next frame should have."""

    def is_new_session(self, head: Header) -> bool:
        """True once for each session but the first: what was known of the one before no longer holds."""
        if head.session == self._session:
            return False
        first = not self._session
        self._session, self.expected = head.session, head.sequence
        return not first

    def follows(self, head: Header) -> bool:
        """Move past this frame; False when it is not the one that was expected."""
        expected, self.expected = self.expected, head.sequence + head.lines
        return head.sequence == expected
