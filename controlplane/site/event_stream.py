"""The events of several hosts as one stream: where a reader stands in it, and in which order it is told.

Each host numbers its events by a counter of its own, which no clock moves and which goes on over restarts of
its agent; `run` names the life of the agent that recorded one. A reader's position is therefore one per host,
and its text, the cursor, is `HOST=RUN.NUMBER,...`: readers hand it back as they got it. Where the position
cannot be found again, because the host's file was lost or the reader was away for too long, the reader is
told (`events.lost`) and goes on with what there is. Wall-clock times are only shown, and put events of
different hosts in order as well as clocks can. Pure: agents read their rings with this, hftctl the files of a
floor that is down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from controlplane.errors import InvalidInput

LOST = "events.lost"
NUMBER_MAX = (1 << 62) - 1
"""Numbers of an older release are UNIX ns, and counting goes on from them; above this is damage."""
CURSOR_CHARACTERS_MAX = 16_384
"""256 hosts with names of an ordinary length."""
_PART = re.compile(r"([A-Za-z0-9_.~!-]+)=([0-9a-f]{0,16})\.([0-9]{1,19})\Z")

Row = dict[str, Any]
"""An event as JSON has it: n, host, kind, fields, and at_ns and run, which older releases did not write."""


class Position(NamedTuple):
    """The last event of a host that a reader has."""

    run: str
    """Of the agent's life in which it was recorded; "" for an event of an older release."""
    n: int


class Rest(NamedTuple):
    """What comes behind a position, in a host's events."""

    start: int
    """Index of the first."""
    missing: int | None
    """Events between the position and it that are no longer there; None: an unknown number."""


def of(row: Row) -> Position:
    return Position(row.get("run", ""), row["n"])


def before(row: Row) -> Position:
    """Of a reader who has what was recorded before it."""
    return Position(row.get("run", ""), row["n"] - 1)


def time_ns(row: Row) -> int:
    """UNIX ns at which it was recorded. An older release numbered events by it."""
    return row.get("at_ns") or int(row["n"])


def cursor(positions: Mapping[str, Position]) -> str:
    return ",".join(
        f"{quote(host, safe='').replace('%', '!')}={run}.{n}" for host, (run, n) in sorted(positions.items())
    )


def positions(text: str) -> dict[str, Position]:
    """Raises InvalidInput: it is not a cursor."""
    found = {}
    for part in text.split(",") if len(text) <= CURSOR_CHARACTERS_MAX else [text]:
        match = _PART.match(part)
        if match is None or int(match[3]) > NUMBER_MAX:
            raise InvalidInput(
                f"after={text[:80]!r}: not a cursor; wanted is the `cursor` of the last event that you have"
            )
        found[unquote(match[1].replace("!", "%"))] = Position(match[2], int(match[3]))
    return found


def rest(kept: Sequence[Position], position: Position) -> Rest:
    """What of a host's events, in the order in which it recorded them, comes behind the position."""
    same_run = [index for index, each in enumerate(kept) if each.run == position.run]
    seen = [index for index in same_run if kept[index].n <= position.n]
    start = seen[-1] + 1 if seen else same_run[0] if same_run else 0
    if start == len(kept):
        return Rest(start, 0)
    first = kept[start]
    between = first.n - position.n - 1
    if between == 0 or not first.run:  # an older release left numbers out
        return Rest(start, 0 if same_run or between == 0 else None)
    if between > 0:
        return Rest(start, between)
    return Rest(start, 0 if same_run else None)


def lost(missing: int | None, host: str, position: Position, first: Row) -> Row:
    """The event that tells a reader so, in front of the first one that there is."""
    if missing is None:
        text = (
            f"the events of {host} behind number {position.n} are gone: its events file was lost or damaged"
        )
    else:
        text = f"{missing} events of {host} behind number {position.n} are no longer kept where they are read"
    fields = {"text": f"{text}; what follows is all that there is", "missing": missing}
    run, n = before(first)
    return {"n": n, "host": host, "kind": LOST, "fields": fields, "at_ns": time_ns(first), "run": run}


def behind(rows: Sequence[Row], host: str, position: Position) -> list[Row]:
    """The rows of a host behind the position; the first one tells of those that are missing."""
    start, missing = rest([of(row) for row in rows], position)
    found = list(rows[start:])
    return found if missing == 0 or not found else [lost(missing, host, position, found[0]), *found]


def latest_run(rows: Sequence[Row]) -> list[Row]:
    """Of the last life of the host's agent: for a reader who has no position there, since the agent was away
    when it began to read.
    """
    return [row for row in rows if row.get("run", "") == rows[-1].get("run", "")]


def ordered(parts: Mapping[str, Sequence[Row]]) -> list[tuple[str, Row]]:
    """All hosts' rows in one line, by time, each with the host that told it; a host's own stay in their
    order, whatever its clock did.
    """
    timed = [(time, host, row) for host in sorted(parts) for time, row in _timed(parts[host])]
    return [(host, row) for _, host, row in sorted(timed, key=lambda each: each[0])]


def settled(rows: Sequence[Row], from_ns: int, until_ns: int) -> int:
    """How many of a host's rows come before the first one from that span, in which the others may still put
    something. A time after it is a wrong clock's and waits for nobody.
    """
    times = [time for time, _ in _timed(rows)]
    return next((index for index, time in enumerate(times) if from_ns < time <= until_ns), len(times))


def _timed(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Each with the time that puts it in order: not later than those of the rows behind it. So, after a clock
    was ahead and has been put right, only what it stamped meanwhile stands in a wrong place.
    """
    return list(_backwards(rows))[::-1]


def _backwards(rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    earliest_ns = NUMBER_MAX * 2 + 1
    for row in reversed(rows):
        earliest_ns = min(earliest_ns, time_ns(row))
        yield earliest_ns, row
