"""What a floor that is down has left in its site folder: events and logs, for `events`, `history` and `logs`,
which ask an agent while there is one. Who looks why a floor went down looks when it is down.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane.cli import agent_client
from controlplane.floor.folders import Folders

DIED = 3
SETTLE_S = 1.0
"""A `down` that is about to be through removes floor.json within it."""


def events(folders: Folders, after: str = "") -> list[dict[str, Any]]:
    """Of all hosts, oldest first, as an agent tells them; `after`: the cursor that the reader has come to.
    What is no event is left out.
    """
    if not any(folders.hosts.glob("*/events.jsonl")):
        return []
    from controlplane.cli import kept_events  # here: no verb comes to it while a floor runs

    return kept_events.events(folders, after)


def history(folders: Folders, service: str) -> list[dict[str, Any]]:
    """Rows of `hftctl history`, from the events: each change of leader that was finished."""
    if not any(folders.hosts.glob("*/events.jsonl")):
        return []
    from controlplane.cli import kept_events

    return kept_events.history(folders, service)


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
