"""Reading an instance's log as the shim writes it: the last lines, or what came after an offset. Blocking;
called in a worker thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PART_BYTES_MAX = 1 << 20
"""One answer; a follower comes back for the rest."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    next_offset: int
    """In the present file; a rotation in between starts it again."""


def is_name(name: str) -> bool:
    """Nothing that could leave the folder of logs."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def last(path: Path, lines: int) -> Part:
    """The last lines, from the rotated file before too where the present one is short."""
    text, size = _tail(path)
    found = text.splitlines(keepends=True)
    before = path.with_name(f"{path.name}.1")
    if len(found) < lines and before.exists():
        found = [*_tail(before)[0].splitlines(keepends=True), *found]
    return Part("".join(found[-lines:] if lines else []), size)


def after(path: Path, offset: int) -> Part:
    size = path.stat().st_size
    if offset > size:
        offset = 0  # rotated meanwhile
    with path.open("rb") as file:
        file.seek(offset)
        part = file.read(PART_BYTES_MAX)
    return Part(part.decode(errors="replace"), offset + len(part))


def _tail(path: Path) -> tuple[str, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - PART_BYTES_MAX))
        return file.read(PART_BYTES_MAX).decode(errors="replace"), size
