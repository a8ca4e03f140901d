"""Numbers and stamps the messages of one sender: the envelope is schema (wire/codec.py), the clock is not.

Every daemon has one in its context. Messages without a number are made with `codec.head`.
"""

from __future__ import annotations

import time

from hftd.wire.codec import VERSION, Head, TokenOnWire


class Heads:
    __slots__ = ("_seq", "_source")

    def __init__(self, source: str) -> None:
        self._source, self._seq = source, 0

    def __call__(self, token: TokenOnWire | None = None) -> Head:
        self._seq += 1
        return (VERSION, self._seq, time.time_ns(), self._source, token)
