"""An asynchronous context, held open by a thread for a program without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import pytest

from controlplane.host.in_thread import in_thread


class Context:
    def __init__(self, entering: Exception | None = None, leaving: Exception | None = None) -> None:
        self.entering, self.leaving = entering, leaving
        self.said: list[str] = []

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        if self.entering:
            raise self.entering
        self.said.append(f"entered in {threading.current_thread().name}")
        try:
            yield "value"
        finally:
            await asyncio.sleep(0)
            self.said.append(f"left in {threading.current_thread().name}")
            if self.leaving:
                raise self.leaving


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_it_is_entered_used_and_left_in_one_thread_of_its_own() -> None:
    context = Context()
    with in_thread(context.opened, "holder") as held:
        assert held.value == "value" and held.call(lambda: double(21)) == 42
        assert context.said == ["entered in holder"]
    assert context.said == ["entered in holder", "left in holder"]
    assert "holder" not in [thread.name for thread in threading.enumerate()]


def test_what_entering_or_leaving_raises_is_raised_here() -> None:
    with pytest.raises(OSError, match="no store"), in_thread(Context(OSError("no store")).opened, "holder"):
        raise AssertionError("it is not entered")
    with (
        pytest.raises(OSError, match="hung up"),
        in_thread(Context(None, OSError("hung up")).opened, "holder"),
    ):
        pass


def test_it_is_left_also_when_the_block_fails() -> None:
    context = Context()
    with pytest.raises(ZeroDivisionError), in_thread(context.opened, "holder"):
        raise ZeroDivisionError
    assert context.said[-1] == "left in holder"


def test_a_call_that_takes_too_long_is_cancelled_and_what_it_raises_is_raised() -> None:
    cancelled = threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def wrong() -> None:
        raise ValueError("wrong")

    with in_thread(Context().opened, "holder") as held:
        with pytest.raises(TimeoutError):
            held.call(long, timeout_s=0.01)
        assert cancelled.wait(20)
        with pytest.raises(ValueError, match="wrong"):
            held.call(wrong)


def test_after_it_was_left_nothing_can_be_called() -> None:
    with in_thread(Context().opened, "holder") as held:
        pass
    with pytest.raises(RuntimeError):
        held.call(lambda: double(1))
