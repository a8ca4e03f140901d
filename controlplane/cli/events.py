"""`hftctl events [-f]`: what happened on the floor: starts, deaths, hand-overs, alarms, operations, with the
reason.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from controlplane.cli import agent_client, render
from controlplane.cli.declare import Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable

FOLLOW_EVERY_S = 0.25


def events(
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    lines: Annotated[
        int, Option("--lines", "-n", min=1, max=10_000, help="How many of the last events.")
    ] = 50,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Events of the site, oldest first."""
    floor = agent_client.Floor(site_dir, timeout)
    found = floor.get(f"/v1/site/events?limit={lines}")
    if not follow:
        if output is Output.table:
            for event in found:
                render.say(line(event))
        else:
            render.show(found, output)
        return
    after = 0
    while True:
        for event in found:
            render.say(line(event) if output is Output.table else render.json_text(event))
            after = event["n"]
        time.sleep(FOLLOW_EVERY_S)
        try:
            found = floor.get(f"/v1/site/events?limit=1000&after={after}")
        except FloorUnreachable:
            found = []  # agents restart; the position is still good


def line(event: dict[str, Any]) -> str:
    fields = (
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in event["fields"].items()
        if value not in (None, "")
    )
    return " ".join((event["at"], event["host"], event["kind"], *fields))
