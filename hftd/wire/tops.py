"""The reading end of bookd's `tops` stream: which instrument a message speaks of, and how many were lost. For
strategyd, riskd and positiond.

Instrument ids hold within one session of the stream, so a new session forgets them; INSTRUMENT messages,
repeated each second, name them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hftd.wire import market, requests


class Reader:
    def __init__(self, count: Callable[[str, int], None]) -> None:
        """`count` takes a counter's name and by how much: messages, lost, unknown_instrument."""
        self._count = count
        self._session: int | None = None
        self._next = 0
        self.instruments: dict[int, requests.Instrument] = {}

    def read(self, frame: bytes) -> Iterator[tuple[requests.Instrument, market.Message, int]]:
        """(instrument, message, its sequence) of each message but reference data.

        Raises InvalidInput where the frame does not decode; what was given before is good.
        """
        head = market.header(frame)
        if head.session != self._session:
            self._session = head.session
            self.instruments.clear()
        elif head.sequence > self._next:
            self._count("lost", head.sequence - self._next)
        self._next = head.sequence + head.records
        self._count("messages", head.records)
        for sequence, message in enumerate(market.messages(frame), start=head.sequence):
            if message.kind == market.Kind.INSTRUMENT:
                self.instruments[message.instrument] = requests.decode_instrument(message.payload)
            elif (instrument := self.instruments.get(message.instrument)) is not None:
                yield instrument, message, sequence
            else:
                self._count("unknown_instrument", 1)
