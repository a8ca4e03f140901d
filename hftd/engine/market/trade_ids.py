"""What the ids of one instrument's trades say: which came twice, and how many never came. Pure.

Venues number the trades of a symbol without holes, bookings included. A trade that comes with an id, a time
and contents that came before is that trade once more (a second connection, a capture that was joined twice):
it must not be in a bar or fill an order again. A lower id with a later time is a count that began anew.
"""

from __future__ import annotations

from collections import deque

RECENT_MAX = 1_024
"""This many trades, and up to as many before them, are remembered as they were: what comes twice comes within
seconds."""
HOLES_MAX = 1_000
"""Remembered, for trades that come late."""
MISSING_MAX = 1_000_000
"""Counted for one hole: an id from nowhere is not that many lost trades."""


class TradeIds:
    def __init__(self) -> None:
        self.doubled = self.missing = 0
        self._last = self._event_ns = 0
        self._recent: dict[int, object] = {}
        self._before: dict[int, object] = {}
        """Id -> contents: of the newest trades, and of those before them."""
        self._holes: deque[tuple[int, int]] = deque(maxlen=HOLES_MAX)
        """(first, last) ids that have not come."""

    def __repr__(self) -> str:
        return f"<TradeIds at {self._last}: {self.missing} missing, {self.doubled} twice>"

    def take(self, number: int, event_ns: int, what: object) -> bool:
        """False: this trade came before. `what` is its contents, to be compared with the same id's; number 0
        is no id.
        """
        last, recent = self._last, self._recent
        if number != last + 1:
            if number <= last:
                return self._again(number, event_ns, what)
            if last:
                self.missing += min(number - last - 1, MISSING_MAX)
                self._holes.append((last + 1, number - 1))
        self._last, self._event_ns = number, event_ns
        recent[number] = what
        if len(recent) >= RECENT_MAX:
            self._before, self._recent = recent, {}
        return True

    def _again(self, number: int, event_ns: int, what: object) -> bool:
        if not number:
            return True
        before = self._recent.get(number, self._before.get(number))
        if before is None:
            for at, (first, last) in enumerate(self._holes):
                if first <= number <= last and event_ns <= self._event_ns:
                    self._fill(at, first, number, last)
                    return True
        elif before != what and event_ns <= self._event_ns:
            return True  # another trade under an id that was used
        if event_ns > self._event_ns:
            self._holes.clear()
            self._recent.clear()
            self._before.clear()
            self._last = 0
            return self.take(number, event_ns, what)
        self.doubled += 1
        return False

    def _fill(self, at: int, first: int, number: int, last: int) -> None:
        """It came late, and is missing no more."""
        self.missing -= 1
        del self._holes[at]
        for rest in ((first, number - 1), (number + 1, last)):
            if rest[0] <= rest[1]:
                self._holes.append(rest)
