"""A seeded market that never ends, in the frames of Binance spot: what the floor trades without a tape.

Same seed, same bytes, on every machine. Each instrument is a book that random orders eat and refill: trades
take from a best level, an emptied level moves the price, cancels thin the queues, new orders close the
spread. Every 100 ms the levels that changed go out as one depth diff with U/u ids; a bookTicker follows each
change of the best bid or offer, trades come as they happen, and a snapshot opens the stream. The price is
pulled back towards its start, so it never leaves it by more than a few percent.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import NamedTuple

from hftd.engine import fixed
from hftd.engine.market import book
from hftd.venues import binance, replay
from hftd.wire import requests

START_NS = 1_700_000_000_000_000_000
"""Receive time of the first line."""
INTERVAL_NS = 100_000_000
LATENCY_NS = 2_000_000
"""From the venue's event time to the receive time."""
TRADES_MAX = 4
"""Per interval and instrument: about 20 a second."""
LEVELS = 20
"""Kept on each side."""


class Listing(NamedTuple):
    market: str
    symbol: str
    price: str
    tick: str
    lot: str
    """Quantities are whole lots."""


LISTINGS = (
    Listing("spot", "BTCUSDT", "60000", "0.1", "0.001"),
    Listing("spot", "ETHUSDT", "2600", "0.01", "0.01"),
)


class Synthetic:
    """Iterates like replay.Tape, but without end; each iteration starts over and gives the same lines."""

    def __init__(self, seed: int = 1, listings: tuple[Listing, ...] = LISTINGS) -> None:
        self.seed, self.listings = seed, listings
        self.instruments = [
            requests.Instrument(number, listing.market, listing.symbol, -fixed.DIGITS, -fixed.DIGITS, "spot")
            for number, listing in enumerate(listings)
        ]

    def __repr__(self) -> str:
        return f"<Synthetic seed {self.seed}, {len(self.instruments)} instruments>"

    def __iter__(self) -> Iterator[replay.Line]:
        return heapq.merge(*(self._lines(number, listing) for number, listing in enumerate(self.listings)))

    def _lines(self, number: int, listing: Listing) -> Iterator[replay.Line]:
        venue = _Venue(listing, random.Random(f"{self.seed}:{listing.market}:{listing.symbol}"))
        # Instruments take turns, a little apart, as they would on a wire.
        begin_ns, count = START_NS + number * 1_000_003, 1
        yield replay.Line(begin_ns, number, venue.snapshot(), "synthetic", count)
        while True:
            for offset_ns, raw in venue.interval(begin_ns):
                count += 1
                yield replay.Line(begin_ns + offset_ns, number, raw, "synthetic", count)
            begin_ns += INTERVAL_NS


