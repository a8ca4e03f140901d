"""The log of a child that is handed it as standard output: opened, rotated, and begun anew when somebody has
removed or renamed it.

Agents, keepers and the controller see to all that themselves (host/log_file.py). The store is a program of
others and writes on into the file that it has open, whatever became of its name; nobody else can change that
file for it. So hft-floord looks: what a child has written into a file that has lost its name is carried on
into a new one of that name. The child waits for nothing, needs nobody in between, and is the same after
hft-floord was replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

from controlplane.host import standing
from controlplane.model import Process

LOG_BYTES_MAX = 16 << 20
"""Then it becomes NAME.log.1: at the next start of the child, or while it runs (`look`)."""
READ_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 16
"""Of the last line of a log, to find the place again."""
NEW = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
MODE = 0o600


class ChildLog:
    def __init__(self, path: Path, name: str, troubles: standing.Troubles) -> None:
        self.path = path
        self._subject, self._troubles = f"log of {name}", troubles
        self._process: Process | None = None
        """The child that was looked at last."""
        self._held_fd = -1
        """Its file, to be read whatever becomes of name and child."""
        self._file: tuple[int, int] | None = None
        """Device and inode of it, once seen."""
        self._read = 0
        """Bytes of it that are in a file with the log's name, or were when it had that name."""
        self._own = 0
        """Bytes of it that were written while it had that name."""

    def open(self) -> int:
        """For a new child; first takes in what the one before it said last. One that cannot be made (no room,
        no folder) is no reason not to run.
        """
        if self._process is not None:
            self.look(self._process)
            self._let_go()
        try:
            if self.path.exists() and self.path.stat().st_size > LOG_BYTES_MAX:
                self._set_aside()
            fd = os.open(self.path, NEW, MODE)
        except OSError as exc:
            self._troubles.stands(self._subject, f"cannot be opened ({exc}); what it says is lost")
            return subprocess.DEVNULL
        self._troubles.over(self._subject)
        return fd

    def look(self, process: Process) -> None:
        """See to the log of a child that does not do it itself: while it runs, and once behind its end, for
        its last words. Blocking. Trouble of any kind is said and tried again at the next look.
        """
        try:
            if process != self._process:
                self._let_go()
                self._held_fd = os.open(f"/proc/{process.pid}/fd/1", os.O_RDONLY | os.O_CLOEXEC)
                self._process = process
            self._look(self._held_fd)
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended before it was looked at
        except OSError as exc:
            self._troubles.stands(self._subject, f"cannot be rotated or begun anew ({exc}); it grows")
        else:
            self._troubles.over(self._subject)

    def _let_go(self) -> None:
        if self._process is not None:
            os.close(self._held_fd)
            self._process, self._file = None, None

    def _look(self, held_fd: int) -> None:
        held = os.fstat(held_fd)
        if not stat.S_ISREG(held.st_mode):
            return  # it was started while no log could be opened
        file = (held.st_dev, held.st_ino)
        if _file_at(self.path) == file:
            if held.st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
                os.truncate(self.path, 0)  # copied and cut in place, as the child has it open
                held = os.fstat(held_fd)
            self._read = self._own = held.st_size
        else:
            if self._file != file:  # this hft-floord has never seen it with its name
                self._read, self._own = _place(self.path, held_fd), 0
            self._carry(held_fd, held)
        self._file = file

    def _carry(self, held_fd: int, held: os.stat_result) -> None:
        if held.st_nlink == 0:
            self._own = 0
        if held.st_size < self._read:  # cut by somebody
            self._read = self._own = 0
        if held.st_size > self._read:
            self._append(held_fd)
        if self._read - self._own > LOG_BYTES_MAX:
            os.truncate(f"/proc/self/fd/{held_fd}", self._own)  # what follows is in the new file
            self._read = self._own
        found = _file_at(self.path)
        if found is not None and self.path.stat().st_size > LOG_BYTES_MAX:
            self._set_aside()

    def _append(self, held_fd: int) -> None:
        fd = os.open(self.path, NEW | os.O_NOFOLLOW, MODE)
        try:
            while chunk := os.pread(held_fd, READ_BYTES, self._read):
                self._read += os.write(fd, chunk)
        finally:
            os.close(fd)

    def _set_aside(self) -> None:
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))


def _file_at(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return (found.st_dev, found.st_ino)
    return None


def _place(path: Path, held_fd: int) -> int:
    """Behind the last line of the log, in the file that another hft-floord carried it on from; 0, for nothing
    may be lost, where that line is not in it.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LINE_BYTES_MAX))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    except FileNotFoundError:
        return 0
    content = os.pread(held_fd, 2 * LOG_BYTES_MAX, 0)
    at = content.rfind(last + b"\n") if last else -1
    return 0 if at < 0 else at + len(last) + 1
