"""What each daemon said last, kept in the run folder for the agent's successor.

An agent that starts adopts the daemons that run. Without their last words it would take every one of them out
of discovery until its next status, a second later. `<run>/<instance>.hello.json`; a file that is missing or
damaged costs just that second.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from agents.bus import Reported
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Process


class Saved(msgspec.Struct, frozen=True):
    process: Process
    daemon: str
    version: str
    endpoints: dict[str, str]
    ready: bool
    reason: str


class HelloFiles:
    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._written: dict[str, Saved] = {}

    def save(self, report: Reported) -> bool:
        """Write what discovery rests on; True when that has changed since it was last written."""
        said = report.status
        ready, reason = (said.ready, said.reason) if said else (False, "")
        saved = Saved(report.process, report.daemon, report.version, dict(report.endpoints), ready, reason)
        name = report.process.instance
        before = self._written.get(name)
        if before is not None and _same(before, saved):
            return False
        self._written[name] = saved
        path = self._path(name)
        with contextlib.suppress(OSError):  # a full run folder costs only the next agent's first second
            files.replace(path, msgspec.json.encode(saved), Durability.CRASH)
        return True

    def read(self, instance: str) -> Saved | None:
        try:
            return msgspec.json.decode(self._path(instance).read_bytes(), type=Saved)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _path(self, instance: str) -> Path:
        return self._run_dir / f"{instance}.hello.json"


def _same(one: Saved, other: Saved) -> bool:
    """The reason of not being ready is no news for discovery."""
    return (one.process, one.endpoints, one.ready) == (other.process, other.endpoints, other.ready)