class _Venue:
    """One instrument's matching engine, seen from outside. Inside, prices are ticks, quantities lots."""

    def __init__(self, listing: Listing, chance: random.Random) -> None:
        self._symbol, self._chance = listing.symbol, chance
        self._tick, self._lot = fixed.parse(listing.tick), fixed.parse(listing.lot)
        self._start = fixed.parse(listing.price) // self._tick
        self._bids = {self._start - depth: self._size() for depth in range(1, LEVELS + 1)}
        self._asks = {self._start + depth: self._size() for depth in range(1, LEVELS + 1)}
        self._update = 1_000_000
        self._sent = self._update
        self._trade = 0
        self._changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        """Levels touched since the last diff, price -> new quantity, bids and asks."""

    def _size(self) -> int:
        return 20 + int(self._chance.random() * 400)

    def _best(self) -> tuple[int, int, int, int]:
        bid, ask = max(self._bids), min(self._asks)
        return (bid, self._bids[bid], ask, self._asks[ask])

    def _set(self, side: int, price: int, lots: int) -> None:
        levels = (self._bids, self._asks)[side]
        if lots > 0:
            levels[price] = lots
        else:
            levels.pop(price, None)
        self._changed[side][price] = max(lots, 0)
        self._update += 1

    def snapshot(self) -> bytes:
        return binance.snapshot(
            self._update, self._units(self._bids, reverse=True), self._units(self._asks, reverse=False)
        )

    def _units(self, levels: dict[int, int], *, reverse: bool) -> list[book.Level]:
        return [
            (price * self._tick, lots * self._lot) for price, lots in sorted(levels.items(), reverse=reverse)
        ]

    def interval(self, begin_ns: int) -> Iterator[tuple[int, bytes]]:
        """One interval: (offset in ns, frame), in the order of the offsets."""
        chance = self._chance
        events = int(chance.random() * (TRADES_MAX + 1))
        for turn in range(events):
            offset_ns = (turn + 1) * INTERVAL_NS // (TRADES_MAX + 3) + int(chance.random() * 1_000_000)
            before = self._best()
            event_ms = (begin_ns + offset_ns - LATENCY_NS) // 1_000_000
            yield from ((offset_ns + at, raw) for at, raw in enumerate(self._trade_once(event_ms)))
            self._refill()
            if self._best() != before:
                yield offset_ns + 1_000, self._ticker()
        self._stir()
        self._refill()
        offset_ns = INTERVAL_NS - 5_000_000
        yield offset_ns, self._diff((begin_ns + offset_ns - LATENCY_NS) // 1_000_000)
        yield offset_ns + 1_000, self._ticker()

    def _trade_once(self, event_ms: int) -> list[bytes]:
        """A taker eats up to two levels of one side; one frame per level."""
        chance = self._chance
        away = (self._best()[0] - self._start) / self._start
        buy = chance.random() < 0.5 - max(-0.3, min(0.3, away * 20))
        side, levels = (1, self._asks) if buy else (0, self._bids)
        wanted = 10 + int(chance.random() ** 3 * 900)
        frames = []
        for _ in range(2):
            price = min(levels) if buy else max(levels)
            lots = min(wanted, levels[price])
            self._trade += 1
            units = (price * self._tick, lots * self._lot)
            frames.append(binance.trade(self._symbol, event_ms, self._trade, *units, buyer_is_maker=not buy))
            self._set(side, price, levels[price] - lots)
            wanted -= lots
            if not wanted:
                break
        return frames

    def _stir(self) -> None:
        """Cancels and new orders along both sides; the best levels are thinned most, so that queues move."""
        chance = self._chance
        for side, levels in enumerate((self._bids, self._asks)):
            best = min(levels) if side else max(levels)
            for _ in range(4):
                depth = int(chance.random() ** 2 * LEVELS)
                price = best + depth if side else best - depth
                self._set(side, price, self._size() if depth else max(1, levels[best] * 2 // 3))

    def _refill(self) -> None:
        chance = self._chance
        bid, _, ask, _ = self._best()
        while ask - bid > 2 or (ask - bid == 2 and chance.random() < 0.3):
            side = int(chance.random() < 0.5)
            price = ask - 1 if side else bid + 1
            self._set(side, price, 5 + self._size() // 4)
            bid, ask = (bid, price) if side else (price, ask)
        for side, levels in enumerate((self._bids, self._asks)):
            while len(levels) < LEVELS:
                self._set(side, max(levels) + 1 if side else min(levels) - 1, self._size())
            while len(levels) > LEVELS + 10:
                self._set(side, max(levels) if side else min(levels), 0)

    def _ticker(self) -> bytes:
        bid, bid_lots, ask, ask_lots = self._best()
        return binance.ticker(
            self._symbol,
            self._update,
            (bid * self._tick, bid_lots * self._lot, ask * self._tick, ask_lots * self._lot),
        )

    def _diff(self, event_ms: int) -> bytes:
        bids, asks = (self._units(changed, reverse=side == 0) for side, changed in enumerate(self._changed))
        first, self._sent = self._sent + 1, self._update
        for changed in self._changed:
            changed.clear()
        return binance.diff(self._symbol, event_ms, first, self._update, bids, asks)
