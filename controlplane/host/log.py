"""The log of this process: events with fields, one line each (log_line.py has the format).

    log.info("lease.renewed", service=spec.name, ttl_s=5)

A long-lived process holds `started` for its life (run.py does). From then on a line costs its caller the
formatting and no wait: a bounded queue takes it and a thread writes it; what finds the queue full, or the
disk, is lost, counted, and said once there is room. What libraries say through the standard logging module
goes into the same lines. A log file that standard output appends to is rotated while the process runs.
Without `started` (tests, a short command) lines go straight to standard error.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

from controlplane.host.log_file import LogFile
from controlplane.host.log_line import DEBUG, ERROR, INFO, LEVELS, WARNING, Lines

STDOUT, STDERR = 1, 2

QUEUE_LINES_MAX = 10_000
"""Some megabytes at most: minutes of a quiet process, and a second of one that repeats an error as fast as it
can."""
BATCH_LINES_MAX = 256
"""Written at once when many wait."""
FLUSH_S = 1.0
"""A disk or a pipe that does not take the last lines in this time does not keep the process from ending."""


class Sink(Protocol):
    def put(self, line: str) -> None: ...

    def lines_dropped(self) -> int: ...


class Straight:
    """Writes each line at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._dropped = 0

    def put(self, line: str) -> None:
        content = (line + "\n").encode(errors="backslashreplace")
        try:
            if os.write(self._fd, content) == len(content):
                return
        except OSError:
            pass
        self._dropped += 1

    def lines_dropped(self) -> int:
        return self._dropped


class Aside:
    """A bounded queue, and the thread that writes what is in it."""

    def __init__(self, file: LogFile, lines: Lines, lines_max: int = QUEUE_LINES_MAX) -> None:
        self._file, self._lines, self._lines_max = file, lines, lines_max
        self._queue: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        self._counting = threading.Lock()
        self._dropped = self._dropped_said = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        if self._queue.qsize() < self._lines_max:  # two threads at once may pass it by one; a bound, no count
            self._queue.put(line)
        else:
            self._drop(1)

    def lines_dropped(self) -> int:
        return self._dropped

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until what was put before is written; False when it is not in time."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(timeout_s)

    def stop(self, timeout_s: float = FLUSH_S) -> None:
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def _write(self) -> None:
        """Until stopped. What cannot be written is dropped and counted; nothing ends this thread."""
        while True:
            batch: list[str] = []
            then: str | threading.Event | None = self._queue.get()
            while isinstance(then, str):
                batch.append(then)
                if len(batch) >= BATCH_LINES_MAX or self._queue.empty():
                    then = ""
                    break
                then = self._queue.get()
            if batch:
                self._write_lines(batch)
            if then is None:
                return
            if isinstance(then, threading.Event):
                then.set()

    def _write_lines(self, batch: list[str]) -> None:
        unsaid = self._dropped - self._dropped_said
        if unsaid:
            said = self._lines.make(WARNING, "log.lines_dropped", {"lines": unsaid})
            if not self._file.write((said + "\n").encode()):
                self._drop(len(batch))
                return
            self._dropped_said += unsaid
        if not self._file.write(("\n".join(batch) + "\n").encode(errors="backslashreplace")):
            self._drop(len(batch))


class Log:
    def __init__(self, lines: Lines, level: int, sink: Sink) -> None:
        self.lines, self.level, self.sink = lines, level, sink

    def write(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        if level >= self.level:
            self.sink.put(self.lines.make(level, event, fields))


_log = Log(Lines(), INFO, Straight(STDERR))


def debug(event: str, /, **fields: object) -> None:
    _log.write(DEBUG, event, fields)


def info(event: str, /, **fields: object) -> None:
    _log.write(INFO, event, fields)


def warning(event: str, /, **fields: object) -> None:
    _log.write(WARNING, event, fields)


def error(event: str, /, **fields: object) -> None:
    _log.write(ERROR, event, fields)


def write(level: int, event: str, fields: Mapping[str, object]) -> None:
    """As the four above, for a caller that has the level (one of log_line.LEVELS) and the fields in hand."""
    _log.write(level, event, fields)


def lines_dropped() -> int:
    """In the life of this process."""
    return _log.sink.lines_dropped()


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Before an end that runs no `finally` (os._exit); False when not all is written in time."""
    return _log.sink.flush(timeout_s) if isinstance(_log.sink, Aside) else True


@contextlib.contextmanager
def started(
    name: str, level: int = INFO, *, fd: int = STDOUT, lines_max: int = QUEUE_LINES_MAX
) -> Iterator[None]:
    """Log as `name` to `fd` through the thread; at the end, write what waits (for FLUSH_S) and go back."""
    global _log
    assert level in LEVELS.values(), level
    # Here and not above: a short command that logs nothing need not import the logging module.
    from controlplane.host import log_libraries

    lines = Lines(name)
    aside = Aside(LogFile(fd), lines, lines_max)
    before, _log = _log, Log(lines, level, aside)
    libraries = log_libraries.take(level, write)
    try:
        yield
    finally:
        log_libraries.give_back(libraries)
        aside.stop()
        _log = before
