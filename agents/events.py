"""What happened on this host: a ring in memory for readers, a file for those who come later.

Events are numbered by their wall-clock ns, made to rise strictly, so that the numbers of several hosts can be
merged into one line and `after=N` means the same everywhere. A full disk loses file lines (counted), never
the ring. Read back at the agent's start.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from controlplane import model
from controlplane.host import log

RING_MAX = 2000
FILE_BYTES_MAX = 8 << 20
"""Then it is set aside as events.jsonl.1; together about a month of an uneventful floor."""

AHEAD_MAX_NS = 86_400_000_000_000
"""A day: further ahead of the clock no event of ours was recorded."""


class Event(msgspec.Struct, frozen=True):
    n: int
    """UNIX ns, rising."""
    host: str
    kind: str
    """noun.verb."""
    fields: dict[str, Any] = {}


class Events:
    def __init__(self, host: str, path: Path, wall_ns: Callable[[], int]) -> None:
        self._host, self._path, self._wall_ns = host, path, wall_ns
        self._unended = False
        self.damaged = 0
        """Lines of the file that are no events: cut by a power loss, or rubbish. They stay in the file."""
        self._ring: deque[Event] = deque(self._read_back(), maxlen=RING_MAX)
        self._last = self._ring[-1].n if self._ring else 0
        self.lines_lost = 0

    def record(self, kind: str, fields: Mapping[str, Any]) -> Event:
        self._last = max(self._wall_ns(), self._last + 1)
        event = Event(self._last, self._host, kind, dict(fields))
        self._ring.append(event)
        self._write(event)
        return event

    def report(self, kind: str, **fields: Any) -> None:
        """Record an event, and write a line of it into the agent's own log."""
        self.record(kind, fields)
        log.info(kind, **fields)

    def after(self, n: int, limit: int) -> list[Event]:
        """Events numbered above n, oldest first; when there are more than `limit`, from n on for a follower,
        the last ones for n = 0.
        """
        found = [event for event in self._ring if event.n > n]
        return found[:limit] if n else found[-limit:]

    def _write(self, event: Event) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > FILE_BYTES_MAX:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            with self._path.open("ab") as file:
                # After a line that was cut, or the next reader would lose this one too.
                file.write(b"\n" * self._unended + msgspec.json.encode(event) + b"\n")
            self._unended = False
        except OSError:
            self.lines_lost += 1

    def _read_back(self) -> Iterable[Event]:
        """The end of the file. A number from a clock that was far ahead would number all that follow."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 2 * FILE_BYTES_MAX))
                content = file.read()
        except OSError:
            return
        latest = self._wall_ns() + AHEAD_MAX_NS
        self._unended = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines()[-RING_MAX:]:
            try:
                event = model.decode(Event, line)
            except msgspec.DecodeError:
                self.damaged += 1
                continue
            if 0 < event.n <= latest:
                yield event
            else:
                self.damaged += 1
