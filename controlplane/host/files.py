"""The one way to replace a small file: a reader finds the old content or the new one, whole, never a mixture.

How long the new one lasts is said at each call (`Durability`). When anything fails, the old file stands, the
temporary one is gone, and the OSError names the file that was meant. Blocking: POWER waits for the disk, for
as long as the disk likes, so a loop that holds a lease calls it in a thread. Who holds a file: locks.py.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import glob
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

READ_BYTES_MAX = 64 << 20
"""Far more than any file that is read whole."""


class Durability(enum.Enum):
    """What the new content survives once `replace` has returned."""

    CRASH = "crash"
    """The death (kill -9) of every process, not a power cut: nothing is synced. For run folders on tmpfs, and
    for what the next start can do without."""

    POWER = "power"
    """A power cut too: the file and its folder are synced. Costs two waits for the disk."""


def replace(path: Path, content: bytes, durability: Durability, *, mode: int = 0o640) -> None:
    """Put `content` in place of whatever `path` holds. `mode` is that of the new file, less the umask.

    Raises:
        OSError: no room, a failed sync, no such folder ...; `filename` is `path`, and its old content stands
            (unless only the folder's sync failed: then the new one may or may not survive a power cut).
    """
    # By process and thread: two writers at once must not share a temporary file; the last rename wins.
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            write_all(fd, content)
            if durability is Durability.POWER:
                os.fsync(fd)
        finally:
            os.close(fd)
        fresh.rename(path)
        if durability is Durability.POWER:
            sync_folder(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """As `replace` with Durability.POWER, for what is too long for one piece: the file to write (and read) in
    the block, which takes the place of `path` when the block ends well, and is gone otherwise.

    Raises:
        OSError: no room, no such folder ...; `filename` is `path`, and its old content stands.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(fresh, flags, mode)
        with os.fdopen(fd, "w+b", buffering=PIECE_BYTES) as out:
            yield out
            out.flush()
            os.fsync(fd)
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()


PIECE_BYTES = 1 << 18
"""At a time, by whoever writes in `replacing`."""

ASIDE_MAX = 5
"""Damaged files of one name that are kept; the oldest goes."""


def set_aside(path: Path) -> Path:
    """Keep a damaged file under `NAME.damaged-TIME`, for people; its writer puts a good one in its place.

    The damaged one stays under its own name, too, until it is replaced (a folder in its place is moved): a
    crash in between must not make it look as if there had never been one. Raises OSError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    asides = sorted(path.parent.glob(f"{glob.escape(path.name)}.damaged-*"))
    taken = {each.name for each in asides}
    names = (f"{path.name}.damaged-{stamp}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    aside = path.with_name(next(name for name in names if name not in taken))
    try:
        os.link(path, aside, follow_symlinks=False)
    except OSError:
        path.rename(aside)
    for old in asides[: max(0, len(asides) + 1 - ASIDE_MAX)]:
        with contextlib.suppress(OSError):
            old.unlink()
    return aside


def write_all(fd: int, content: bytes) -> None:
    """Write it to the end: a disk that fills up takes a part first, and says so only at the next write."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


AGAIN_BYTES = 1 << 20
"""At a time, by `write_again`."""


def write_again(fd: int, begin: int, end: int) -> None:
    """Give these bytes of a file to its next sync once more. `fd` reads and writes, without O_APPEND.

    After a failed sync the kernel calls clean what it has not written, so that the next sync proves nothing;
    and a process that finds the file of a dead one does not know whether its last sync had failed. The bytes
    stay what they are: a power cut in between takes nothing. Raises OSError.
    """
    for at in range(begin, end, AGAIN_BYTES):
        content = os.pread(fd, min(AGAIN_BYTES, end - at), at)
        if os.pwrite(fd, content, at) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_folder(folder: Path) -> None:
    """Make new, renamed and removed names in `folder` survive a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_regular(path: Path, bytes_max: int = READ_BYTES_MAX) -> bytes:
    """What a file of ours holds. Nothing here waits: whoever put a FIFO in its place holds nobody up.

    Raises:
        OSError: it is not there, cannot be read, is no regular file, or is longer than `bytes_max`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"over {bytes_max} bytes", str(path))
    return content


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None when there is none (no file, not readable, damaged, not an object).

    For files that the reader can do without. A file that must not be taken for missing when it is damaged
    (fences, seen tokens) has a reader of its own, which refuses.
    """
    try:
        found = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
