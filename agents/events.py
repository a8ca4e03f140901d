"""What happened on this host: a ring in memory for readers, a file for those who come later.

Events are numbered by a counter, which goes on from the highest number in the file and is moved by no clock;
`run` tells the lives of the agent apart, so that a reader whose numbers are from a file that is gone is told
(controlplane/site/event_stream.py, where several hosts' events become one line). An older release numbered
events by UNIX ns: they stay as they are, and counting goes on from them. A full disk loses file lines
(counted), never the ring. Read back at the agent's start.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import log
from controlplane.site import event_stream
from controlplane.site.event_stream import Position

RING_MAX = 2000
FILE_BYTES_MAX = 8 << 20
"""Then it is set aside as events.jsonl.1; together about a month of an uneventful floor."""
RUN_BYTES = 4


class Event(msgspec.Struct, frozen=True):
    n: int
    """Counts the events of this host; of an older release: UNIX ns."""
    host: str
    kind: str
    """noun.verb."""
    fields: dict[str, Any] = {}
    at_ns: int = 0
    """UNIX ns, to be shown; 0 in an event of an older release."""
    run: str = ""
    """The agent's life that recorded it, in hex; "" in an event of an older release."""

    def row(self) -> event_stream.Row:
        return msgspec.structs.asdict(self)


class Events:
    def __init__(self, host: str, path: Path, wall_ns: Callable[[], int]) -> None:
        self._host, self._path, self._wall_ns = host, path, wall_ns
        self._older = path.with_name(f"{path.name}.1")
        self._unended = False
        self.damaged = 0
        """Lines of the file that are no events: cut by a power loss, or rubbish. They stay in the file."""
        self._ring: deque[Event] = deque(self._read_back(), maxlen=RING_MAX)
        self._last = max((event.n for event in self._ring), default=0)
        self._run = secrets.token_hex(RUN_BYTES)
        self.lines_lost = 0

    @property
    def position(self) -> Position:
        """Behind the last one."""
        last = self._ring[-1] if self._ring else None
        return Position(last.run, last.n) if last else Position(self._run, 0)

    def record(self, kind: str, fields: Mapping[str, Any]) -> Event:
        self._last += 1
        event = Event(self._last, self._host, kind, dict(fields), self._wall_ns(), self._run)
        self._ring.append(event)
        self._write(event)
        return event

    def report(self, kind: str, **fields: Any) -> None:
        """Record an event, and write a line of it into the agent's own log."""
        self.record(kind, fields)
        log.info(kind, **fields)

    def latest(self, limit: int) -> list[Event]:
        """The last ones, oldest first."""
        return list(self._ring)[-limit:]

    def of_this_run(self, limit: int) -> list[Event]:
        """What this agent has recorded since its start, oldest first."""
        return [event for event in self._ring if event.run == self._run][:limit]

    def after(self, n: int, limit: int) -> list[Event]:
        """Events numbered above n, oldest first.

        Raises InvalidInput: there is no number as high; the reader has it from another host or from a file
        that is gone, and would wait for ever.
        """
        if n > self._last:
            raise InvalidInput(
                f"after={n}: the events of {self._host} are numbered up to {self._last}; a higher number is "
                "of another host, or of an events file that is gone: ask without it"
            )
        return [event for event in self._ring if event.n > n][:limit]

    def behind(self, position: Position, limit: int) -> list[event_stream.Row]:
        """What comes behind a position that was told before, oldest first; if some of that is no longer here,
        the first one says so.
        """
        kept = list(self._ring)
        start, missing = event_stream.rest([Position(event.run, event.n) for event in kept], position)
        found = [event.row() for event in kept[start : start + limit]]
        if found and missing != 0:
            return [event_stream.lost(missing, self._host, position, found[0]), *found][:limit]
        return found

    def _write(self, event: Event) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > FILE_BYTES_MAX:
                self._path.replace(self._older)
            with self._path.open("ab") as file:
                # After a line that was cut, or the next reader would lose this one too.
                file.write(b"\n" * self._unended + msgspec.json.encode(event) + b"\n")
            self._unended = False
        except OSError:
            self.lines_lost += 1

    def _read_back(self) -> Iterable[Event]:
        """The end of what is kept; with the file before it, as this one may have been begun just now."""
        older, newer = _end_of(self._older), _end_of(self._path)
        self._unended = bool(newer) and not newer.endswith(b"\n")
        for line in (older.splitlines() + newer.splitlines())[-RING_MAX:]:
            try:
                event = model.decode(Event, line)
            except msgspec.DecodeError:
                self.damaged += 1
                continue
            if 0 < event.n <= event_stream.NUMBER_MAX and 0 <= event.at_ns <= event_stream.NUMBER_MAX:
                yield event
            else:
                self.damaged += 1


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * FILE_BYTES_MAX))
            return file.read()
    except OSError:
        return b""
