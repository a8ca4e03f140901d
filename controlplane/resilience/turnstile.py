"""A bulkhead's faces: `async with Turnstile(bulkhead).enter()` for the tasks of one event loop, `with
ThreadTurnstile(bulkhead).enter()` for threads. They add the waiting to bulkhead.py, which decides who is in.

Who finds no room, or waits longer than `wait_s`, gets NotPermitted. A task that is cancelled while it waits
leaves the queue, and gives its turn on if it had just come.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

from controlplane.errors import NotPermitted
from controlplane.resilience.bulkhead import Bulkhead, Ticket

WAIT_S = 1.0
"""In the queue. Longer than most calls take, and short enough that what is shed may be tried elsewhere."""


def _full(bulkhead: Bulkhead, waited_s: float) -> NotPermitted:
    waited = f" after {waited_s:g} s in the queue" if waited_s else ""
    return NotPermitted(
        f"{bulkhead.name} is not asked{waited}: {bulkhead.inside} calls to it are under way and "
        f"{bulkhead.waiting} wait (at most {bulkhead.concurrent_max} and {bulkhead.queue_max})"
    )


class Turnstile:
    def __init__(self, bulkhead: Bulkhead, wait_s: float = WAIT_S) -> None:
        self._bulkhead, self._wait_s = bulkhead, wait_s
        self._turns: dict[int, asyncio.Future[None]] = {}

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        ticket = self._bulkhead.enter()
        if ticket is None:
            raise _full(self._bulkhead, 0.0)
        try:
            if not ticket.inside:
                await self._turn(ticket)
            yield
        finally:
            for turn in self._bulkhead.leave(ticket):
                self._turns[id(turn)].set_result(None)

    async def _turn(self, ticket: Ticket) -> None:
        turn = self._turns[id(ticket)] = asyncio.get_running_loop().create_future()
        try:
            # wait, not wait_for: it leaves the future as it is, so that a turn that comes now can be given.
            await asyncio.wait([turn], timeout=self._wait_s)
        finally:
            del self._turns[id(ticket)]
        if not ticket.inside:
            raise _full(self._bulkhead, self._wait_s)


class ThreadTurnstile:
    def __init__(self, bulkhead: Bulkhead, wait_s: float = WAIT_S) -> None:
        self._bulkhead, self._wait_s = bulkhead, wait_s
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        with self._changed:
            ticket = self._bulkhead.enter()
        if ticket is None:
            raise _full(self._bulkhead, 0.0)
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: ticket.inside, self._wait_s):
                    raise _full(self._bulkhead, self._wait_s)
            yield
        finally:
            with self._changed:
                if self._bulkhead.leave(ticket):
                    self._changed.notify_all()
