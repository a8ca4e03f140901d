"""The one lock between processes: flock on a file that also says who holds it.

The kernel lets go of it when the holder dies, however it dies; no child inherits it (O_CLOEXEC). The name in
the file (identity.to_plain) is for people and for adoption: what decides is the flock. A file that was never
locked, or whose holder is dead, is simply free; nobody ever removes it, for a lock on a removed file excludes
nobody.

Beside it, whether a holder's loop still turns: a sign of life, a file whose time it renews. That takes no
descriptor and no room on the disk. What counts for who watches is that the time changes, by the watcher's own
clock: a wall clock that is set says nothing of either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.errors import InUse
from controlplane.host import identity
from controlplane.model import Process

NAME_BYTES = 512
"""The name is padded to this size and written over the old one, so that a full disk refuses it only when the
file is new."""
PROBE_S = 0.1
"""`held` takes a shared lock for an instant; whoever meets that instant in `take` tries again for this
long."""
PROBE_EVERY_S = 0.005
FLOORD_BEAT = "floord.beat"
"""hft-floord's sign of life, in the run folder."""
BEAT_EVERY_S = 0.5
BEAT_LATE_S = 1.5
"""No more than this passes for the watched one between two looks, however long it was: the watcher itself
stood still."""


class Lock:
    """Held until closed, or until this process ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd

    def __repr__(self) -> str:
        return f"<Lock {self.path} {'held' if self._fd >= 0 else 'closed'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def take(path: Path, name: str, rule: str = "", *, old_holder_ends_s: float | None = None) -> Lock:
    """Take the lock for `name` and write into it who holds it; blocks for PROBE_S at most.

    `rule` says in the refusal why there is only one ("a host has one agent"). With `old_holder_ends_s`, the
    process that the file names must be dead for certain (its pidfd says so) before the lock is even tried,
    and is waited for that long: a process in its last moments may have let go of its files and still write
    to memory that it shares (rule R18). The name must then be writable, or the next holder could not tell.
    A name that is damaged, or that of a thread or of another process by now, is nobody's.

    Raises:
        InUse: another process holds it, or the old holder lives on; names path and holder.
        OSError: the file cannot be opened (or written, with `old_holder_ends_s`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if old_holder_ends_s is not None:
            old = _named(os.pread(fd, NAME_BYTES, 0))
            if old is not None and old.pid != os.getpid() and not ended(old, old_holder_ends_s):
                raise InUse(
                    f"{path}: {old.instance} (pid {old.pid}) still runs after {old_holder_ends_s:g} s"
                    f"{_why(rule)} (if that process is none, the file is damaged: remove it)"
                )
        if not _flock(fd):
            raise InUse(f"{path}: held by {_said(held_by(path))}{_why(rule)}")
        content = json.dumps(identity.to_plain(identity.myself(name))).encode()
        try:
            os.pwrite(fd, content.ljust(NAME_BYTES - 1) + b"\n", 0)
        except OSError:
            if old_holder_ends_s is not None:
                raise
            # The flock alone has to do: a full disk is no reason not to run.
    except BaseException:
        os.close(fd)
        raise
    return Lock(path, fd)


def held(path: Path) -> bool:
    """True while any process holds it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def held_by(path: Path) -> Process | None:
    """The process that the file names, while exactly that process runs; else None (free, held by a process
    of another container, or held by one that could not write its name).
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        named = _named(file.read(NAME_BYTES))
        if named is not None and identity.runs(named):
            return named
    return None


def last_holder(path: Path) -> Process | None:
    """The process that the file names, whether it runs or not; None when it names none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return _named(file.read(NAME_BYTES))
    return None


def flocked_by(path: Path) -> int | None:
    """Pid of the process that has the flock, whatever the file says; from /proc/locks, None when none is
    visible.
    """
    try:
        inode = path.stat().st_ino
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    for fields in rows:
        if (
            "FLOCK" in fields
            and "WRITE" in fields
            and len(fields) >= 6
            and fields[-3].rpartition(":")[2] == str(inode)
        ):
            return int(fields[-4])
    return None


def holder(path: Path, name: str) -> Process | None:
    """The process that has the lock by the kernel's word, whatever the file says of it; by the file's word
    where the kernel's cannot be seen (a container's /proc/locks). None: nobody, or it cannot be known.
    """
    named = held_by(path)
    pid = flocked_by(path)
    if pid is None:
        return named if held(path) else None
    if named is not None and named.pid == pid:
        return named
    return identity.identify(name, pid) if _has_open(pid, path) else None


def _has_open(pid: int, path: Path) -> bool:
    """/proc/locks tells inodes, and other file systems have the same ones."""
    try:
        wanted = path.stat()
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(fd.stat(), wanted):
                    return True
    except PermissionError:
        return True  # of a binary with file capabilities: the kernel shows its locks and not its files
    except OSError:
        pass
    return False


def ended(process: Process, wait_s: float) -> bool:
    """True once exactly this process is dead; False when it still runs after `wait_s`."""
    fd = identity.open_pidfd(process)
    if fd is None:
        return True
    try:
        return bool(select.select([fd], [], [], wait_s)[0])
    finally:
        os.close(fd)


def _flock(fd: int) -> bool:
    until_mono_s = time.monotonic() + PROBE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_mono_s:
                return False
            time.sleep(PROBE_EVERY_S)
        else:
            return True


def _named(content: bytes) -> Process | None:
    try:
        return identity.from_plain(json.loads(content))
    except (ValueError, RecursionError):
        return None  # empty, or written in part by a process that died: the flock alone tells


def _said(holder: Process | None) -> str:
    return f"{holder.instance} (pid {holder.pid})" if holder else "another process"


def _why(rule: str) -> str:
    return f"; {rule}" if rule else ""


def beat(path: Path) -> None:
    """To be called every BEAT_EVERY_S. A file that cannot be made now (its folder is gone) is for the next
    time.
    """
    try:
        os.utime(path)
    except OSError:
        with contextlib.suppress(OSError):
            path.touch(mode=0o600)


class BeatWatch:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._looked_mono_s = 0.0
        self._silent_s = 0.0

    def __repr__(self) -> str:
        return f"<BeatWatch {self._path} silent for {self._silent_s:.1f} s>"

    def silent_s(self, now_mono_s: float) -> float:
        """For how long there has been no beat; to be asked about once a second. 0 where there is no file:
        whoever is watched makes none, or cannot.
        """
        passed_s, self._looked_mono_s = now_mono_s - self._looked_mono_s, now_mono_s
        try:
            found = self._path.stat()
        except OSError:
            self._stamp, self._silent_s = None, 0.0
            return 0.0
        stamp = (found.st_ino, found.st_mtime_ns)
        self._silent_s = self._silent_s + min(passed_s, BEAT_LATE_S) if stamp == self._stamp else 0.0
        self._stamp = stamp
        return self._silent_s
