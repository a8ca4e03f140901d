"""audit.signatures, beside the log: lines of engine/audit_statement.py, appended, never rewritten.

A line that `append` has returned from survives a power cut. A line that was being written is cut off before
the next one. Other damage is left where it is, for storage/audit_assurance.py to name. Whoever can write the
file can cut it; how auditd sees that: audit_signer.py.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from hftd.engine import audit_statement
from hftd.engine.audit_statement import Statement

TAIL_BYTES = 64 << 10
"""auditd looks at the newest 150 or so statements only: a start must not cost more the older the log is."""


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    """From 1."""
    statement: Statement | None
    """None: it is not one."""


class SignatureFile:
    def __init__(self, path: Path) -> None:
        """Touches nothing."""
        self.path = path
        self._size: int | None = None
        """After our last line; None before the first."""

    def tail(self) -> list[Statement]:
        """The newest statements, oldest first; nothing when there is no file. Raises OSError."""
        try:
            fd = _open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            start = max(0, os.fstat(fd).st_size - TAIL_BYTES)
            lines = os.pread(fd, TAIL_BYTES, start).splitlines(keepends=True)
        finally:
            os.close(fd)
        whole = [line for line in lines[1 if start else 0 :] if line.endswith(b"\n")]
        return [found for found in map(audit_statement.parse, whole) if found is not None]

    def changed(self) -> bool:
        """Somebody else has cut, lengthened or removed it since our last line. Raises OSError."""
        if self._size is None:
            return False
        try:
            return self.path.lstat().st_size != self._size
        except FileNotFoundError:
            return True

    def append(self, *statements: Statement) -> None:
        """Write them, to the disk.

        Raises:
            OSError: not written, or not a regular file; nothing of them stays, and it may be tried again.
        """
        fd = _open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(fd).st_size
            begin = self._end_of_lines(fd, size)
            if begin < size:
                os.ftruncate(fd, begin)
            content = b"".join(map(audit_statement.line, statements))
            try:
                files.write_all(fd, content)
                os.fdatasync(fd)
                if not size:
                    files.sync_folder(self.path.parent)
            except OSError:
                os.ftruncate(fd, begin)  # written anew the next time, as a second sync would prove nothing
                raise
            self._size = os.fstat(fd).st_size
        finally:
            os.close(fd)

    @staticmethod
    def _end_of_lines(fd: int, size: int) -> int:
        """Where the next line begins: after what is torn, if that may be a line of ours."""
        start = max(0, size - audit_statement.LINE_BYTES_MAX)
        last = os.pread(fd, size - start, start)
        if last.endswith(b"\n") or not last:
            return size
        end = last.rfind(b"\n")
        if end < 0 and start:
            os.write(fd, b"\n")  # too long to be ours: it stays, as a line that is not a statement
            return os.fstat(fd).st_size
        return start + end + 1


def _open(path: Path, flags: int) -> int:
    """Not through a link, and without waiting for the other end of a FIFO."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read(path: Path) -> Iterator[Line]:
    """Its lines, as far as they went when this was called; none when there is no file. A torn last line is
    left out: auditd may be writing it.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
            left = os.fstat(file.fileno()).st_size
            number = 0
            while left > 0 and (line := file.readline(audit_statement.LINE_BYTES_MAX + 1)):
                number, left = number + 1, left - len(line)
                if line.endswith(b"\n"):
                    yield Line(number, audit_statement.parse(line))
                    continue
                while (rest := file.readline(1 << 16)) and not rest.endswith(b"\n"):
                    left -= len(rest)
                left -= len(rest)
                if rest:
                    yield Line(number, None)  # a line too long to be one
    except FileNotFoundError:
        return
    except OSError as exc:
        raise InvalidInput(f"audit signatures {path}: cannot be read ({exc.strerror or exc})") from exc
