"""One thread beside a daemon's loop, for what waits for a disk: jobs in their order, each answer back in the
loop. A loop that holds a lease waits for no disk itself.

The thread begins with the first job. What is under way when the daemon ends is cut off, as by a kill.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Worker:
    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._answers: deque[Callable[[], None]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Readable when `drain` has something to do."""
        return self._fd

    def run(self, job: Callable[[], T], answered: Callable[[T], None]) -> None:
        """Do the job in the thread, then call `answered` with what it returned in the loop. A job that raises
        raises in the loop, which ends the daemon: a job answers with what it expects to go wrong.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
            self._thread.start()
        self._jobs.put(partial(self._do, job, answered))

    def _do(self, job: Callable[[], T], answered: Callable[[T], None]) -> None:
        try:
            self._answers.append(partial(answered, job()))
        except Exception as exc:
            self._answers.append(partial(_raise, exc))
        os.eventfd_write(self._fd, 1)

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def drain(self) -> None:
        """In the loop: every answer that has come."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        while self._answers:
            self._answers.popleft()()


def _raise(exc: Exception) -> None:
    raise exc
