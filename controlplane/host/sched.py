"""What the operating system lets this process have."""

from __future__ import annotations

import contextlib
import functools
import os
import threading


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
