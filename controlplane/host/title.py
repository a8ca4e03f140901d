"""The name of this process in ps and top, so that nobody kills the wrong one of thirty that are all `python`.

    title.show("hft-agentd alpha@lab", sys.argv[1:])

The short name (top, pgrep) holds 15 bytes. The command line (ps) is written over within the room that it had
at exec, and not a byte beyond: behind it lies the environment, by whose mark a floor knows its processes
(floor/processes.py). Both go through /proc, so nothing has to be loaded for it; where /proc takes neither,
the process keeps the name that it was started with. The shim does the same by hand (supervisor/shim.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

COMM_BYTES_MAX = 15
_ARG_START, _ARG_END = 45, 46
"""Fields 48 and 49 of /proc/PID/stat, counted from the one behind the name."""


def show(title: str, arguments: Sequence[str] = ()) -> None:
    """Be `title`, followed by `arguments`; what does not fit is cut at the end."""
    with contextlib.suppress(OSError):
        _write("/proc/self/comm", os.fsencode(title)[:COMM_BYTES_MAX])
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        if room := end - start:
            words = b"\0".join(os.fsencode(word) for word in (title, *arguments))
            # The last byte stays empty: without it the kernel would read on into the environment.
            _write("/proc/self/mem", words[: room - 1].ljust(room, b"\0"), start)


def _write(path: str, content: bytes, offset: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        os.write(fd, content)
    finally:
        os.close(fd)
