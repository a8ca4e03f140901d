"""`hftctl services`, `endpoints SERVICE`, `health [SERVICE or INSTANCE]`: three looks at the same status."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from controlplane.cli import agent_client, render
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import InvalidInput


def services(
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """The services of the site: wanted, running, led by."""
    found = agent_client.Floor(site_dir, timeout).status()["services"]
    keys = ("name", "daemon", "mode", "desired", "running", "leader", "epoch")
    show = (
        found
        if output is not Output.table
        else [{key: service.get(key) for key in keys} for service in found]
    )
    render.show(show, output, keys)


def endpoints(
    service: Annotated[str, typer.Argument(help="Name of a service.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Where the instances of a service listen."""
    found = agent_client.service_of(agent_client.Floor(site_dir, timeout).status(), service)
    keys: tuple[str, ...] = ("instance", "host", "role", "health", "endpoints")
    rows = [
        {"instance": i["id"], **{key: i.get(key) for key in keys[1:]}}
        for i in found["instances"]
        if i.get("endpoints")
    ]
    if output is Output.table:
        rows = [
            {**row, "name": name, "endpoint": endpoint}
            for row in rows
            for name, endpoint in (row["endpoints"] or {}).items()
        ]
        keys = ("instance", "host", "role", "health", "name", "endpoint")
    render.show(rows, output, keys)


def health(
    what: Annotated[
        Optional[str], typer.Argument(help="A service or an instance; all when left out.")
    ] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Health of instances; exit 1 when one is not passing."""
    status = agent_client.Floor(site_dir, timeout).status()
    keys = ("id", "service", "host", "state", "health", "ready", "reason")
    rows = [
        {"service": s["name"], **i}
        for s in status["services"]
        for i in s["instances"]
        if what in (None, s["name"], i["id"])
    ]
    if not rows and what is not None:
        raise InvalidInput(f'"{what}" is neither a service nor an instance of site {status["site"]}')
    picked: list[dict[str, Any]] = [{key: row.get(key) for key in keys} for row in rows]
    render.show(picked, output, keys)
    return 0 if all(row["health"] == "passing" and row["ready"] for row in picked) else 1
