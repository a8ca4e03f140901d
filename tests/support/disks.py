"""Disks that are small and full, for real (a tmpfs, filled by a file; needs root); and, by an os layer in
between, one that is slow, one whose power goes, and one whose syncs fail and take what they were to write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DETACH = 2


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs on the folder, or a skip where this user may not mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=0700".encode()):
        pytest.skip(f"cannot mount a tmpfs ({os.strerror(ctypes.get_errno())}): this needs root")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), DETACH)


def fill(folder: Path) -> Path:
    """Take all the room there is, to the last byte."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as exc:
                assert exc.errno == errno.ENOSPC
    return path


Entries = dict[str, int]
"""Name -> inode."""


class _Watched:
    """The calls of os that wait for a disk, for the files in one folder. Everything else passes."""

    NAMES = ("fsync", "fdatasync", "unlink", "rename", "link")

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in self.NAMES:
            patch.setattr(os, name, self._watching(name, getattr(os, name)))

    def _watching(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(target: int | str | os.PathLike[str], *rest: Any, **options: Any) -> None:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
            if path != self.folder and self.folder not in path.parents:
                real(target, *rest, **options)
            else:
                self.called(name, path, lambda: real(target, *rest, **options))

        return call

    def called(self, name: str, path: Path, real: Callable[[], None]) -> None:
        raise NotImplementedError


class SlowDisk(_Watched):
    """Every call that waits for the disk takes `seconds`; which thread waited is remembered."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        self.waited: list[tuple[str, str, str]] = []
        """(call, name of the thread, name of the file)"""
        super().__init__(folder, patch)

    def called(self, name: str, path: Path, real: Callable[[], None]) -> None:
        self.waited.append((name, threading.current_thread().name, path.name))
        time.sleep(self.seconds)
        real()


class SyncedDisk(_Watched):
    """What of a folder would be left if the power went now: for each file what was synced of it, and perhaps
    more; of names, those of the last sync of the folder or of any moment since.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.running = threading.Event()
        """Cleared: whatever waits for the disk waits until it is set."""
        self.running.set()
        self.each: Callable[[], None] = lambda: None
        """Called before and after each call."""
        self._lock = threading.RLock()
        self._files: dict[int, int] = {}
        """Inode -> a descriptor of our own, so that no inode is used twice."""
        self._synced: dict[int, bytes] = {}
        self._names: list[Entries] = [{}]
        """That of the last sync of the folder, and each since."""
        super().__init__(folder, patch)

    def called(self, name: str, path: Path, real: Callable[[], None]) -> None:
        assert self.running.wait(30)
        with self._lock:
            self._look()
            self.each()
            real()
            if name in ("fsync", "fdatasync") and path == self.folder:
                self._names = [self._listed()]
            elif name in ("fsync", "fdatasync") and path.exists():
                inode = path.stat().st_ino
                self._synced[inode] = self._content(inode)
            self._look()
            self.each()

    def _listed(self) -> Entries:
        found = {path.name: path.stat().st_ino for path in self.folder.iterdir()}
        for name, inode in found.items():
            if inode not in self._files:
                self._files[inode] = os.open(self.folder / name, os.O_RDONLY)
        return found

    def _look(self) -> None:
        now = self._listed()
        if now != self._names[-1]:
            self._names.append(now)

    def _content(self, inode: int) -> bytes:
        fd = self._files[inode]
        return os.pread(fd, os.fstat(fd).st_size, 0)

    def power_cut(self, to: Path, choose: Callable[[int], int]) -> None:
        """Write what is left to the folder `to`. `choose(n)` is one of 0 to n: which moment's names, and how
        much of a file beyond what was synced.
        """
        with self._lock:
            self._look()
            to.mkdir()
            for name, inode in self._names[choose(len(self._names) - 1)].items():
                synced, written = self._synced.get(inode, b""), self._content(inode)
                if not written.startswith(synced):  # cut since: the one or the other
                    (to / name).write_bytes((synced, written)[choose(1)])
                else:
                    (to / name).write_bytes(written[: len(synced) + choose(len(written) - len(synced))])

    def close(self) -> None:
        self.running.set()
        for fd in self._files.values():
            os.close(fd)


class ForgettingDisk:
    """What the disk itself has of each file in one folder, where a sync that fails takes what it was to
    write: the kernel calls those pages clean, and the next sync succeeds without them.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.failures = 0
        """So many of the next syncs of a file fail."""
        self._has: dict[int, bytearray] = {}
        """Inode -> what is on the disk."""
        self._dirty: dict[int, list[tuple[int, bytes]]] = {}
        self._real_pwrite, self._real_write = os.pwrite, os.write
        patch.setattr(os, "pwrite", self._pwrite)
        patch.setattr(os, "write", self._write)
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._syncing(getattr(os, name)))

    def _ours(self, fd: int) -> int | None:
        """The inode of a file of the folder."""
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return os.fstat(fd).st_ino if path.parent == self.folder and path.is_file() else None

    def _written(self, fd: int, content: bytes, at: int) -> None:
        inode = self._ours(fd)
        if inode is not None:
            self._dirty.setdefault(inode, []).append((at, bytes(content)))

    def _pwrite(self, fd: int, content: bytes, at: int) -> int:
        written = self._real_pwrite(fd, content, at)
        self._written(fd, bytes(content)[:written], at)
        return written

    def _write(self, fd: int, content: bytes) -> int:
        written = self._real_write(fd, content)
        if self._ours(fd) is not None:
            self._written(fd, bytes(content)[:written], os.lseek(fd, 0, os.SEEK_CUR) - written)
        return written

    def _syncing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            inode = self._ours(fd)
            if inode is None:
                real(fd)
                return
            dirty = self._dirty.pop(inode, [])
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            has = self._has.setdefault(inode, bytearray())
            for at, content in dirty:
                has.extend(bytes(max(0, at + len(content) - len(has))))
                has[at : at + len(content)] = content
            del has[os.fstat(fd).st_size :]

        return sync

    def copy(self, to: Path) -> Path:
        """The folder as a power cut leaves it now, its names included."""
        to.mkdir()
        for path in self.folder.iterdir():
            if path.is_file():
                (to / path.name).write_bytes(bytes(self._has.get(path.stat().st_ino, b"")))
        return to
