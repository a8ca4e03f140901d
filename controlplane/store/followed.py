"""A watch whose work is done in a task: what its reader holds, whichever store is followed. The task fills
the mailbox (latest.py), begins with the first question of the reader, and ends with the watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self

from controlplane.store.base import Snapshot
from controlplane.store.latest import Latest

__all__ = ["FollowedWatch", "Latest"]


class FollowedWatch:
    def __init__(self, name: str, follow: Callable[[Latest], Coroutine[Any, Any, None]]) -> None:
        """`follow` goes on until it is cancelled or its store is closed."""
        self._name, self._follow = name, follow
        self._latest = Latest()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{self._name}, revision {self._latest.revision}>"

    @property
    def confirmed_boot_ns(self) -> int:
        return self._latest.confirmed_boot_ns

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        if self._task is None and not self._latest.closed:
            self._task = asyncio.create_task(self._follow(self._latest), name=self._name)
            self._task.add_done_callback(_close_on_end(self._latest))
        try:
            return await self._latest.next()
        except StopAsyncIteration:
            if self._task is not None and self._task.done() and not self._task.cancelled():
                self._task.result()  # a mistake of ours in the task must not look like a closed watch
            raise

    async def aclose(self) -> None:
        self._latest.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __del__(self) -> None:
        # A reader that leaves its loop with `break` does not call aclose.
        if self._task is not None and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.cancel()


def _close_on_end(latest: Latest) -> Callable[[asyncio.Task[None]], None]:
    """Not a method: the task would keep the watch alive, and it would never be cancelled for want of a
    reader.
    """

    def close(task: asyncio.Task[None]) -> None:
        latest.close()

    return close
