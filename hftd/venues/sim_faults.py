"""What simd says about a damaged tape: one alarm per file, which names the first bad lines and counts the
rest. No socket, no clock.

Files and named lines are bounded, so that `hftctl status` stays readable with a folder of garbage; `hftctl
data verify` lists every line.
"""

from __future__ import annotations

from typing import NamedTuple

from hftd.venues import replay

LINES_NAMED = 2
"""In the text of a file's alarm."""
FILES_NAMED = 8
"""With an alarm of their own; the rest share one."""
OTHERS = "tape_bad_lines"


class Alarm(NamedTuple):
    id: str
    text: str


class Faults:
    def __init__(self) -> None:
        self._named: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._others: set[str] = set()

    def take(self, line: replay.BadLine) -> Alarm:
        """Count a bad line; returns its file's alarm as it stands now."""
        if line.file not in self._counts and len(self._counts) == FILES_NAMED:
            self._others.add(line.file)
            return Alarm(
                OTHERS,
                f"{len(self._others)} more files have bad lines, the last: {_where(line)} (hftctl data "
                "verify lists them all)",
            )
        named = self._named.setdefault(line.file, [])
        self._counts[line.file] = count = self._counts.get(line.file, 0) + 1
        if len(named) < LINES_NAMED:
            named.append(f"line {line.number}: {line.reason}" if named else _where(line))
        more = count - len(named)
        return Alarm(
            f"{OTHERS}:{line.file}", "; ".join(named) + (f"; and {more} more bad lines" if more else "")
        )


def _where(line: replay.BadLine) -> str:
    return f"{line.file} line {line.number}: {line.reason}"
