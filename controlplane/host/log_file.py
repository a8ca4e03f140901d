"""Where a log's lines go: a file descriptor, rotated while it is written when it is a file that is appended
to.

Whoever starts a process opens its log and hands it in as standard output; so the process knows no path, and
asks the kernel for it at the start. `log` becomes `log.1`, that `log.2`, and the oldest goes; the new file
takes the place of every standard descriptor that was the old one, so that a traceback or a library's own
output follows. A log that somebody has removed or renamed is begun anew under its name, for nobody would read
what goes into the old one. A pipe, a socket, a terminal, or a file opened without O_APPEND belongs to who
opened it: neither is done. Blocking; log.py calls it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

BYTES_MAX = 16 << 20
"""Days of a floor that has trouble; months of one that has none."""
FILES_MAX = 5
"""With the present one."""
STANDARD = (1, 2)


class LogFile:
    def __init__(self, fd: int, bytes_max: int = BYTES_MAX, files_max: int = FILES_MAX) -> None:
        self._fd, self._bytes_max, self._files_max = fd, bytes_max, files_max
        self._path = _path_of(fd)
        """None: not ours to rotate."""
        self._torn = False
        """A line was written in part: the next one begins on a line of its own."""

    def write(self, chunk: bytes) -> bool:
        """Append whole lines; False when they were lost, or cut."""
        rest = memoryview(b"\n" + chunk if self._torn else chunk)
        try:
            self._make_room(len(rest))
            while rest:
                taken = os.write(self._fd, rest)
                rest, self._torn = rest[taken:], taken < len(rest)
        except OSError:
            return False
        return True

    def _make_room(self, size: int) -> None:
        """When a step fails (no room for a new file, a folder that is not ours), the old file goes on."""
        if self._path is None:
            return
        open_one = os.fstat(self._fd)
        with contextlib.suppress(OSError):
            if not _is_at(self._path, open_one):
                self._begin(open_one)
            elif open_one.st_size and open_one.st_size + size > self._bytes_max:
                self._move_on(self._path)
                self._begin(open_one)

    def _move_on(self, path: Path) -> None:
        for number in range(self._files_max - 1, 0, -1):
            newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
            if newer.exists():
                newer.replace(path.with_name(f"{path.name}.{number}"))

    def _begin(self, old: os.stat_result) -> None:
        """The file of that name, made if there is none, in the place of the old one."""
        assert self._path is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fresh = os.open(self._path, flags, stat.S_IMODE(old.st_mode))
        try:
            if stat.S_ISREG(os.fstat(fresh).st_mode):
                for fd in {self._fd, *STANDARD}:
                    if _is(fd, old):
                        os.dup2(fresh, fd, inheritable=fd in STANDARD)
        finally:
            os.close(fresh)


def _path_of(fd: int) -> Path | None:
    """Of a file that is appended to and still has its name."""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            return None
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return path if _is_at(path, found) else None
    except OSError:
        return None  # closed, or no /proc


def _is_at(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return False


def _is(fd: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False  # closed
