"""Bars of trades: open, high, low, close, volume and count of fixed lengths of time. Pure.

Time is the trades' receive time, handed in; so a replay gives the same bars at every speed. A bar belongs to
[beginning, beginning + length) on a grid from 0; one without a trade is not made. There is one bar of an
instrument and a length of time, and each begins after the one before: a trade that comes when its bar is out,
or a later one is open, is in no bar. Volume that would pass 64 bits is refused, not wrapped.
"""

from __future__ import annotations

from typing import NamedTuple

VOLUME_MAX = (1 << 63) - 1
NEVER_NS = 1 << 63


class Bar(NamedTuple):
    instrument: int
    begin_ns: int
    length_ns: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int


class Bars:
    def __init__(self, length_ns: int) -> None:
        if length_ns <= 0:
            raise ValueError(f"bar length {length_ns} ns: must be above 0")
        self.length_ns = length_ns
        self._open: dict[int, list[int]] = {}
        """instrument -> [begin, open, high, low, close, volume, trades]"""
        self._out: dict[int, int] = {}
        """instrument -> beginning of its bar that came out last."""
        self._resumed: set[int] = set()
        """Those of which nothing has been taken since `resume`."""
        self.late = 0
        """Trades that are in no bar because they came too late."""
        self.due_ns = NEVER_NS
        """When the earliest open bar ends: `close` has nothing to give before it."""

    def trade(self, instrument: int, receive_ns: int, price: int, quantity: int) -> bool:
        """Add a trade; the caller closes what is due before. False when its volume is negative or does not
        fit; it is not in the bar then. One that is late is counted, and in no bar either.
        """
        if quantity < 0:
            return False
        bar = self._open.get(instrument)
        if bar is None:
            begin_ns = receive_ns - receive_ns % self.length_ns
            if self._is_out(instrument, begin_ns):
                self.late += 1
                return True
            self._resumed.discard(instrument)
            self._open[instrument] = [begin_ns, price, price, price, price, quantity, 1]
            self.due_ns = min(self.due_ns, begin_ns + self.length_ns)
            return True
        if receive_ns < bar[0]:
            self.late += 1
            return True
        if bar[5] + quantity > VOLUME_MAX:
            return False
        if price > bar[2]:
            bar[2] = price
        if price < bar[3]:
            bar[3] = price
        bar[4] = price
        bar[5] += quantity
        bar[6] += 1
        return True

    def close(self, now_ns: int) -> list[Bar]:
        """The bars that have ended by `now_ns` (receive time), by beginning and instrument."""
        if now_ns < self.due_ns:
            return []
        length_ns = self.length_ns
        ended = sorted(
            (bar[0], instrument) for instrument, bar in self._open.items() if bar[0] + length_ns <= now_ns
        )
        closed = []
        for begin_ns, instrument in ended:
            _, opened, high, low, last, volume, trades = self._open.pop(instrument)
            self._out[instrument] = begin_ns
            closed.append(Bar(instrument, begin_ns, length_ns, opened, high, low, last, volume, trades))
        self.due_ns = min((bar[0] + length_ns for bar in self._open.values()), default=NEVER_NS)
        return closed

    def relength(self, length_ns: int) -> list[Bar]:
        """Bars have this length from now on. Those that are open come out as they are; what is left of a new
        one's time that a bar has had already is late.
        """
        closed = self.close(NEVER_NS) if length_ns != self.length_ns else []
        self.length_ns = length_ns
        return closed

    def resume(self) -> list[Bar]:
        """The stream begins anew, somewhere: the bars that are open come out, and times may go back. Where it
        goes on inside a bar that is out, the rest of that one is late.
        """
        closed = self.close(NEVER_NS)
        self._resumed = set(self._out)
        return closed

    def forget(self, instrument: int) -> None:
        """This number means another instrument from now on."""
        self._out.pop(instrument, None)

    def _is_out(self, instrument: int, begin_ns: int) -> bool:
        out_ns = self._out.get(instrument)
        if out_ns is None or begin_ns > out_ns:
            return False
        if begin_ns < out_ns and instrument in self._resumed:
            del self._out[instrument]
            self._resumed.discard(instrument)
            return False
        return True
