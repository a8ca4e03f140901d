"""A timer follows the setting that is its period."""

from __future__ import annotations

import pytest

from hftd.runtime import Timer
from hftd.runtime import loop as loops

S = 1_000_000_000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nanoseconds, settable."""
    clock = [0]
    monkeypatch.setattr(loops.time, "monotonic_ns", lambda: clock[0])
    return clock


def made(seconds: float) -> Timer:
    return Timer(seconds, lambda now_ns: None)


def test_a_shorter_period_counts_from_now_and_a_longer_one_from_the_next_turn(now: list[int]) -> None:
    timer = made(10)
    now[0] = 1 * S
    timer.set(2)
    assert (timer.due_ns, timer.every_ns) == (3 * S, 2 * S)
    timer.set(60)
    assert (timer.due_ns, timer.every_ns) == (3 * S, 60 * S)
    timer.set(60)
    assert timer.due_ns == 3 * S, "the same again changes nothing"


def test_no_period_is_never_and_one_again_is_a_period_from_now(now: list[int]) -> None:
    timer = made(0)
    assert timer.due_ns == timer.every_ns == loops.FAR_NS
    now[0] = 5 * S
    timer.set(1)
    assert timer.due_ns == 6 * S
    timer.set(0)
    assert timer.due_ns == loops.FAR_NS
