"""What a floor that is down has left in its site folder: events and logs, for `events`, `history` and `logs`,
which ask an agent while there is one. Who looks why a floor went down looks when it is down.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane.cli import agent_client
from controlplane.floor.folders import Folders
from controlplane.site import look

BYTES_MAX = 16 << 20
"""Of the end of each host's events: all that is kept."""
DIED = 3
SETTLE_S = 1.0
"""A `down` that is about to be through removes floor.json within it."""


def events(folders: Folders, after: int = 0) -> list[dict[str, Any]]:
    """Of all hosts, oldest first, as an agent tells them. What is no event is left out."""
    found = []
    for path in sorted(folders.hosts.glob("*/events.jsonl")):
        for part in (path.with_name(f"{path.name}.1"), path):
            found += [event for event in map(_event, _lines(part)) if event is not None]
    found.sort(key=lambda event: event["n"])
    return [event for event in found if event["n"] > after]


def _lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - BYTES_MAX))
            return file.read().splitlines()
    except OSError:
        return []


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
        n, host, kind = int(told["n"]), str(told["host"]), str(told["kind"])
        return {"n": n, "at": look.iso(n), "host": host, "kind": kind, "fields": dict(told["fields"])}
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None


def history(folders: Folders, service: str) -> list[dict[str, Any]]:
    """Rows of `hftctl history`, from the events: each change of leader that was finished."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events(folders):
        fields = event["fields"]
        if event["kind"] == "leader.changed" and fields.get("service") == service:
            row = {
                key: fields.get(key) for key in ("epoch", "from", "to", "cause", "took_ms", "actor", "reason")
            }
            took_ns = int(float(fields.get("took_ms") or 0) * 1e6)
            rows[event["n"]] = {"at": look.iso(event["n"] - took_ns), **row}
    return [rows[n] for n in sorted(rows)]


def log(folders: Folders, name: str) -> Path | None:
    """The log of an instance or of a process of the floor."""
    path = folders.log(name)
    return path if "/" not in name and path.is_file() else None


def log_after(folders: Folders, name: str, offset: str) -> bytes:
    """The rest of a log, from where the last answer about it ended."""
    from controlplane.host import log_reading  # here: `events` has no use for it

    path, place = log(folders, name), log_reading.place(offset)
    found = b""
    with contextlib.suppress(OSError):
        while path is not None and place is not None:
            part = log_reading.after(path, place)
            if not part.content:
                break
            found, place = found + part.content, part.next
    return found


def log_names(folders: Folders) -> Iterator[str]:
    return (path.stem for path in sorted(folders.logs.glob("*.log")))


def ended(floor: agent_client.Floor) -> tuple[str, int] | None:
    """What became of a floor whose agents do not answer, and the exit code for it; None: it goes on, or is
    about to.
    """
    found = floor.folders.running()
    if found is None:
        return f"the floor in {floor.folders.site_dir} was taken down", 0
    from controlplane.host import identity  # here: most verbs never come to it

    recorded = {"hft-floord": found.get("floord"), **(found.get("processes") or {})}
    known = {name: identity.from_plain(record, name) for name, record in recorded.items()}
    if any(process is not None and identity.runs(process) for process in known.values()):
        return None
    time.sleep(SETTLE_S)
    if floor.folders.running() is None:
        return ended(floor)
    return (
        f"the floor in {floor.folders.site_dir} has ended and was not taken down: {', '.join(known)} are "
        "gone (hftctl up starts it again)"
    ), DIED
