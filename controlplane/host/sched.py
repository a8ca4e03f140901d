"""What the operating system lets this process have."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from pathlib import Path

LEASE_PRIORITY = 2
"""SCHED_FIFO priority of what a lease lives on, the keepers and the store that a floor brings along: one
above the daemons (1). Daemons that want more than the machine has then come late, but lead on (ADR 0020)."""


@functools.cache
def may_be_real_time() -> bool:
    """SCHED_FIFO, tried in a thread that ends with it: capabilities, RLIMIT_RTPRIO, containers and cgroups
    all have a say, and root is not enough.
    """
    taken: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # 0: this thread alone
            taken.append(True)

    thread = threading.Thread(target=attempt, name="real time?")
    thread.start()
    thread.join()
    return bool(taken)


def make_real_time(pid: int, priority: int) -> bool:
    """SCHED_FIFO for all threads of another process and those that they start; False where that is not
    permitted, or it is gone.

    A thread that is started meanwhile by one that was not reached yet is met in the next pass.
    """
    reached: set[str] = set()
    try:
        while new := {thread.name for thread in Path(f"/proc/{pid}/task").iterdir()} - reached:
            for thread in new:
                with contextlib.suppress(ProcessLookupError):  # a thread that has ended
                    os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(priority))
            reached |= new
    except OSError:
        return False
    return bool(reached)
