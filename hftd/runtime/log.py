"""A daemon's log: one line an event to standard output, which the shim keeps (agents/supervisor/shim.py) and
rotates.

A line is one write of at most 4 KiB, made at once, so that the last words of a dying daemon are there. Under
an agent a write never waits: standard output is a pipe of a megabyte, and a line that finds no room in it
(the shim is stopped, its disk slow) is lost, not the time of a tick.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
INFO, ERROR = LEVELS["info"], LEVELS["error"]
OF_SEVERITY = {"info": INFO, "warning": LEVELS["warning"], "critical": ERROR}
"""Of alarms."""

LINE_BYTES_MAX = 4096
"""PIPE_BUF: so much goes into a pipe as a whole or not at all (pipe(7)); what is longer is cut."""
CUT = b" ...\n"
STDOUT = 1


class Log:
    """Lines for people: UTC time in ms, kind, and key=value pairs with texts quoted."""

    __slots__ = ("_fd", "_stamp", "level")

    def __init__(self, fd: int = STDOUT) -> None:
        self._fd = fd
        self._stamp = (-1, "")
        """A second and its text, in one: threads may write lines too."""
        self.level = INFO
        """Lines below it are not written."""

    def never_wait(self) -> None:
        """For a pipe that nobody else writes to: from now on a line is lost rather than waited for."""
        if stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.set_blocking(self._fd, False)

    def line(self, kind: str, fields: Mapping[str, object], level: int = INFO) -> bool:
        """Write one line; False when it is lost."""
        if level < self.level:
            return True
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        stamp = self._stamp
        if stamp[0] != second:
            stamp = self._stamp = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        text = f"{stamp[1]}.{ns // 1_000_000:03d}Z {kind}"
        for key, value in fields.items():
            text += f" {key}={value!r}" if isinstance(value, str) else f" {key}={value}"
        if "\n" in text:
            text = text.replace("\n", " ")
        line = text.encode(errors="backslashreplace") + b"\n"
        if len(line) > LINE_BYTES_MAX:
            line = line[: LINE_BYTES_MAX - len(CUT)] + CUT
        try:
            return os.write(self._fd, line) == len(line)
        except OSError:
            return False
