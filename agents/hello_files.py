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
from controlplane import model
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
    link: str = ""
    """The identity of its connection, in hex; "" in the file of an older release."""


class HelloFiles:
    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._written: dict[str, Saved] = {}

    def save(self, report: Reported) -> bool:
        """Write what discovery rests on; True when that has changed since it was last written."""
        said = report.status
        ready, reason = (said.ready, said.reason) if said else (False, "")
        endpoints, link = dict(report.endpoints), report.link.hex()
        saved = Saved(report.process, report.daemon, report.version, endpoints, ready, reason, link)
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
            return model.decode(Saved, self._path(instance).read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def _path(self, instance: str) -> Path:
        return self._run_dir / f"{instance}.hello.json"


def link_of(saved: Saved) -> bytes:
    """Identities of an older release's daemons are their instance ids."""
    with contextlib.suppress(ValueError):
        if saved.link:
            return bytes.fromhex(saved.link)
    return saved.process.instance.encode()


def _same(one: Saved, other: Saved) -> bool:
    """The reason of not being ready is no news for discovery."""
    return (one.process, one.endpoints, one.ready, one.link) == (
        other.process, other.endpoints, other.ready, other.link,
    )  # fmt: skip
