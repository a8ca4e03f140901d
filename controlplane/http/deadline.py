"""The deadline of what a connection is waiting for, which moves with every request.

asyncio.timeout makes and cancels a timer each time; here one timer is kept, and when it fires early, as the
deadline has moved on, it is set again for the rest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at_mono_s = math.inf
        self._expired: Callable[[], None] | None = None

    def __repr__(self) -> str:
        if self._expired is None:
            return "<Deadline: none>"
        return f"<Deadline in {self._at_mono_s - self._loop.time():.3f} s>"

    def set(self, within_s: float, expired: Callable[[], None]) -> None:
        """Instead of the one before: call `expired`, once, unless it is moved or cleared by then."""
        self._at_mono_s, self._expired = self._loop.time() + within_s, expired
        if self._timer is not None and self._timer.when() > self._at_mono_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._at_mono_s, self._look)

    def clear(self) -> None:
        """The timer stays, for the next."""
        self._expired = None

    def close(self) -> None:
        self._expired = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if (expired := self._expired) is None:
            return
        if self._loop.time() < self._at_mono_s:
            self._timer = self._loop.call_at(self._at_mono_s, self._look)
            return
        self._expired = None
        expired()
