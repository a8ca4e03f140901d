"""Shims that run, found by the kernel's word, for an agent whose state files of them are damaged or gone: a
daemon that is not found would be started a second time beside itself.

A shim's command line is its plan (shim.py), so it names instance, state file and spec; its eldest child is
the daemon (others are what the daemon has left behind). Only processes of this user, running the run folder's
own shim, are believed. A daemon that has outlived its shim is known by its heartbeat page, which names it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane.errors import InvalidInput
from controlplane.host import identity
from hftd.shm import pages


def running(run_dir: Path, host: str) -> Iterator[dict[str, Any]]:
    """Of each shim of this host with a living daemon, what its state file would say (runner.ShimState)."""
    script = str(run_dir / "shim.pyc")
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {pid: parent for pid in processes if (parent := _parent(pid))}
    for pid in processes:
        plan = _plan(pid, script)
        if plan is None or plan.get("host") != host or Path(plan.get("state", "")).parent != run_dir:
            continue
        children = [child for child, parent in parents.items() if parent == pid]
        born = {child: started for child in children if (started := identity.start_time(child)) is not None}
        state = _state(plan, pid, min(born, key=lambda child: (born[child], child))) if born else None
        if state is not None:
            yield state


def orphans(run_dir: Path, host: str) -> Iterator[dict[str, Any]]:
    """Of each daemon of this host that its heartbeat page names and that runs, what its shim's state file
    would say; the shim in it is none that runs.
    """
    for path in sorted(run_dir.glob("*.alive")):
        instance = path.name.removesuffix(".alive")
        service, of_host, _ = instance.rpartition(f"-{host}-")
        with contextlib.suppress(OSError, ValueError, InvalidInput):
            with pages.HeartbeatPage(path) as page:
                alive = page.read()
            born = identity.start_time(alive.pid)
            if not of_host or not alive.pid or born is None or born != alive.start_time:
                continue
            if Path(f"/proc/{alive.pid}").stat().st_uid != os.geteuid():
                continue
            plan = {"instance": instance, "service": service, "host": host, "spec_hash": ""}
            yield {
                **plan,
                "config_revision": 0,
                "restarts": 0,
                "boot_id": identity.boot_id(),
                "started_ns": _started_ns(born),
                "shim": {"pid": alive.pid, "start_time": 0},
                "daemon": {"pid": alive.pid, "start_time": born},
            }


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None


def _plan(pid: int, script: str) -> dict[str, str] | None:
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, ValueError):
        if folder.stat().st_uid != os.geteuid():
            return None
        arguments = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
        if arguments[1:4] == ["-I", "-S", script]:
            return dict(each.split("=", 1) for each in arguments[4 : arguments.index("--")])
    return None


def _state(plan: dict[str, str], shim_pid: int, daemon_pid: int) -> dict[str, Any] | None:
    shim, daemon = identity.start_time(shim_pid), identity.start_time(daemon_pid)
    if shim is None or daemon is None:
        return None
    with contextlib.suppress(KeyError, ValueError):
        return {
            **{name: plan[name] for name in ("instance", "service", "host", "spec_hash")},
            **{name: int(plan[name]) for name in ("config_revision", "restarts")},
            "boot_id": identity.boot_id(),
            "started_ns": _started_ns(daemon),
            "shim": {"pid": shim_pid, "start_time": shim},
            "daemon": {"pid": daemon_pid, "start_time": daemon},
        }
    return None


def _started_ns(start_time: int) -> int:
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - start_time / os.sysconf("SC_CLK_TCK")
    return time.time_ns() - int(age_s * 1e9)
