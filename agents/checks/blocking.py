"""Calls that may never come back (a name server, a file on a dead NFS server), each on a thread of its own.

asyncio's pool of threads would be used up by a few of them, and with it everything else of the agent that
needs a thread. Here a check has at most one thread, and while that one is stuck it gets no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class Stuck(Exception):
    """The check's call before this one has not come back yet."""


class Calls:
    def __init__(self) -> None:
        self._running: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Calls: {len(self._running)} run>"

    async def run(self, key: str, call: Callable[[], T]) -> T:
        """What `call` returns or raises; `key`: of the check. Cancelling it leaves the thread behind.

        Raises:
            Stuck: an earlier call of this check still runs.
        """
        began_s = self._running.get(key)
        if began_s is not None:
            raise Stuck(f"a look that began {time.monotonic() - began_s:.0f} s ago has not come back")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._running[key] = time.monotonic()

        def settle(value: T | None, trouble: Exception | None) -> None:
            self._running.pop(key, None)
            if answer.done():
                return
            if trouble is not None:
                answer.set_exception(trouble)
            else:
                answer.set_result(cast(T, value))

        def work() -> None:
            value, trouble = None, None
            try:
                value = call()
            except Exception as exc:
                trouble = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits any more
                loop.call_soon_threadsafe(settle, value, trouble)

        threading.Thread(target=work, name=f"check {key}", daemon=True).start()
        return await answer
