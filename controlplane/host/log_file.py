"""Where a log's lines go: a file descriptor, rotated while it is written when it is a file that is appended
to.

Whoever starts a process opens its log and hands it in as standard output; so the process knows no path, and
asks the kernel for it at a rotation. `log` becomes `log.1`, that `log.2`, and the oldest goes; the new file
takes the place of every standard descriptor that was the old one, so that a traceback or a library's own
output follows. A pipe, a socket, a terminal, or a file opened without O_APPEND belongs to who opened it: no
rotation. Blocking; log.py calls it in a thread.
"""

from __future__ import annotations

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
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size + size <= self._bytes_max or not found.st_size:
            return
        if not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND:
            return
        try:
            path = Path(f"/proc/self/fd/{self._fd}").readlink()
            if not os.path.samestat(path.stat(), found):
                return  # another file has taken its place: another process rotates
        except OSError:
            return  # removed by hand (a new one appears at the next start), or no /proc
        self._rotate(path, found)

    def _rotate(self, path: Path, old: os.stat_result) -> None:
        """When a step fails (no room for a new file, a folder that is not ours), the old file goes on."""
        try:
            for number in range(self._files_max - 1, 0, -1):
                newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
                if newer.exists():
                    newer.replace(path.with_name(f"{path.name}.{number}"))
            fresh = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, stat.S_IMODE(old.st_mode)
            )
        except OSError:
            return
        try:
            for fd in {self._fd, *STANDARD}:
                if _is(fd, old):
                    os.dup2(fresh, fd, inheritable=fd in STANDARD)
        finally:
            os.close(fresh)


def _is(fd: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False  # closed
