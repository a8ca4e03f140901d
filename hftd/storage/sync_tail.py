"""The end of a file that is appended to and synced by its owner, over syncs that fail.

After a failed fdatasync the kernel calls the lost pages clean: the next one succeeds and proves nothing. So
what no sync has confirmed is kept in memory, and after a failure it is written again, in its place, before
another sync counts. A process that opens the file of a dead one does not know how its last sync ended, and
gives the same bytes to the disk once more. For the audit log and the position log; the journal has a thread
of its own (sync_thread.py).
"""

from __future__ import annotations

import contextlib
import errno
import os


class SyncTail:
    def __init__(self, fd: int, size: int, *, synced: int) -> None:
        """`fd` reads and writes, without O_APPEND; of its `size` bytes the first `synced` are known to be on
        the disk.
        """
        self._fd, self.size, self._synced = fd, size, synced
        self._held = bytearray(os.pread(fd, size - synced, synced))
        """The bytes from `_synced` on."""
        self._doubtful = size > synced
        """The bytes that are held may be clean in memory without being on the disk."""

    @property
    def dirty(self) -> bool:
        """Not all of it is known to be on the disk."""
        return bool(self._held)

    def append(self, content: bytes) -> None:
        """All of it or nothing. After a sync that failed, another one has to succeed first: it is tried here.

        Raises:
            OSError: no room, or a disk that fails; it may be tried again.
        """
        if self._doubtful:
            self.sync()
        try:
            if os.pwrite(self._fd, content, self.size) != len(content):
                raise OSError(errno.ENOSPC, "written in part")
        except OSError:
            with contextlib.suppress(OSError):  # what is torn is cut at the next opening all the same
                os.ftruncate(self._fd, self.size)
            raise
        self._held += content
        self.size += len(content)

    def sync(self) -> None:
        """Everything is on the disk when this returns. Raises OSError."""
        if self._doubtful and os.pwrite(self._fd, self._held, self._synced) != len(self._held):
            raise OSError(errno.ENOSPC, "written in part")
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._doubtful = True
            raise
        self._doubtful, self._synced = False, self.size
        self._held.clear()

    def empty(self) -> None:
        """Cut the file to nothing, as its content is on the disk elsewhere. Raises OSError."""
        os.ftruncate(self._fd, 0)
        self._doubtful, self._synced, self.size = False, 0, 0
        self._held.clear()
