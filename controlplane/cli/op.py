"""`hftctl op list|show|watch`: every change that an operator or the system set out to make: what, by whom,
why, its steps and how it ended.

Asked of an agent, which has them from the store; `--archived` reads the older ones too, from the files to
which the elected controller has moved them (controlplane/operations/archive.py). What still runs is `running`
for however long: nobody calls it failed before it is known to be. Exit codes of show and watch ID: 0
succeeded or running, 1 refused, failed or cancelled, 2 no such operation, 4 unknown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, render, source, stderr
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.cli.options import (
    ASK_TIMEOUT_S,
    AskTimeoutOption,
    Output,
    OutputOption,
    SiteDirOption,
    SiteOption,
)
from controlplane.errors import FloorUnreachable, InvalidInput
from controlplane.floor import folders
from controlplane.site import look

WATCH_EVERY_S = 0.25
COLUMNS = ("created_at", "id", "subject", "state", "took_ms", "actor", "reason")
LISTED = ("id", "kind", "subject", "state", "actor", "reason", "created_at", "finished_at")
STATES = ("running", "succeeded", "refused", "failed", "unknown", "cancelled")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
FOLDER, PATTERN = "operations", "operations-*.jsonl"
"""As operations/archive.py has them, which a verb does not import."""

KindOption = Annotated[Optional[str], Option("--kind", help="Only of this kind: apply, failover ...")]
StateOption = Annotated[Optional[str], Option("--state", help=f"Only in this state: {', '.join(STATES)}.")]
ActorOption = Annotated[Optional[str], Option("--actor", help="Only of this user, or of system.")]
SinceOption = Annotated[
    Optional[str], Option("--since", help="Only those begun since: 30s, 10m, 2h, 7d ago, or a time in UTC.")
]


def list_(
    kind: KindOption = None,
    state: StateOption = None,
    actor: ActorOption = None,
    since: SinceOption = None,
    archived: Annotated[
        bool, Option("--archived", help="Those too that have left the store for the archive.")
    ] = False,
    lines: Annotated[int, Option("--lines", "-n", min=1, max=1_000_000, help="How many of the last.")] = 50,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> None:
    """Operations, oldest first. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    wanted = filter_of(kind, state, actor, since)
    found = [row for row in known(site_dir, timeout, site, archived=archived) if passes(row, wanted)][-lines:]
    if output is Output.table:
        render.show(found, output, COLUMNS)
    else:
        render.show([{name: row.get(name) for name in LISTED} for row in found], output)


