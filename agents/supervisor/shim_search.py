"""Shims that run, found by the kernel's word, for an agent whose state files of them are damaged or gone (the
whole run folder may be): a daemon that is not found would be started a second time beside itself.

A shim's command line is its plan (shim.py), so it names instance, lock and spec; its eldest child is the
daemon (others are what the daemon has left behind). Only processes of this user that keep a lock of this
site folder are believed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents import paths
from controlplane.host import identity

SCRIPT = "shim.pyc"
REVISIONS = ("spec_revision", "config_revision")
"""In the plan of an earlier release `config_revision` alone, which is the spec's (runner.ShimState)."""


def running(folders: paths.Paths) -> Iterator[dict[str, Any]]:
    """Of each shim of this host with a living daemon, what its state file would say (runner.ShimState)."""
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    parents = {pid: parent for pid in processes if (parent := _parent(pid))}
    for pid in processes:
        plan = _plan(pid)
        if plan is None or plan.get("lock") != str(folders.lock(plan.get("instance", ""))):
            continue
        children = [child for child, parent in parents.items() if parent == pid]
        born = {child: started for child in children if (started := identity.start_time(child)) is not None}
        state = _state(plan, pid, min(born, key=lambda child: (born[child], child))) if born else None
        if state is not None:
            yield state


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None


def _plan(pid: int) -> dict[str, str] | None:
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, ValueError, IndexError):
        if folder.stat().st_uid != os.geteuid():
            return None
        arguments = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
        if arguments[1:3] == ["-I", "-S"] and Path(arguments[3]).name == SCRIPT:
            return dict(each.split("=", 1) for each in arguments[4 : arguments.index("--")])
    return None


def _state(plan: dict[str, str], shim_pid: int, daemon_pid: int) -> dict[str, Any] | None:
    shim, daemon = identity.start_time(shim_pid), identity.start_time(daemon_pid)
    if shim is None or daemon is None:
        return None
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - daemon / os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(KeyError, ValueError):
        return {
            **{name: plan[name] for name in ("instance", "service", "host", "spec_hash")},
            **{name: int(plan[name]) for name in REVISIONS if name in plan},
            "restarts": int(plan["restarts"]),
            "crashes": int(plan.get("crashes", "0")),
            "boot_id": identity.boot_id(),
            "started_ns": time.time_ns() - int(age_s * 1e9),
            "shim": {"pid": shim_pid, "start_time": shim},
            "daemon": {"pid": daemon_pid, "start_time": daemon},
        }
    return None
