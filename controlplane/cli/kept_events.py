"""The events that a floor which is down has left, read from its files as its agents would tell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from controlplane.floor.folders import Folders
from controlplane.site import event_stream, look

BYTES_MAX = 16 << 20
"""Of the end of each host's events: all that is kept."""
SHOWN = ("n", "host", "kind", "fields")


def events(folders: Folders, after: str = "") -> list[dict[str, Any]]:
    """Of all hosts, oldest first, as an agent tells them; `after`: the cursor that the reader has come to.
    What is no event is left out.
    """
    return [
        {"at": look.iso(event_stream.time_ns(row)), **{key: row[key] for key in SHOWN}}
        for row in _rows(folders, after)
    ]


def _rows(folders: Folders, after: str = "") -> list[event_stream.Row]:
    parts = {}
    for path in sorted(folders.hosts.glob("*/events.jsonl")):
        lines = _lines(path.with_name(f"{path.name}.1")) + _lines(path)
        parts[path.parent.name] = [row for row in map(_row, lines) if row is not None]
    return [row for _, row in event_stream.ordered(_behind(parts, after))]


def _behind(parts: dict[str, list[event_stream.Row]], after: str) -> dict[str, list[event_stream.Row]]:
    if not after:
        return parts
    if after.isdecimal():  # an agent of an older release gave a time
        return {
            host: [row for row in rows if event_stream.time_ns(row) > int(after)]
            for host, rows in parts.items()
        }
    places = event_stream.positions(after)
    return {
        host: event_stream.behind(rows, host, places[host])
        if host in places
        else event_stream.latest_run(rows)
        for host, rows in parts.items()
    }


def _lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - BYTES_MAX))
            return file.read().splitlines()
    except OSError:
        return []


def _row(line: bytes) -> event_stream.Row | None:
    try:
        told = json.loads(line)
        row: event_stream.Row = {
            "n": int(told["n"]),
            "host": str(told["host"]),
            "kind": str(told["kind"]),
            "fields": dict(told["fields"]),
            "at_ns": int(told.get("at_ns", 0)),
            "run": str(told.get("run", "")),
        }
        if not 0 < row["n"] <= event_stream.NUMBER_MAX:
            return None
        look.iso(event_stream.time_ns(row))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        return None
    return row


def history(folders: Folders, service: str) -> list[dict[str, Any]]:
    """Rows of `hftctl history`, from the events: each change of leader that was finished."""
    rows = []
    for event in _rows(folders):
        fields = event["fields"]
        if event["kind"] == "leader.changed" and fields.get("service") == service:
            row = {
                key: fields.get(key) for key in ("epoch", "from", "to", "cause", "took_ms", "actor", "reason")
            }
            took_ns = int(float(fields.get("took_ms") or 0) * 1e6)
            rows.append({"at": look.iso(event_stream.time_ns(event) - took_ns), **row})
    return rows
