"""The scheduling policy that a service's spec asks for (HFT_SCHED), taken by the daemon itself when it begins
to wait for ticks; under a real-time one its memory stays in RAM too.

Not by its parent: an interpreter that imports and reads a journal for half a second under SCHED_FIFO
keeps keeper and store off its core, just when a leader has died and they need a millisecond each.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from controlplane.model.specs import REAL_TIME

POLICIES = {
    "other": os.SCHED_OTHER,
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
"""mlockall(2). On fault: what is mapped and never touched takes no memory."""


def take(policy: str) -> str:
    """`POLICY[:PRIORITY]` for all threads of this process, and those that they start; why something was left
    out, or "".
    """
    name, _, priority = policy.partition(":")
    if name not in POLICIES or not (priority or "1").isdecimal():
        return f"sched {policy}: no such policy or priority"
    if name == "other":
        return ""  # as it is, with the slice that was asked for
    try:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(
                int(thread.name),
                POLICIES[name],
                os.sched_param(int(priority or 1) if name in REAL_TIME else 0),
            )
    except OSError as exc:
        return f"sched {policy}: {exc.strerror}"
    return _lock_memory() if name in REAL_TIME else ""


def _lock_memory() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return ""
    return f"locked memory: {os.strerror(ctypes.get_errno())}"
