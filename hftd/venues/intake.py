"""From verbatim lines to packed market messages: what marketd does with a line, wherever it came from. No
socket, no clock.

Has a normaliser for each instrument, counts what it took, and watches how far receive times are from event
times. Who sends the result: daemons/marketd.py. Where lines come from: simd's feed (wire/feed.py) or, in a
benchmark, venues/replay.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hftd.engine.market import clock_offset
from hftd.venues import base, binance
from hftd.wire import market, requests

_TRADE = int(market.Kind.TRADE)


class Intake:
    def __init__(self, instruments: Sequence[requests.Instrument]) -> None:
        self.instruments = {instrument.id: instrument for instrument in instruments}
        self._normalise: dict[int, base.Normaliser] = {
            instrument.id: binance.Normaliser(instrument.market, instrument.id, instrument.symbol)
            for instrument in instruments
        }
        self.offsets: dict[str, clock_offset.ClockOffset] = {
            instrument.market: clock_offset.ClockOffset() for instrument in instruments
        }
        self._sample: dict[int, Callable[[int], None]] = {
            instrument.id: self.offsets[instrument.market].add for instrument in instruments
        }
        self.counts: dict[int, dict[int, int]] = {
            instrument.id: dict.fromkeys(map(int, market.Kind), 0) for instrument in instruments
        }
        """instrument -> kind -> messages."""

    def line(
        self, instrument: int, raw: bytes, receive_ns: int, origin_ns: int
    ) -> bytes | base.Undecodable | None:
        """The packed message; None for a frame that says nothing about the market, or a trade that came
        before.
        """
        normalise = self._normalise.get(instrument)
        if normalise is None:
            return base.Undecodable(f"instrument {instrument} is not known")
        found = normalise.packed(raw, receive_ns, origin_ns)
        if found is None or isinstance(found, base.Undecodable):
            return found
        kind, event_ns, packed = found
        if kind == _TRADE and not normalise.trades.take(
            int.from_bytes(packed[market.TRADE_AT : market.TRADE_END], "little"),
            event_ns,
            packed[market.TRADE_END :],
        ):
            return None
        if event_ns:
            self._sample[instrument](receive_ns - event_ns)
        self.counts[instrument][kind] += 1
        return packed

    def reference(self, receive_ns: int) -> list[bytes]:
        """The INSTRUMENT messages."""
        nothing: list[tuple[int, int]] = []
        return [
            market.pack(
                market.Message(
                    number,
                    market.Kind.INSTRUMENT,
                    0,
                    receive_ns,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    nothing,
                    nothing,
                    requests.encode_instrument(instrument),
                )
            )
            for number, instrument in self.instruments.items()
        ]

    def tallies(self) -> dict[str, int]:
        """Counters of what came twice, what never came, and what was skipped."""
        every = self._normalise.values()
        return {
            "trades_doubled": sum(one.trades.doubled for one in every),
            "trades_missing": sum(one.trades.missing for one in every),
            "skipped": sum(one.skipped.total() for one in every),
        }

    def totals(self) -> dict[str, dict[str, int]]:
        """Name -> kind -> messages, for people and for the benchmark."""
        return {
            instrument.name: {
                market.Kind(kind).name.lower(): n for kind, n in self.counts[number].items() if n
            }
            for number, instrument in self.instruments.items()
        }
