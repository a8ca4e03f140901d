"""fdatasync behind the writer of a journal: the one other thread that a daemon has.

The writer says what it has written and wakes the thread when its turn is over; how far the disk is, and
whether the last sync failed, it reads without waiting. While the writer changes files, it holds `paused()`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

UNASKED_S = 0.1
"""The thread looks by itself this often."""


class SyncThread:
    def __init__(self, fd: Callable[[], int], last_seq: int) -> None:
        """`fd` is the file that is written now. Everything up to `last_seq` is synced already."""
        self._fd = fd
        self.synced_seq = last_seq
        self._condition = threading.Condition()
        """Guards the integers below; never held over a system call."""
        self._syncing = threading.Lock()
        """Held while a file is synced, so that the writer can change files in peace."""
        self._written = last_seq
        self.waiting = 0
        self.error = ""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def begin(self, sequence: int) -> None:
        """Everything up to `sequence` is synced already."""
        with self._condition:
            self._written, self.waiting = sequence, 0
            self.synced_seq = sequence

    def written(self, sequence: int) -> None:
        with self._condition:
            self._written = sequence
            self.waiting += 1

    def wake(self) -> None:
        if self.waiting:
            with self._condition:
                self._condition.notify()

    def forgive(self) -> None:
        with self._condition:
            self.error = ""
            self._condition.notify()

    def paused(self) -> threading.Lock:
        return self._syncing

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._stopped and (not self.waiting or self.error):
                    self._condition.wait(UNASKED_S)
                if self._stopped:
                    return
            with self._syncing:
                self._sync_once()

    def _sync_once(self) -> None:
        with self._condition:
            sequence, count = self._written, self.waiting
        if not count:
            return
        try:
            os.fdatasync(self._fd())
        except OSError as exc:
            with self._condition:
                self.error = exc.strerror or str(exc)
            return
        with self._condition:
            self.waiting -= count
        self.synced_seq = sequence
