"""Reading a log that another process writes and rotates: its last lines, then what has come since.

A place in it is the file's inode and an offset, so that a follower who comes back after a rotation gets the
rest of the old file first, whatever it is called now, and no line is lost or told twice. Blocking.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PART_BYTES_MAX = 1 << 20
"""One answer; a follower comes back for the rest."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PLACE = re.compile(r"(?:(\d{1,20})-)?(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Place:
    inode: int
    """0: whichever file has the log's name."""
    offset: int

    def __str__(self) -> str:
        return f"{self.inode}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Part:
    content: bytes
    next: Place


def is_name(name: str) -> bool:
    """Nothing that could leave the folder of logs."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def place(text: str) -> Place | None:
    """As `str` of a Place writes it, or an offset alone; None when it is neither."""
    found = _PLACE.fullmatch(text)
    return Place(int(found[1] or 0), int(found[2])) if found else None


def last(path: Path, lines: int) -> Part:
    """The last lines, from the rotated file before too where the present one is short. Raises OSError."""
    content, next_place = _tail(path)
    found = content.splitlines(keepends=True)
    before = path.with_name(f"{path.name}.1")
    if len(found) < lines and before.exists():
        found = [*_tail(before)[0].splitlines(keepends=True), *found]
    return Part(b"".join(found[-lines:] if lines else []), next_place)


def after(path: Path, place: Place) -> Part:
    """What comes behind a place, one part of it. Of a file that is not there any more the rest is lost: then
    it goes on with the whole of the present one. Raises OSError.
    """
    at = _file_of(path, place.inode)
    if at is None:
        at, place = path, Place(0, 0)
    with at.open("rb") as file:
        inode, size = _stat(file)
        if place.inode not in (0, inode):
            return Part(b"", place)  # renamed between the two looks: the next one finds it
        offset = place.offset if place.offset <= size else 0  # cut in place, as some rotate
        file.seek(offset)
        content = file.read(PART_BYTES_MAX)
    if content or at == path:
        return Part(content, Place(inode, offset + len(content)))
    newer = _newer(path, at)
    with newer.open("rb") as file:
        inode, _ = _stat(file)
        content = file.read(PART_BYTES_MAX)
    return Part(content, Place(inode, len(content)))


def _file_of(path: Path, inode: int) -> Path | None:
    """The file with this inode, under the log's name or one that begins with it."""
    if not inode or path.stat().st_ino == inode:
        return path
    for each in path.parent.glob(f"{path.name}*"):
        try:
            if each.stat().st_ino == inode:
                return each
        except OSError:
            continue  # renamed or gone meanwhile
    return None


def _newer(path: Path, at: Path) -> Path:
    """The one that was begun when `at` was full."""
    number = at.name.removeprefix(f"{path.name}.")
    newer = path.with_name(f"{path.name}.{int(number) - 1}") if number.isdigit() else path
    return newer if newer.exists() else path


def _stat(file: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size


def _tail(path: Path) -> tuple[bytes, Place]:
    with path.open("rb") as file:
        inode, size = _stat(file)
        file.seek(max(0, size - PART_BYTES_MAX))
        return file.read(min(size, PART_BYTES_MAX)), Place(inode, size)
