"""The envelope of every msgpack message and the one way to read it.

A message is one frame: a msgpack array that begins [type, version, seq, send time ns, source, token]. Fields
are only ever appended; a reader ignores what it does not know and fills in defaults for what is missing. What
does not decode is counted and dropped by the caller, never fatal.
"""

from __future__ import annotations

from typing import Generic, TypeVar, cast

import msgspec

from controlplane.errors import InvalidInput
from controlplane.model import Token

VERSION = 1
FRAME_BYTES_MAX = 1 << 20
"""A larger control or order message is a mistake; market frames have their own bound."""


class TokenOnWire(msgspec.Struct, array_like=True, frozen=True, gc=False):
    incarnation: int
    group: str
    epoch: int

    @classmethod
    def of(cls, token: Token) -> TokenOnWire:
        return cls(token.incarnation, token.group, token.epoch)

    def token(self) -> Token:
        return Token(self.incarnation, self.group, self.epoch)


class ProcessOnWire(msgspec.Struct, array_like=True, frozen=True, gc=False):
    instance: str
    boot_id: str
    pid: int
    start_time: int


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages; each subclass has an integer tag, which comes first on the wire."""

    version: int
    seq: int
    """Counts the sender's messages on this link, from 1; 0 where the link has no sequence."""
    sent_ns: int
    """UNIX ns of the sender, for display."""
    source: str
    """Instance id of the sender."""
    token: TokenOnWire | None
    """The sender's fencing token, when it has a group with an epoch."""


Head = tuple[int, int, int, str, TokenOnWire | None]
"""The first five fields of a message: version, seq, sent_ns, source, token."""


def no_head(source: str) -> Head:
    """Of a message that was never sent: built from a file, or for a test."""
    return (VERSION, 0, 0, source, None)


M = TypeVar("M")

encode = msgspec.msgpack.Encoder().encode


class Decoder(Generic[M]):
    """Decodes one union of messages. Raises only InvalidInput, so that a loop can count and drop."""

    def __init__(self, union: object) -> None:
        self._decode = msgspec.msgpack.Decoder(union).decode

    def __call__(self, frame: bytes) -> M:
        if len(frame) > FRAME_BYTES_MAX:
            raise InvalidInput(f"message of {len(frame)} bytes, at most {FRAME_BYTES_MAX} wanted")
        try:
            return cast(M, self._decode(frame))
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
        ) as exc:  # the last: arrays inside each other by the thousand
            raise InvalidInput(f"message of {len(frame)} bytes does not decode: {exc}") from exc
