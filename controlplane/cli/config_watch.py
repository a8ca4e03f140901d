"""`hftctl config watch`: a line for each changed value as it comes: time, what, path, old -> new, who, why.

An agent is asked four times a second; what changes in between is told revision by revision, as a service
keeps its revisions. A plain key that is set twice in between is told once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from controlplane.cli import agent_client, config_ask, config_text, render
from controlplane.cli.output import Output
from controlplane.errors import InvalidInput
from controlplane.site import look

LOOK_EVERY_S = 0.25
Row = dict[str, Any]


def watch(floor: agent_client.Floor, service: str | None, key: str | None, output: Output) -> int:
    """Until Ctrl-C, or the floor has ended; then the exit code for how it did. Both None: everything.

    Raises:
        InvalidInput: no such service. FloorUnreachable: no agent answers at the start.
    """
    if service is not None:
        config_ask.service(floor, service)
    told = Told(floor, service, key, output)
    return config_ask.until_over(floor, told.look, LOOK_EVERY_S)


class Told:
    """What has been said already."""

    def __init__(
        self, floor: agent_client.Floor, service: str | None, key: str | None, output: Output
    ) -> None:
        self._floor, self._service, self._key, self._output = floor, service, key, output
        self._revisions: dict[str, int] | None = None
        self._rollouts: dict[str, str] = {}
        self._keys: dict[str, Row] | None = None

    def look(self) -> None:
        """Raises FloorUnreachable: then nothing of it counts as said."""
        if self._key is None:
            self._look_at_services()
        if self._service is None:
            self._look_at_keys()

    def _look_at_services(self) -> None:
        rows = self._floor.get("/v1/site/config")["services"]
        found = {row["service"]: row for row in rows if self._service in (None, row["service"])}
        first, before = self._revisions is None, self._revisions or {}
        lines: list[Row] = []
        for name, row in found.items():
            if not first and row["revision"] != before.get(name, 0):
                lines += self._changes_of(name, before.get(name, 0), row["revision"])
            under_way = row["rollout"]
            if under_way and not first and self._rollouts.get(name) != under_way["operation"]:
                lines.append(_begun(name, row))
        self._revisions = {name: row["revision"] for name, row in found.items()}
        self._rollouts = {name: row["rollout"]["operation"] for name, row in found.items() if row["rollout"]}
        self._say(lines)

    def _changes_of(self, name: str, old: int, new: int) -> list[Row]:
        """Of the revisions after `old`, but for those of rollouts that were taken back."""
        try:
            rows = config_ask.history(self._floor, name)
        except InvalidInput:  # the service was removed while we looked
            return []
        made = [row for row in rows if old < row["revision"] <= new and not row["taken_back"]]
        heads = ("at", "revision", "actor", "reason")
        return [
            {"service": name, **{field: row[field] for field in heads}, **each}
            for row in made
            for each in row["changes"] or ()
        ]

    def _look_at_keys(self) -> None:
        rows = self._floor.get("/v1/site/keys")["keys"]
        found = {row["key"]: row for row in rows if self._key in (None, row["key"])}
        before = self._keys
        self._keys = found
        if before is None:
            return
        lines = [
            _of_key(name, before.get(name), found.get(name))
            for name in sorted({*before, *found})
            if before.get(name) != found.get(name)
        ]
        self._say(lines)

    def _say(self, lines: list[Row]) -> None:
        for row in lines:
            render.say(line(row) if self._output is Output.table else render.json_text(row))


def _begun(name: str, row: Mapping[str, Any]) -> Row:
    under_way = row["rollout"]
    return {
        "at": under_way["began_at"],
        "service": name,
        "revision": under_way["revision"],
        "rollout": under_way["operation"],
        "actor": under_way["actor"],
        "reason": under_way["reason"],
    }


def _of_key(name: str, old: Row | None, new: Row | None) -> Row:
    """Of a key that is gone nobody is named: its operation has who deleted it."""
    gone = "its time is over" if old is not None and old["ttl_s"] is not None else "deleted (hftctl op list)"
    now = look.iso(time.time_ns())
    return {
        "at": (new["at"] if new is not None else None) or now,
        "key": name,
        "old": old["value"] if old is not None else None,
        "new": new["value"] if new is not None else None,
        "actor": new["actor"] if new is not None else "",
        "reason": new["reason"] if new is not None else gone,
    }


def line(row: Mapping[str, Any]) -> str:
    who = f"(by {row['actor'] or '-'}: {row['reason']})"
    if "rollout" in row:
        return f"{row['at']} {row['service']} rollout of revision {row['revision']}, {row['rollout']} {who}"
    values = f"{config_text.shown(row['old'])} -> {config_text.shown(row['new'])}"
    if "key" in row:
        return f"{row['at']} /{row['key']} {values} {who}"
    return f"{row['at']} {row['service']} revision {row['revision']} {row['path']}: {values} {who}"
