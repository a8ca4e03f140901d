"""How soon the scheduler lets a woken process in, without any privilege: the request size of EEVDF (Linux
6.12 and newer).

A process with a short slice gets an early virtual deadline and preempts those with a longer one when it
wakes; over time it gets no more of the CPU than they do. So what waits for a tick asks for a short one, and
what only works (an interpreter that imports, an agent's housekeeping) for a long one (ADR 0020). Before 6.12
the kernel ignores it. See sched_setattr(2) and Documentation/scheduler/sched-eevdf.rst. On a core of
its own, or under SCHED_FIFO, it changes nothing.
"""

from __future__ import annotations

import ctypes
import os

SHORT_NS = 1_000_000
"""Below the default, so that a tick comes before housekeeping; long enough that a sender finishes a burst
before those that it wakes preempt it."""
DEFAULT_NS = 0
"""What the kernel gives without being asked."""
LONG_NS = 20_000_000
"""Several times the default (some 3 ms); the kernel takes up to 100 ms, but an agent still answers
`hftctl`."""

_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(os.uname().machine)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def ask(slice_ns: int, pid: int = 0) -> bool:
    """Ask for this slice for one thread (0: the caller's; children inherit it). False when the kernel
    refuses, or it runs under another policy.
    """
    if _SYS_SCHED_SETATTR is None:
        return False
    try:
        if os.sched_getscheduler(pid) != os.SCHED_OTHER:
            return False
        nice = os.getpriority(os.PRIO_PROCESS, pid)
    except ProcessLookupError:
        return False
    attributes = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    failed: int = ctypes.CDLL(None).syscall(_SYS_SCHED_SETATTR, pid, ctypes.byref(attributes), 0)
    return failed == 0
