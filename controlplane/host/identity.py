"""Who a process is for certain: boot id, pid and start time, read from /proc (rule R2). A pid alone comes
back with another meaning.
"""

from __future__ import annotations

import errno
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from controlplane.model import Process

PID_MAX = (1 << 31) - 1
WITHOUT_MEANS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing of what was looked at."""


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat in clock ticks, or None when there is no such process (a zombie counts as
    none), or it cannot be looked at.
    """
    try:
        return _start_time(pid)
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """Raises OSError: whether there is such a process is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError as exc:
        if exc.errno in WITHOUT_MEANS:
            raise
        return None
    fields = stat.rpartition(")")[2].split()  # the name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def identify(instance: str, pid: int | None = None) -> Process | None:
    """The process's identity now, or None when it is gone."""
    pid = os.getpid() if pid is None else pid
    started = start_time(pid)
    return None if started is None else Process(instance, boot_id(), pid, started)


def myself(instance: str) -> Process:
    """The identity of the process that asks."""
    me = identify(instance)
    assert me is not None, "a running process has an identity"
    return me


def runs(process: Process) -> bool:
    """True while exactly this process (not another with its pid, not one of an earlier boot) runs. While that
    cannot be looked at, for want of a descriptor or of memory, its pid decides: who takes a process for dead
    starts another beside it.
    """
    try:
        return process.boot_id == boot_id() and _start_time(process.pid) == process.start_time
    except OSError:
        return os.path.exists(f"/proc/{process.pid}")  # noqa: PTH110  a stat, and no descriptor


def open_pidfd(process: Process) -> int | None:
    """A pidfd of exactly this process, None when it does not run: the pid is free, or that of another process
    or of a thread by now, or no pid at all. Looked at after the pidfd is held: from then on the pid cannot
    change hands. Raises OSError (no descriptors left).
    """
    try:
        fd = os.pidfd_open(process.pid)
    except OverflowError:
        return None
    except OSError as exc:
        if exc.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):  # the last two: a thread, by kernel
            return None
        raise
    if runs(process):
        return fd
    os.close(fd)
    return None


def age_ns(process: Process) -> int:
    """For how long it has run, by the clock that counts from the boot: nobody sets it."""
    ticks = os.sysconf("SC_CLK_TCK")
    return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - process.start_time * 1_000_000_000 // ticks)


def to_plain(process: Process) -> dict[str, Any]:
    """As files of a floor name it."""
    return {
        "name": process.instance,
        "pid": process.pid,
        "start_time": process.start_time,
        "boot_id": process.boot_id,
    }


def from_plain(found: Any, name: str = "") -> Process | None:
    """A process as some file recorded it, by `instance` or `name`; None when the record is not one."""
    try:
        instance = str(found.get("instance", found.get("name", name)))
        known = Process(instance, str(found["boot_id"]), int(found["pid"]), int(found["start_time"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return known if 0 < known.pid <= PID_MAX and known.start_time >= 0 else None
