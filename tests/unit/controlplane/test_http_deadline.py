"""One timer for a deadline that moves: it expires at its time, once, and not after it was cleared."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

import pytest

from controlplane.http.deadline import Deadline


class Timer:
    def __init__(self, at_mono_s: float, call: Callable[[], None]) -> None:
        self.at_mono_s, self.call, self.cancelled = at_mono_s, call, False

    def __lt__(self, other: Timer) -> bool:
        return self.at_mono_s < other.at_mono_s

    def when(self) -> float:
        return self.at_mono_s

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Time and timers of an event loop, by hand."""

    def __init__(self) -> None:
        self.now_mono_s = 100.0
        self.timers: list[Timer] = []
        self.made = 0

    def time(self) -> float:
        return self.now_mono_s

    def call_at(self, at_mono_s: float, call: Callable[[], None]) -> Timer:
        self.made += 1
        heapq.heappush(self.timers, timer := Timer(at_mono_s, call))
        return timer

    def go(self, to_mono_s: float) -> None:
        while self.timers and self.timers[0].at_mono_s <= to_mono_s:
            timer = heapq.heappop(self.timers)
            self.now_mono_s = max(self.now_mono_s, timer.at_mono_s)
            if not timer.cancelled:
                timer.call()
        self.now_mono_s = to_mono_s

    @property
    def armed(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.fixture
def expired(loop: Loop) -> list[Any]:
    return []


def test_it_expires_once_at_its_time(loop: Loop, expired: list[Any]) -> None:
    Deadline().set(5, lambda: expired.append(loop.now_mono_s))
    loop.go(104.9)
    assert not expired
    loop.go(500)
    assert expired == [105.0]


def test_a_deadline_that_moves_on_keeps_its_timer_and_expires_at_the_last(
    loop: Loop, expired: list[Any]
) -> None:
    deadline = Deadline()
    for second in range(50):
        loop.go(100 + second)
        deadline.set(75, lambda: expired.append(loop.now_mono_s))
    assert loop.made == 1
    loop.go(223.9)
    assert not expired
    loop.go(224)
    assert expired == [224.0]


def test_one_that_moves_nearer_expires_then(loop: Loop, expired: list[Any]) -> None:
    deadline = Deadline()
    deadline.set(75, lambda: expired.append("far"))
    deadline.set(5, lambda: expired.append(loop.now_mono_s))
    assert loop.armed == 1
    loop.go(1000)
    assert expired == [105.0]


def test_one_that_is_cleared_never_expires_and_its_timer_serves_the_next(
    loop: Loop, expired: list[Any]
) -> None:
    deadline = Deadline()
    deadline.set(5, lambda: expired.append("cleared"))
    deadline.clear()
    deadline.set(10, lambda: expired.append(loop.now_mono_s))
    assert loop.made == 1
    deadline.clear()
    loop.go(1000)
    assert not expired and loop.armed == 0
    deadline.set(1, lambda: expired.append(loop.now_mono_s))
    loop.go(2000)
    assert expired == [1001.0]


def test_a_closed_one_leaves_no_timer(loop: Loop, expired: list[Any]) -> None:
    deadline = Deadline()
    deadline.set(5, lambda: expired.append("closed"))
    deadline.close()
    assert loop.armed == 0
    loop.go(1000)
    assert not expired