def show(
    operation: Annotated[str, Argument(help="Id of an operation.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> int:
    """One operation with its steps and how long each took. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    row = one(known(site_dir, timeout, site, archived=True), operation)
    if output is Output.table:
        render.say(text(row))
    else:
        render.show(row, output)
    return code_of(row)


def watch(
    operation: Annotated[Optional[str], Argument(help="Id of an operation; all of them if left out.")] = None,
    kind: KindOption = None,
    state: StateOption = None,
    actor: ActorOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """A line for each operation that begins or ends, or for each step of one until it ends."""
    floor = source.floor(site_dir, timeout)
    wanted = filter_of(kind, state, actor, None)
    said: dict[str, Any] = {}
    first = True
    while True:
        try:
            found: list[dict[str, Any]] = floor.operations()
        except FloorUnreachable:
            from controlplane.cli import kept

            if first:
                raise
            if end := kept.ended(floor):
                stderr.say(end[0])
                return end[1]
            time.sleep(WATCH_EVERY_S)
            continue  # agents restart
        if operation is not None:
            row = one(found, operation) if first else next((r for r in found if r["id"] == operation), None)
            if row is None:
                raise InvalidInput(f'operation "{operation}": it has left the store (hftctl op show)')
            say_steps(row, said, output)
            if row["state"] != "running":
                if output is Output.table:
                    render.say(ending(row))
                return code_of(row)
        for row in found if operation is None else ():
            stands = (row["state"], row["finished_at"])
            new, said[row["id"]] = said.get(row["id"]) != stands, stands
            if new and passes(row, wanted) and not (first and row["state"] != "running"):
                render.say(line(row) if output is Output.table else render.json_text(row))
        first = False
        time.sleep(WATCH_EVERY_S)


# --- which --------------------------------------------------------------------------------------------------


def known(site_dir: Path | None, timeout_s: float, site: str, *, archived: bool) -> list[dict[str, Any]]:
    """Oldest first, each once.

    Raises:
        FloorUnreachable: neither agent nor store answers, and there is no archive that was asked for either.
    """
    floor = folders.Folders(site_dir or folders.default_site_dir())
    floor.require_ours()
    old = {row["id"]: row for row in of_archive(floor.site_dir / FOLDER)} if archived else {}
    try:
        new = source.ask(site_dir, timeout_s, site, lambda known: known.operations())
    except FloorUnreachable:
        if not old:
            raise
        new = []
    old.update((row["id"], row) for row in new)  # of one that is in both, the store is right
    return sorted(old.values(), key=lambda row: (row["created_at"], row["id"]))


def of_archive(folder: Path) -> Iterator[dict[str, Any]]:
    """As the agents tell them, oldest file first. A line that is none (of a disk that filled up) is passed
    over.
    """
    for path in sorted(folder.glob(PATTERN)):
        with path.open("rb") as lines:
            for content in lines:
                try:
                    record = json.loads(content)
                    yield of_record(record)
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                    continue


def of_record(record: dict[str, Any]) -> dict[str, Any]:
    """Of a line of the archive, which is a record as the store had it (operations/shown.py says the same)."""
    return {
        **{name: str(record[name]) for name in ("id", "kind", "subject", "state", "actor", "reason")},
        **_times("created", record["created_ns"], record["finished_ns"]),
        "outcome": str(record.get("outcome", "")),
        "steps": [
            {
                "name": str(step["name"]),
                "state": str(step["state"]),
                **_times("started", step["started_ns"], step["finished_ns"]),
                "detail": str(step.get("detail", "")),
            }
            for step in record.get("steps", ())
        ],
    }


def _times(begin: str, began_ns: int, ended_ns: int | None) -> dict[str, Any]:
    return {
        f"{begin}_at": look.iso(began_ns),
        "finished_at": None if ended_ns is None else look.iso(ended_ns),
        "took_ms": None if ended_ns is None else round(max(0, ended_ns - began_ns) / 1e6, 1),
    }


def filter_of(kind: str | None, state: str | None, actor: str | None, since: str | None) -> dict[str, str]:
    """Raises InvalidInput: a state that there is not, or a time that is none."""
    if state is not None and state not in STATES:
        raise InvalidInput(f'--state: found "{state}", wanted one of {", ".join(STATES)}')
    given = {"kind": kind, "state": state, "actor": actor}
    found = {name: value for name, value in given.items() if value is not None}
    return found | ({"since": since_at(since, time.time_ns())} if since else {})


def passes(row: dict[str, Any], wanted: dict[str, str]) -> bool:
    return all(
        row["created_at"] >= value if name == "since" else row[name] == value
        for name, value in wanted.items()
    )


def since_at(text: str, now_ns: int) -> str:
    """As `created_at` says times. Raises InvalidInput."""
    number, unit = text[:-1], text[-1:]
    if unit in UNITS_S and number.isdecimal() and len(number) < 10:
        return look.iso(max(0, now_ns - int(number) * UNITS_S[unit] * 1_000_000_000))
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            time.strptime(text.removesuffix("Z").partition(".")[0], form)
        except ValueError:
            continue
        return text.removesuffix("Z")
    raise InvalidInput(f'--since: found "{text}", wanted 30s, 10m, 2h, 7d or a time such as 2026-01-31T09:30')


def one(found: list[dict[str, Any]], operation: str) -> dict[str, Any]:
    """Raises InvalidInput: there is none of that id."""
    for row in found:
        if row["id"] == operation:
            return row
    raise InvalidInput(f'operation "{operation}": neither in the store nor archived here (hftctl op list)')


def code_of(row: dict[str, Any]) -> int:
    return 0 if row["state"] == "running" else agent_client.EXIT_CODES.get(row["state"], 1)


# --- in words -----------------------------------------------------------------------------------------------


def text(row: dict[str, Any]) -> str:
    lines = [
        f"{row['id']}: {row['kind']} of {row['subject']}",
        f"  by {row['actor']} at {row['created_at']}: {row['reason']}",
        f"  {ending(row)}",
    ]
    lines += [f"  {step_line(step)}" for step in row["steps"]]
    return "\n".join(lines)


def ending(row: dict[str, Any]) -> str:
    if row["state"] == "running":
        return "running"
    why = f": {row['outcome']}" if row["outcome"] else ""
    return f"{row['state']} at {row['finished_at']} after {row['took_ms']} ms{why}"


def line(row: dict[str, Any]) -> str:
    at = row["finished_at"] or row["created_at"]
    why = row["outcome"] or row["reason"]
    return f"{at} {row['id']} {row['kind']} of {row['subject']}: {row['state']} (by {row['actor']}: {why})"


def step_line(step: dict[str, Any]) -> str:
    took = "" if step["took_ms"] is None else f" in {step['took_ms']} ms"
    why = f": {step['detail']}" if step["detail"] else ""
    return f"{step['started_at']} {step['name']}: {step['state']}{took}{why}"


def say_steps(row: dict[str, Any], said: dict[str, Any], output: Output) -> None:
    """Those that are new or have ended since."""
    if output is not Output.table:
        if said.get("row") != row:
            said["row"] = row
            render.say(render.json_text(row))
        return
    for number, step in enumerate(row["steps"]):
        if said.get(str(number)) != step["state"]:
            said[str(number)] = step["state"]
            render.say(step_line(step))


op = Noun(
    "Operations: what was changed, by whom, why, and how it went.",
    {"list": list_, "show": show, "watch": watch},
)
