"""An asynchronous context held open by a thread with an event loop of its own, for programs that have none.

    with in_thread(lambda: discovering(url, site="lab"), "discovery") as held:
        held.value.resolve("riskd")
        held.call(lambda: held.value.wait_for("riskd", timeout_s=5))

The context is entered and left in the thread's loop, in one task. What entering raises is raised here; what
leaving raises, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

JOIN_S = 10.0
"""For leaving the context; closing a client takes milliseconds. The thread is a daemon: a program that ends
does not wait for it any longer."""


class InThread(Generic[T]):
    def __init__(self, value: T, loop: asyncio.AbstractEventLoop) -> None:
        self.value = value
        """What the context gave; which of its methods may be called from any thread, its own class says."""
        self._loop = loop

    def call(self, make: Callable[[], Awaitable[R]], timeout_s: float | None = None) -> R:
        """Await it in the thread's loop, and return what it returns. Not from that loop itself.

        Raises:
            TimeoutError: not within `timeout_s`; it is cancelled then. RuntimeError: the context has been
            left.
        """

        async def awaited() -> R:
            return await make()

        waiting = awaited()
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError:
            waiting.close()
            raise
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise


@contextlib.contextmanager
def in_thread(
    opened: Callable[[], contextlib.AbstractAsyncContextManager[T]], name: str
) -> Iterator[InThread[T]]:
    """Open it in a thread of this name, and close it at the end of the block."""
    entered: Future[InThread[T]] = Future()
    left: Future[None] = Future()
    done: list[Callable[[], object]] = []

    async def hold() -> None:
        end, loop = asyncio.Event(), asyncio.get_running_loop()
        done.append(lambda: loop.call_soon_threadsafe(end.set))
        async with opened() as value:
            entered.set_result(InThread(value, loop))
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as exc:
            (left if entered.done() else entered).set_exception(exc)
        else:
            left.set_result(None)

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself; `left` says why
            for each in done:
                each()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        held = entered.result()
    except BaseException:  # Ctrl-C, too: what is half open is closed
        end()
        raise
    try:
        yield held
    finally:
        end()
        left.result(JOIN_S)
        thread.join(JOIN_S)
