"""A small disk, and one that is full, for real: a tmpfs, filled by a file. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

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
