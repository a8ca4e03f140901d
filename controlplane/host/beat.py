"""A process's sign of life for others on its machine: a file whose time it renews while its loop turns.

Renewing takes no descriptor and no room on the disk, so a process that has neither still beats. What counts
for who watches is that the time changes, by the watcher's own clock: a wall clock that is set says nothing of
either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

EVERY_S = 0.5
LATE_S = 1.5
"""No more than this passes for the watched one between two looks, however long it was: the watcher itself
stood still."""
FLOORD = "floord.beat"
"""Of hft-floord, in the run folder."""


async def keep(path: Path) -> None:
    """Beat until cancelled."""
    while True:
        once(path)
        await asyncio.sleep(EVERY_S)


def once(path: Path) -> None:
    """A file that cannot be made (its folder is gone) is for the next time."""
    try:
        os.utime(path)
    except OSError:
        with contextlib.suppress(OSError):
            path.touch(mode=0o600)


class Watch:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._looked_mono_s = 0.0
        self._silent_s = 0.0

    def __repr__(self) -> str:
        return f"<Watch {self._path} silent for {self._silent_s:.1f} s>"

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
        self._silent_s = self._silent_s + min(passed_s, LATE_S) if stamp == self._stamp else 0.0
        self._stamp = stamp
        return self._silent_s
