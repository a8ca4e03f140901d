"""This machine: room on its disks, descriptors, and what the kernel lets this user have."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from controlplane.doctor.finding import Finding

ROOM_WARNING, ROOM_CRITICAL = 2 << 30, 256 << 20
"""Bytes that are free; a day's journals and logs of a busy floor are some 10 GB."""
OPEN_FILES_LEAST = 4096
"""An agent with a hundred instances has some thousand."""
MEMLOCK_LEAST = 256 << 20
THREADS_LEAST = 4096


def look(places: Mapping[str, Path]) -> list[Finding]:
    """`places`: what lies there -> its folder."""
    return [*of_disks(places), *of_limits()]


def of_disks(places: Mapping[str, Path]) -> Iterator[Finding]:
    for what, path in places.items():
        try:
            found = shutil.disk_usage(path)
            inodes = os.statvfs(path)
        except OSError as exc:
            yield Finding("disk.room", "info", str(path), f"{what}: {exc.strerror}")
            continue
        free = found.free
        severity = "critical" if free < ROOM_CRITICAL else "warning" if free < ROOM_WARNING else "ok"
        yield Finding(
            "disk.room",
            severity,
            str(path),
            f"{what}: {free / 1e9:.1f} GB of {found.total / 1e9:.1f} are free",
            "" if severity == "ok" else f"{ROOM_WARNING / 1e9:.0f} GB",
            "" if severity == "ok" else f"make room: du -xh --max-depth=2 {path} | sort -h | tail",
        )
        if inodes.f_files and inodes.f_favail < inodes.f_files // 100:
            yield Finding(
                "disk.inodes", "warning", str(path), f"{what}: {inodes.f_favail} files may be made", "more"
            )


def of_limits() -> Iterator[Finding]:
    for id, number, least, what, remedy in (
        ("limit.open_files", resource.RLIMIT_NOFILE, OPEN_FILES_LEAST, "open files", "ulimit -n"),
        (
            "limit.locked_memory",
            resource.RLIMIT_MEMLOCK,
            MEMLOCK_LEAST,
            "bytes of locked memory",
            "ulimit -l",
        ),
        ("limit.processes", resource.RLIMIT_NPROC, THREADS_LEAST, "processes and threads", "ulimit -u"),
    ):
        soft, hard = resource.getrlimit(number)
        enough = soft in (-1, resource.RLIM_INFINITY) or soft >= least
        may = "the hard limit allows more" if hard == -1 or hard > soft else "as is the hard limit"
        yield Finding(
            id,
            "ok" if enough else "warning",
            f"user {os.geteuid()}",
            f"{'no limit to' if soft == -1 else f'at most {soft}'} {what}" + ("" if enough else f"; {may}"),
            "" if enough else f"{least} or more",
            "" if enough else f"{remedy}, or LimitNOFILE= and the like in the unit, limits.conf(5)",
        )
    yield from of_kernel(Path("/proc/sys"))


def of_kernel(root: Path) -> Iterator[Finding]:
    """`root`: /proc/sys, or a copy of it."""
    runtime = _number(root / "kernel/sched_rt_runtime_us")
    period = _number(root / "kernel/sched_rt_period_us")
    if runtime is not None and period and 0 <= runtime < period * 0.9:
        yield Finding(
            "kernel.rt_runtime",
            "warning",
            "kernel.sched_rt_runtime_us",
            f"{runtime} of {period} us: real-time daemons are stopped for the rest",
            "950000 or -1",
            "sysctl kernel.sched_rt_runtime_us=950000",
        )
    pids = _number(root / "kernel/pid_max")
    if pids is not None and pids < 32_768:
        yield Finding(
            "kernel.pid_max",
            "warning",
            "kernel.pid_max",
            str(pids),
            "32768 or more",
            "sysctl kernel.pid_max=4194304",
        )
    swappiness = _number(root / "vm/swappiness")
    if swappiness is not None and swappiness > 10:
        yield Finding(
            "kernel.swappiness",
            "info",
            "vm.swappiness",
            f"{swappiness}: daemons that may not lock their memory can be paged out",
            "10 or less",
            "sysctl vm.swappiness=1",
        )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
