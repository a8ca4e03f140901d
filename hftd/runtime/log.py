"""A daemon's log: one line an event to standard output, which the shim keeps (agents/supervisor/shim.py) and
rotates.

A line is one write of at most 4 KiB, made at once, so that the last words of a dying daemon are there. Under
an agent a write never waits: standard output is a pipe of a megabyte, and a line that finds no room in it
(the shim is stopped, its disk slow) is lost, not the time of a tick.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from controlplane.host import log_line
from controlplane.host.log_line import ERROR as ERROR
from controlplane.host.log_line import INFO as INFO
from controlplane.host.log_line import LEVELS as LEVELS
from controlplane.host.log_line import WARNING as WARNING

OF_SEVERITY = {"info": INFO, "warning": WARNING, "critical": ERROR}
"""Of alarms."""

LINE_BYTES_MAX = 4096
"""PIPE_BUF: so much goes into a pipe as a whole or not at all (pipe(7)); what is longer is cut."""
CUT = b" ...\n"
STDOUT = 1


class Log:
    """Lines in the format of every process (controlplane/host/log_line.py); `name` is the instance's."""

    __slots__ = ("_fd", "_lines", "level")

    def __init__(self, fd: int = STDOUT, name: str = "") -> None:
        self._fd = fd
        self._lines = log_line.Lines(name)
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
        line = self._lines.make(level, kind, fields).encode() + b"\n"
        if len(line) > LINE_BYTES_MAX:
            line = line[: LINE_BYTES_MAX - len(CUT)] + CUT
        try:
            return os.write(self._fd, line) == len(line)
        except OSError:
            return False
