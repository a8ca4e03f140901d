"""When a line of the tape leaves: paced by its place (its receive time, unless the recorder's clock was
wrong; venues/replay.py), sent only when it is taken, and applied to the venue after it was sent.

Decided here, without a clock: `turn(now)` sends what is due and says when to be called again. What the pipe
does not take stays at hand and the tape stands still meanwhile: it goes on where it stood, nothing is hurried
to catch up. After a crash the lines that had been sent are read again first, a slice a turn, for the venue's
books only.

Bad input: a bad line is handed on and skipped, BAD_LINES_A_TURN of them at most before the sockets get their
turn. Places further apart than GAP_NS_MAX, in either direction, are not waited for: the second line
leaves at once, `on_gap` is told, and the tape keeps its pace from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hftd.venues import replay
from hftd.wire import feed

BATCH_BYTES_MAX = 1 << 20
TURN_BATCHES_MAX = 4
"""Frames a turn, so that at full speed orders are still looked at every ten milliseconds or so."""
REBUILD_SLICE = 1_000
"""Lines read again in one turn: some ten milliseconds, far below what a keeper calls frozen."""
BAD_LINES_A_TURN = 1_000
"""As many as take about as long as a slice."""
GAP_NS_MAX = 60_000_000_000
"""Of the tape's own time. A market that trades is not quiet for that long, but recorders pause, and clocks
jump."""
RETRY_NS = 1_000_000
"""The pipe is full or no reader pulls: try again after this."""

Lines = list[replay.Line]


class Pace:
    """Maps places on the tape to moments of the monotonic clock. `speed` 0 is as fast as it goes."""

    def __init__(self, speed: int) -> None:
        self._speed = speed
        self._tape_ns = self._mono_ns = 0
        self._held_ns: int | None = None
        self._last_ns: int | None = None
        """Place of the line asked for last."""

    def follow(self, speed: int, now_ns: int) -> None:
        """Go on from where the tape is now at this speed."""
        if not self._speed or not speed:
            self._last_ns = None  # the next line leaves at once, and the pace is counted from it
        elif self._last_ns is not None:
            at_ns = now_ns if self._held_ns is None else self._held_ns
            self._tape_ns += (at_ns - self._mono_ns) * self._speed
            self._mono_ns = at_ns
        self._speed = speed

    def gap_ns(self, place_ns: int) -> int:
        """From the line asked for last to this one, when that is too far to wait for; else 0."""
        gap_ns = 0 if self._last_ns is None or not self._speed else place_ns - self._last_ns
        return gap_ns if abs(gap_ns) > GAP_NS_MAX else 0

    def due_ns(self, place_ns: int, now_ns: int) -> int:
        """To be asked of the lines in their order; of one line any number of times."""
        if not self._speed:
            return now_ns
        if self._last_ns is None or self.gap_ns(place_ns):
            self._tape_ns, self._mono_ns = place_ns, now_ns
        self._last_ns = place_ns
        return self._mono_ns + (place_ns - self._tape_ns) // self._speed

    def hold(self, now_ns: int) -> None:
        """The tape stands still from now on."""
        if self._held_ns is None:
            self._held_ns = now_ns

    def release(self, now_ns: int) -> None:
        if self._held_ns is not None:
            self._mono_ns += now_ns - self._held_ns
            self._held_ns = None

    @property
    def held(self) -> bool:
        return self._held_ns is not None


class Feeder:
    def __init__(
        self,
        source: Iterable[replay.Line | replay.BadLine],
        pace: Pace,
        *,
        session: int,
        skip: int,
        send: Callable[[bytes], bool],
        on_skipped: Callable[[Lines], None],
        on_sent: Callable[[Lines], None],
        on_bad: Callable[[replay.BadLine], None],
        on_gap: Callable[[replay.Line, int], None],
        on_end: Callable[[], None],
    ) -> None:
        """`skip` lines were sent before a crash. `on_sent` gets what has just left, in order; `on_gap` a line
        and how many ns it is from the one before; `on_end` is called once.
        """
        self._source: Iterator[replay.Line | replay.BadLine] = iter(source)
        self._pace, self._session, self._skip = pace, session, skip
        self._send, self._on_skipped, self._on_sent = send, on_skipped, on_sent
        self._on_bad, self._on_gap, self._on_end = on_bad, on_gap, on_end
        self._ahead: replay.Line | None = None
        self._batch: Lines = []
        self._frame = b""
        self._exhausted = False
        self._bad_left = 0
        """Bad lines that may still be read in this turn."""
        self.position = 0
        """Good lines of the tape that have been read, skipped ones too."""
        self.sent = 0
        self._beat_at = 0
        """`sent` at the last beat, or where it was not needed."""
        self.ended = False

    def follow(self, speed: int, now_ns: int) -> None:
        self._pace.follow(speed, now_ns)

    @property
    def rebuilding(self) -> bool:
        return self.position < self._skip and not self.ended

    @property
    def paused(self) -> bool:
        """Nobody takes lines now."""
        return self._pace.held

    def beat(self) -> None:
        """To be called once a second: where no line has left since, say that we are here, also at the end of
        the tape. Not while lines are read again: the session begins with the first line after them.
        """
        if self.sent == self._beat_at and not self.rebuilding:
            self._send(feed.beat(self.sent + 1, self._session))
        self._beat_at = self.sent

    def turn(self, now_ns: int) -> int | None:
        """Send what is due; the moment for the next turn, or None when the tape has ended."""
        if self.ended:
            return None
        self._bad_left = BAD_LINES_A_TURN
        if self.rebuilding:
            self._rebuild()
            return now_ns
        for _ in range(TURN_BATCHES_MAX):
            if not self._batch and not self._gather(now_ns):
                if self._exhausted:
                    self._end()
                    return None
                if self._ahead is None:
                    return now_ns  # nothing but bad lines so far
                return self._pace.due_ns(self._ahead.place_ns, now_ns)
            if not self._send(self._frame):
                self._pace.hold(now_ns)
                return now_ns + RETRY_NS
            self._pace.release(now_ns)
            sent, self._batch = self._batch, []
            self.sent += len(sent)
            self.position += len(sent)
            self._on_sent(sent)
        return now_ns

    def _next(self) -> replay.Line | None:
        """None: the tape has ended, or this turn has had its share of bad lines."""
        line, self._ahead = self._ahead, None
        while line is None and self._bad_left:
            read = next(self._source, None)
            if read is None:
                self._exhausted = True
                return None
            if isinstance(read, replay.BadLine):
                self._bad_left -= 1
                self._on_bad(read)
            else:
                line = read
        return line

    def _gather(self, now_ns: int) -> bool:
        """Fill the batch with lines that are due; False when there is none."""
        batch, size, pace = self._batch, 0, self._pace
        while len(batch) < feed.BATCH_MAX and size < BATCH_BYTES_MAX:
            line = self._next()
            if line is None:
                break
            if gap_ns := pace.gap_ns(line.place_ns):
                self._on_gap(line, gap_ns)
            if pace.due_ns(line.place_ns, now_ns) > now_ns:
                self._ahead = line
                break
            batch.append(line)
            size += len(line.raw)
        if batch:
            self._frame = feed.pack(
                [(line.instrument, line.receive_ns, line.raw) for line in batch], self.sent + 1, self._session
            )
        return bool(batch)

    def _rebuild(self) -> None:
        lines: Lines = []
        while len(lines) < REBUILD_SLICE and self.position < self._skip:
            line = self._next()
            if line is None:
                break  # bad lines; or the tape is shorter than it was, and the next turn reaches its end
            lines.append(line)
            self.position += 1
        if self._exhausted:
            self._skip = self.position
        self._on_skipped(lines)

    def _end(self) -> None:
        self.ended = True
        self._on_end()
