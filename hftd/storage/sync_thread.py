"""The journal's own thread: whatever waits for the disk is done here, and nothing of it in the loop that
writes the journal and may hold a lease.

It syncs what the writer has written, file by file and oldest first, gives each new segment its final name
(journal.py says when), and runs errands: closing, deleting, making room, setting a tail aside. The writer
says what it has written and wakes the thread when its turn is over. How far the disk is, whether the last
sync failed, and whether an errand is done, it reads without waiting.

After a failure nothing more is synced until the writer has made sure that there is room (`forgive`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from controlplane.host import files as host_files

T = TypeVar("T")

UNASKED_S = 0.1
"""The thread looks by itself this often."""


@dataclass(slots=True, eq=False)
class OpenFile:
    """A segment that is being written, or that is not wholly on the disk yet.

    The writer alone changes `written`, `waiting` and `size` upwards, under the thread's lock; the thread
    alone changes the rest. The descriptors stay open until the writer has let go of it (`finished`).
    """

    fd: int
    path: Path
    name: Path
    """Its final name; equal to `path` from the rename on."""
    size: int
    named: bool = False
    """Its final name is on the disk."""
    written: int = 0
    """Sequence of its last record."""
    waiting: int = 0
    """Records that are not synced."""
    outworn: list[int] = field(default_factory=list)
    """Descriptors of the same segment before it was written anew."""

    def rename(self) -> None:
        """Raises OSError; may be tried again."""
        if self.path != self.name:
            self.path.rename(self.name)
            self.path = self.name
        host_files.sync_folder(self.name.parent)
        self.named = True

    def close(self) -> None:
        for fd in (self.fd, *self.outworn):
            with contextlib.suppress(OSError):
                os.close(fd)


class SyncThread:
    def __init__(self, current: OpenFile | None, last_seq: int) -> None:
        """`current` is the file that is written on. Everything up to `last_seq` is synced already."""
        self.files: deque[OpenFile] = deque([current] if current is not None else [])
        """Not wholly on the disk, oldest first; the last one is written now."""
        self.finished: deque[OpenFile] = deque()
        """On the disk, name and all, and written no more: for the writer to let go of."""
        self.synced_seq = last_seq
        self.waiting = 0
        self.error = ""
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._condition = threading.Condition()
        """Guards `files`, their numbers and those above; never held over a system call."""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    # --- the writer's side ----------------------------------------------------------------------------------

    def begin(self, file: OpenFile) -> None:
        """This file is written from now on; the one before it never again."""
        with self._condition:
            self.files.append(file)

    def written(self, file: OpenFile, sequence: int, size: int) -> None:
        """`file` is the last one, and now `size` bytes long."""
        with self._condition:
            file.written, file.size = sequence, size
            file.waiting += 1
            self.waiting += 1

    def wake(self) -> None:
        if self.waiting:
            with self._condition:
                self._condition.notify()

    def errand(self, run: Callable[[], T]) -> Future[T]:
        """Do this in the thread, once, behind the errands before it; what it returns or raises is in the
        answer.
        """
        done: Future[T] = Future()
        with self._condition:
            self._errands.append((run, done))
            self._condition.notify()
        return done

    def stop(self) -> None:
        """Sync what is written, as far as that goes, do what errands there are, and end."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    # --- for errands: called in the thread ------------------------------------------------------------------

    def drain(self) -> bool:
        """Put everything written so far on the disk; False when that failed (`error` says why)."""
        while not self.error and self._sync_due():
            self._sync_once()
        return not self.error

    def forgive(self) -> None:
        """There is room again, and what a failed sync may have lost was written anew."""
        with self._condition:
            self.error = ""

    def restart(self, current: OpenFile | None, last_seq: int) -> list[OpenFile]:
        """Another file is written from now on, and everything up to `last_seq` is synced. Returns the files
        before.
        """
        with self._condition:
            before = [*self.files]
            self.files.clear()
            if current is not None:
                self.files.append(current)
            self.waiting, self.synced_seq = 0, last_seq
        return before

    # --- the thread -----------------------------------------------------------------------------------------

    def _sync_due(self) -> bool:
        files = self.files
        return bool(files) and (self.waiting > 0 or len(files) > 1 or not files[0].named)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._stopped or self._errands or (self._sync_due() and not self.error)):
                    self._condition.wait(UNASKED_S)
                stopped, errand = self._stopped, self._errands.popleft() if self._errands else None
            if not self.error and self._sync_due():
                self._sync_once()
            if errand is not None:
                self._do(*errand)
            elif stopped:
                self.drain()
                return

    @staticmethod
    def _do(run: Callable[[], Any], done: Future[Any]) -> None:
        try:
            done.set_result(run())
        except BaseException as exc:  # the loop raises it where it asks for the answer
            done.set_exception(exc)

    def _sync_once(self) -> None:
        """The oldest file that is not wholly on the disk: its records, then its name, as without it a synced
        record is nowhere.
        """
        with self._condition:
            file, complete = self.files[0], len(self.files) > 1
            sequence, count = file.written, file.waiting
        try:
            if complete:
                os.ftruncate(file.fd, file.size)  # what a full disk took of a record and would not give back
            if count or complete or not file.named:
                os.fdatasync(file.fd)
            if not file.named:
                file.rename()
        except OSError as exc:
            with self._condition:
                self.error = exc.strerror or str(exc)
            return
        with self._condition:
            file.waiting -= count
            self.waiting -= count
            if count:
                self.synced_seq = sequence
            if complete:
                self.finished.append(self.files.popleft())
