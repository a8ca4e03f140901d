"""`hftctl status`: the whole site at a glance, as one agent sees it. Exit 0 when healthy, else 1."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from controlplane.cli import agent_client, source, status_text, stderr
from controlplane.cli.declare import Option
from controlplane.cli.options import (
    ASK_TIMEOUT_S,
    AskTimeoutOption,
    Output,
    OutputOption,
    SiteDirOption,
    SiteOption,
)
from controlplane.errors import FloorUnreachable

REPEAT_S = 1.0


def status(
    watch: Annotated[bool, Option("--watch", help="Stay and redraw; Ctrl-C ends it.")] = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> int:
    """Hosts, services, leaders, flow and alarms of the site. Where no floor runs, out of the store that
    HFT_STORE_ENDPOINTS names.
    """
    if not watch:
        return status_text.run(site_dir, output, timeout, site)
    if sys.stdout.isatty() and output is Output.table:
        return watching(source.floor(site_dir, timeout))
    return repeating(site_dir, output, timeout, site)


def repeating(site_dir: Path | None, output: Output, timeout_s: float, site: str) -> int:
    """Into a pipe or a file: the whole status anew each second."""
    status_text.run(
        site_dir, output, timeout_s, site
    )  # no floor now: the line and the exit code of plain `status`
    while True:
        sys.stdout.flush()
        time.sleep(REPEAT_S)
        try:
            status_text.run(site_dir, output, timeout_s, site)
        except FloorUnreachable as exc:
            stderr.say(str(exc))


def watching(floor: agent_client.Floor) -> int:
    from rich.live import Live

    from controlplane.floor import watch_screen

    with Live(watch_screen.draw(floor.status()), screen=True, refresh_per_second=4) as live:
        while True:
            time.sleep(0.5)
            try:
                live.update(watch_screen.draw(floor.status(), "Ctrl-C ends the watching, not the floor"))
            except FloorUnreachable as exc:
                live.update(watch_screen.draw(None, str(exc)))
