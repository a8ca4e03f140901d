"""`hftctl history SERVICE` and `hftctl failover SERVICE --reason`: who led when and why, and how to move it.

The request goes to an agent, which writes it into the group (rule R15); the leader's keeper acts on it. Its
JSON is printed whatever the outcome.
"""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, render, source, stderr
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import (
    ASK_TIMEOUT_S,
    AskTimeoutOption,
    Output,
    OutputOption,
    SiteDirOption,
    SiteOption,
)
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput
from controlplane.floor import folders
from controlplane.http import unix
from controlplane.site import look

ANSWER_S = 5.0
"""An agent answers so long after the timeout at the latest."""


def history(
    service: Annotated[str, Argument(help="Name of a service.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> None:
    """Every change of leader of a service, with time, cause, actor and reason. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    try:
        found = source.ask(site_dir, timeout, site, lambda known: known.history(service))
        rows = [told(row) for row in found]
    except FloorUnreachable as exc:
        from controlplane.cli import kept

        rows = kept.history(folders.Folders(site_dir or folders.default_site_dir()), service)
        if not rows:
            raise
        stderr.say(f"{exc}; these are the changes that its events tell of")
    if output is Output.table:
        rows = [{**row, "time": row["at"]} for row in rows]
    render.show(rows, output, ("time", "epoch", "from", "to", "cause", "took_ms", "actor", "reason"))


def told(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the store, with what people read: when the cause was seen, and how long it took from there."""
    began, ended = row.get("started_ns"), row.get("active_ns")
    return {
        **row,
        "at": look.iso(began) if began else None,
        "from": row.get("from", row.get("from_instance")),
        "to": row.get("to", row.get("to_instance")),
        "took_ms": round(max(0, ended - began) / 1e6, 1) if began and ended else row.get("took_ms"),
    }


def failover(
    service: Annotated[str, Argument(help="Name of an active_standby service.")],
    to: Annotated[
        Optional[str], Option("--to", help="Instance that shall lead; any electable one when left out.")
    ] = None,
    reason: Annotated[Optional[str], Option("--reason", help="Why; kept in the history. Required.")] = None,
    timeout: Annotated[
        float, Option("--timeout", min=0.1, help="Seconds until the outcome counts as unknown.")
    ] = 10.0,
    wait: Annotated[
        bool,
        Option(
            "--wait/--no-wait",
            help="Wait, within the timeout, for a standby that may lead; else it is refused at once.",
        ),
    ] = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Kill the leader of a service and let a standby lead."""
    try:
        floor = source.floor(site_dir, ASK_TIMEOUT_S) if reason else None
        result = request(service, to, reason, timeout, floor, wait=wait)
        code = agent_client.EXIT_CODES.get(result["outcome"], 1)
    except HftctlError as exc:
        result, code = (
            outcome(service, "unknown" if exc.exit_code == 4 else "refused", str(exc), to),
            exc.exit_code,
        )
        if output is Output.table:
            raise
    if output is Output.table:
        render.say(sentence(result))
    else:
        render.show(result, output)
    return code


def request(
    service: str,
    to: str | None,
    reason: str | None,
    timeout_s: float,
    floor: agent_client.Floor | None,
    *,
    wait: bool = False,
) -> dict[str, Any]:
    """The result of one failover.

    Raises:
        InvalidInput: no reason, or no such service. FloorUnreachable: no agent took the request.
    """
    if not reason or not reason.strip() or floor is None:
        raise InvalidInput(f'failover of "{service}": --reason is missing (it is kept in the history)')
    look.service(floor.status(), service)
    asked = {"service": service, "to": to, "reason": reason, "actor": getpass.getuser()}
    body = json.dumps({**asked, "timeout_s": timeout_s, "wait": wait}).encode()
    host = floor.living_host()
    try:
        answer = unix.request(
            floor.socket(host), "POST", "/v1/site/failover", body, timeout_s=timeout_s + ANSWER_S
        )
    except FloorUnreachable as exc:
        return outcome(service, "unknown", f"the agent of {host} did not answer: {exc}", to)
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict) and "outcome" in found:
        return found
    if answer.status == 404:
        raise InvalidInput(agent_client.reason_of(answer))
    return outcome(
        service, "refused" if answer.status < 500 else "failed", agent_client.reason_of(answer), to
    )


def outcome(service: str, what: str, reason: str, to: str | None = None) -> dict[str, Any]:
    return {
        "operation": None,
        "service": service,
        "from": None,
        "to": to,
        "epoch": None,
        "took_ms": None,
        "outcome": what,
        "reason": reason,
    }


def sentence(result: dict[str, Any]) -> str:
    if result["outcome"] == "succeeded":
        return (
            f"{result['service']}: {result['from']} -> {result['to']}, epoch {result['epoch']}, "
            f"{result['took_ms']} ms ({result['reason']})"
        )
    operation = f" (operation {result['operation']})" if result.get("operation") else ""
    return f"{result['service']}: failover {result['outcome']}: {result['reason']}{operation}"
