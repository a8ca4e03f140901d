"""`hftctl events [-f]`: what happened on the floor: starts, deaths, hand-overs, alarms, operations, with the
reason. Of a floor that is down, from its site folder.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from controlplane.cli import agent_client, render, source, stderr
from controlplane.cli.declare import Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable
from controlplane.floor import folders

FOLLOW_EVERY_S = 0.25


def events(
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    lines: Annotated[
        int, Option("--lines", "-n", min=1, max=10_000, help="How many of the last events.")
    ] = 50,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Events of the site, oldest first."""
    try:
        floor = agent_client.Floor(site_dir, timeout)
        found = floor.get(f"/v1/site/events?limit={lines}")
    except FloorUnreachable as exc:
        from controlplane.cli import kept

        found = kept.events(folders.Folders(site_dir or folders.default_site_dir()))[-lines:]
        if not found:
            raise source.elsewhere(exc) from exc
        show(found, output, each=follow)
        stderr.say(f"{exc}; these events are from its files")
        return 0
    show(found, output, each=follow)
    return following(floor, found, output) if follow else 0


def following(floor: agent_client.Floor, found: list[dict[str, Any]], output: Output) -> int:
    """Until the floor has ended; returns the exit code for how it did."""
    after = place(found, "")
    while True:
        time.sleep(FOLLOW_EVERY_S)
        end = None
        try:
            found = floor.get(f"/v1/site/events?limit=1000&after={after}")
        except FloorUnreachable:
            from controlplane.cli import kept

            end = kept.ended(floor)  # else agents restart; the position is still good
            found = kept.events(floor.folders, after) if end else []
        show(found, output, each=True)
        after = place(found, after)
        if end:
            stderr.say(end[0])
            return end[1]


def place(found: list[dict[str, Any]], before: str) -> str:
    """Where to go on: the cursor of the last event, which an agent of an older release has as a number."""
    return str(found[-1].get("cursor") or found[-1]["n"]) if found else before


def show(found: list[dict[str, Any]], output: Output, *, each: bool) -> None:
    """`each`: on a line of its own in JSON too, as others will follow."""
    if output is not Output.table and not each:
        render.show(found, output)
        return
    for event in found:
        render.say(line(event) if output is Output.table else render.json_text(event))


def line(event: dict[str, Any]) -> str:
    fields = (
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in event["fields"].items()
        if value not in (None, "")
    )
    return " ".join((event["at"], event["host"], event["kind"], *fields))
