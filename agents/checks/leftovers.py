"""What is left of runs of check scripts, found by a mark in their environment: what moved to a session of its
own, where the end of its process group does not reach it, and whole runs that outlived their agent.

Looking at every process takes some ms: it is done on a thread, and only after a run that did not end well.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

OWNER, RUN = "HFT_CHECK_OF", "HFT_CHECK_RUN"
"""In the environment of each run: whose it is, and which."""
ENVIRON_BYTES_MAX = 65_536


def end(name: str, value: str, proc: Path = Path("/proc")) -> list[int]:
    """SIGKILL what has this in its environment; returns the pids. What cannot be read is not ours."""
    ended, mark = [], f"{name}={value}"
    for pid in _marked(mark, proc):
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if pid in _marked(mark, proc, only=pid):  # the number may be another's by now
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    ended.append(pid)
            finally:
                os.close(pidfd)
    return ended


def _marked(mark: str, proc: Path, only: int | None = None) -> Iterator[int]:
    wanted = mark.encode()
    for entry in [proc / str(only)] if only is not None else list(proc.iterdir()):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError), (entry / "environ").open("rb") as file:
            if wanted in file.read(ENVIRON_BYTES_MAX).split(b"\0"):
                yield int(entry.name)
