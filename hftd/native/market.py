"""The native decoder of market data (market.c), or None for each of its functions when it was not built or
HFT_NATIVE=0 switches it off.

The caller has the Python twin at hand: None as the answer means that the line or frame is not plain, and the
twin decides (ADR 0023). It stands below wire, because the schema's own `unpack` uses it: the message types
that it fills are handed in, so it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol, TypeVar

_Message = TypeVar("_Message")


class PackLine(Protocol):
    def __call__(
        self, raw: bytes, symbol: str, instrument: int, receive_ns: int, origin_ns: int, /
    ) -> tuple[int, int, bytes] | None:
        """(kind, event ns, packed message): what venues/binance.py and `wire.market.pack` make of a line
        together.
        """


class Normalise(Protocol):
    def __call__(
        self,
        raw: bytes,
        symbol: str,
        instrument: int,
        receive_ns: int,
        origin_ns: int,
        message_type: type[_Message],
        /,
    ) -> _Message | None:
        """What venues/binance.py makes of a line."""


class Unpack(Protocol):
    def __call__(self, data: bytes, message_type: type[_Message], /) -> list[_Message] | None:
        """All messages of a market frame."""


pack_line: PackLine | None = None
normalise: Normalise | None = None
unpack: Unpack | None = None

if os.environ.get("HFT_NATIVE") != "0":
    with contextlib.suppress(ImportError):
        from hftd.native import _market

        pack_line, normalise, unpack = _market.pack_line, _market.normalise, _market.unpack
