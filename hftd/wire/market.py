"""Market data on the bus: frames of fixed little-endian records, several messages to a frame.

    frame   = header {type u16, version u16, messages u32, sequence u64, session u64} + messages message =
    record {instrument u16, kind u8, flags u8, levels u32, bids u32, payload u32, receive ns i64, event ns
    i64, origin monotonic ns i64,
              first u64, last u64, previous u64, trade_or_bar u64} + `levels` x {price i64, quantity i64}
              (bids first) + `payload` bytes
`sequence` is that of the frame's first message; each message counts one, so a subscriber sees what it lost. A
new `session` (the publisher's start in UNIX ns) starts the count again. Prices and quantities are int64 in
units of 1e-8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

from controlplane.errors import InvalidInput
from hftd.native import market as native

FRAME = struct.Struct("<HHIQQ")
RECORD = struct.Struct("<HBBIIIqqqQQQQ")
LEVEL = struct.Struct("<qq")
FRAME_TYPE = 0x4D44  # "MD"
VERSION = 1
BATCH_MAX = 64
"""Messages in a frame: flushed at this or when the input is empty. 64 is where frames stop getting cheaper
(floors: 1.9 M events/s)."""
LEVELS_MAX = 65_536
INSTRUMENTS_MAX = 1 << 16
"""Ids are 16 bits wide."""
TIME_NS_MAX = 4_102_444_800_000_000_000
"""2100-01-01T00:00:00Z. A receive or event time after it is a mistake; up to it, adding a bar's length or an
offset stays within 64 bits."""
TIME_MAX_TEXT = "2100-01-01"
SEQUENCE_MAX = 1 << 62
"""Of a frame's sequence and session: what is counted on from there stays within 64 bits."""


class Kind(IntEnum):
    INSTRUMENT = 1
    """Reference data: payload is msgpack of Instrument. Repeated each second."""
    DIFF = 2
    """Depth update: quantity 0 removes the level."""
    SNAPSHOT = 3
    """Whole book; `last` is its update id."""
    TICKER = 4
    """The venue's own best bid and offer: two levels; `last` is its update id."""
    TRADE = 5
    """One level, among the bids; flags bit 0: the buyer was the maker (the taker sold); `trade_or_bar` is the
    trade id."""
    TOP = 6
    """bookd's best bid and offer: two levels, quantity 0 where the side is empty."""
    BAR = 7
    """bookd's bar: three levels among the bids, (open, high), (low, close), (volume, trades); `trade_or_bar`
    is its length in ns, event ns where it begins."""
    STATUS = 8
    """bookd: flags bit 0: the instrument's book is in step (1) or waits for a snapshot (0)."""


BUYER_IS_MAKER = 1
IN_STEP = 1


class Message(NamedTuple):
    instrument: int
    kind: int
    flags: int
    receive_ns: int
    event_ns: int
    origin_ns: int
    first: int
    last: int
    previous: int
    trade_or_bar: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]
    payload: bytes = b""


def pack(message: Message) -> bytes:
    bids, asks = message.bids, message.asks
    head = RECORD.pack(
        message.instrument,
        message.kind,
        message.flags,
        len(bids) + len(asks),
        len(bids),
        len(message.payload),
        message.receive_ns,
        message.event_ns,
        message.origin_ns,
        message.first,
        message.last,
        message.previous,
        message.trade_or_bar,
    )
    count = 2 * (len(bids) + len(asks))
    return (
        head
        + struct.pack(f"<{count}q", *chain.from_iterable(bids), *chain.from_iterable(asks))
        + message.payload
    )


TRADE_AT, TRADE_END = RECORD.size - 8, RECORD.size
"""Where the trade id of a packed TRADE stands; its price and quantity are behind it."""

_TWO_LEVELS = struct.Struct(f"{RECORD.format}4q")


def pack_top(
    instrument: int,
    receive_ns: int,
    event_ns: int,
    origin_ns: int,
    last: int,
    best: tuple[int, int, int, int],
) -> bytes:
    """`pack` of a TOP message in step: what bookd says most often, and traders wait for."""
    return _TWO_LEVELS.pack(
        instrument, Kind.TOP, IN_STEP, 2, 1, 0, receive_ns, event_ns, origin_ns, 0, last, 0, 0, *best
    )


def frame(packed: list[bytes], sequence: int, session: int) -> bytes:
    return FRAME.pack(FRAME_TYPE, VERSION, len(packed), sequence, session) + b"".join(packed)


class Frame(NamedTuple):
    sequence: int
    session: int
    records: int


def header(data: bytes) -> Frame:
    """Raises InvalidInput."""
    if len(data) < FRAME.size:
        raise InvalidInput(f"market frame of {len(data)} bytes, at least {FRAME.size} expected")
    kind, version, count, sequence, session = FRAME.unpack_from(data)
    if kind != FRAME_TYPE or version != VERSION:
        raise InvalidInput(
            f"market frame of type {kind:#x} version {version}, {FRAME_TYPE:#x} version {VERSION} expected"
        )
    if sequence > SEQUENCE_MAX or session > SEQUENCE_MAX:
        raise InvalidInput(f"market frame of session {session} at sequence {sequence}: over {SEQUENCE_MAX}")
    return Frame(sequence, session, count)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of a frame, in order. Raises InvalidInput when it is cut or its counts do not fit; what
    came before has been yielded.
    """
    found = None if native.unpack is None else native.unpack(data, Message)
    return _messages(data) if found is None else iter(found)


def _messages(data: bytes) -> Iterator[Message]:
    count = header(data).records
    at, end = FRAME.size, len(data)
    for _ in range(count):
        if at + RECORD.size > end:
            raise InvalidInput(f"market frame ends inside a record at byte {at}")
        (
            instrument,
            kind,
            flags,
            levels,
            bids,
            payload,
            receive_ns,
            event_ns,
            origin_ns,
            first,
            last,
            previous,
            extra,
        ) = RECORD.unpack_from(data, at)
        at += RECORD.size
        if levels > LEVELS_MAX or bids > levels or at + levels * LEVEL.size + payload > end:
            raise InvalidInput(
                f"market frame: record at byte {at - RECORD.size} claims {levels} levels ({bids} bids), "
                f"{payload} bytes of payload"
            )
        pairs = list(LEVEL.iter_unpack(data[at : at + levels * LEVEL.size]))
        at += levels * LEVEL.size
        yield Message(
            instrument,
            kind,
            flags,
            receive_ns,
            event_ns,
            origin_ns,
            first,
            last,
            previous,
            extra,
            pairs[:bids],
            pairs[bids:],
            data[at : at + payload],
        )
        at += payload


class Batch:
    """Packed messages on their way into one frame; numbers them. `add` gives the frame when it is full,
    `flush` what is left.
    """

    def __init__(self, session: int) -> None:
        self.session = session
        self.sequence = 1
        """Of the next message to be added."""
        self._packed: list[bytes] = []

    def add(self, packed: bytes) -> bytes | None:
        self._packed.append(packed)
        self.sequence += 1
        return self.flush() if len(self._packed) >= BATCH_MAX else None

    def flush(self) -> bytes | None:
        if not self._packed:
            return None
        data = frame(self._packed, self.sequence - len(self._packed), self.session)
        self._packed.clear()
        return data
