"""Who a process is for certain: boot id, pid and start time. Light on purpose: no record type, no decoder;
`hftctl down` and every start need it.

The same rule (R2) as hftd/native/process.py, which gives the store's `Process`; this one is for what hftctl
and hft-floord keep in files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class Known(NamedTuple):
    name: str
    pid: int
    start_time: int
    boot_id: str

    @property
    def plain(self) -> dict[str, Any]:
        return self._asdict()


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks since boot, or None when there is no such process (a zombie counts as none)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def identify(name: str, pid: int) -> Known | None:
    started = start_time(pid)
    return None if started is None else Known(name, pid, started, boot_id())


def runs(known: Known) -> bool:
    return known.boot_id == boot_id() and start_time(known.pid) == known.start_time


def from_plain(found: Any, name: str = "") -> Known | None:
    """A process as some file recorded it; None when the record is not one."""
    try:
        return Known(
            str(found.get("name", name)), int(found["pid"]), int(found["start_time"]), str(found["boot_id"])
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
