"""Troubles that stand: said when they begin, when they change, and when they are over; not at each try.

    try: ...
    except OSError as exc: troubles.stands("floor.json", f"cannot be written: {exc}")
    else: troubles.over("floor.json")

A process that tries again five times a second would otherwise fill its log with one line, and a full disk the
faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SAY_AGAIN_S = 600.0
"""One that stands is said again so often: its first line may have been rotated away, or lost to a full
disk."""
CHANGED_S = 10.0
"""One whose text changes with each try (it names a pid) is said no oftener than this."""


@dataclass(slots=True)
class _Standing:
    text: str
    began_mono_s: float
    said_mono_s: float
    times: int = 1


class Troubles:
    def __init__(self, say: Callable[[str], None], mono_s: Callable[[], float] = time.monotonic) -> None:
        self._say, self._mono_s = say, mono_s
        self._standing: dict[str, _Standing] = {}

    def __repr__(self) -> str:
        return f"<Troubles: {', '.join(self._standing) or 'none'}>"

    def __contains__(self, subject: str) -> bool:
        return subject in self._standing

    def stands(self, subject: str, text: str) -> None:
        """There is trouble with this subject, now or still. `subject` is one of a few, or they would pile
        up.
        """
        now_mono_s = self._mono_s()
        found = self._standing.get(subject)
        if found is None:
            self._standing[subject] = _Standing(text, now_mono_s, now_mono_s)
            self._say(f"{subject}: {text}")
            return
        found.times += 1
        said_s = now_mono_s - found.said_mono_s
        if said_s >= SAY_AGAIN_S or (text != found.text and said_s >= CHANGED_S):
            stood_s = now_mono_s - found.began_mono_s
            found.text, found.said_mono_s = text, now_mono_s
            self._say(f"{subject}: {text} (stands for {stood_s:.0f} s, {found.times} times)")

    def forget(self, subject: str) -> None:
        """What comes next with it is another trouble."""
        self._standing.pop(subject, None)

    def over(self, subject: str) -> None:
        """There is none with it, now or still."""
        found = self._standing.pop(subject, None)
        if found is not None:
            stood_s = self._mono_s() - found.began_mono_s
            self._say(f"{subject}: over, after {stood_s:.1f} s")
