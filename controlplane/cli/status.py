"""`hftctl status`: the whole site at a glance, as one agent sees it. Exit 0 when healthy, else 1."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from controlplane.cli import asking, status_text
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Stay and redraw; Ctrl-C ends it.")] = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Hosts, services, leaders, flow and alarms of the site."""
    return watching(asking.Floor(site_dir, timeout)) if watch else status_text.run(site_dir, output, timeout)


def watching(floor: asking.Floor) -> int:
    from rich.live import Live

    from controlplane.floor import watch_screen

    with Live(watch_screen.draw(floor.status()), screen=sys.stdout.isatty(), refresh_per_second=4) as live:
        while True:
            time.sleep(0.5)
            try:
                live.update(watch_screen.draw(floor.status(), "Ctrl-C ends the watching, not the floor"))
            except FloorUnreachable as exc:
                live.update(watch_screen.draw(None, str(exc)))
