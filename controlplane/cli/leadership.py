"""`hftctl history SERVICE` and `hftctl failover SERVICE --reason`: who led when and why, and how to move it.

The request goes to an agent, which writes it into the group (rule R15); the leader's keeper acts on it. Its
JSON is printed whatever the outcome.
"""

from __future__ import annotations

import getpass
import json
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, render
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput
from controlplane.http import unix
from controlplane.site import look


def history(
    service: Annotated[str, Argument(help="Name of a service.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Every change of leader of a service, with cause, actor and reason."""
    floor = agent_client.Floor(site_dir, timeout)
    look.service(floor.status(), service)
    rows = floor.get(f"/v1/site/history/{service}")
    if output is Output.table:
        rows = [
            {
                **row,
                "from": row.get("from", row.get("from_instance")),
                "to": row.get("to", row.get("to_instance")),
            }
            for row in rows
        ]
        for row in rows:
            began, ended = row.get("started_ns"), row.get("active_ns")
            row["took_ms"] = (ended - began) / 1e6 if began and ended else row.get("took_ms")
    render.show(rows, output, ("epoch", "from", "to", "cause", "took_ms", "actor", "reason"))


def failover(
    service: Annotated[str, Argument(help="Name of an active_standby service.")],
    to: Annotated[
        Optional[str], Option("--to", help="Instance that shall lead; any electable one when left out.")
    ] = None,
    reason: Annotated[Optional[str], Option("--reason", help="Why; kept in the history. Required.")] = None,
    timeout: Annotated[
        float, Option("--timeout", min=0.1, help="Seconds until the outcome counts as unknown.")
    ] = 10.0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Kill the leader of a service and let a standby lead."""
    try:
        result = request(
            service, to, reason, timeout, agent_client.Floor(site_dir, ASK_TIMEOUT_S) if reason else None
        )
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
    service: str, to: str | None, reason: str | None, timeout_s: float, floor: agent_client.Floor | None
) -> dict[str, Any]:
    """The result of one failover.

    Raises:
        InvalidInput: no reason, or no such service. FloorUnreachable: no agent took the request.
    """
    if not reason or not reason.strip() or floor is None:
        raise InvalidInput(f'failover of "{service}": --reason is missing (it is kept in the history)')
    look.service(floor.status(), service)
    body = json.dumps(
        {"service": service, "to": to, "reason": reason, "actor": getpass.getuser(), "timeout_s": timeout_s}
    ).encode()
    # Not tried at a second agent: the first may have written the request before it fell silent.
    for host in floor.hosts:
        socket = floor.run_dir / f"{host}.agent.sock"
        try:
            unix.request(socket, "GET", "/live", timeout_s=1)
        except FloorUnreachable:
            continue
        try:
            answer = unix.request(socket, "POST", "/v1/site/failover", body, timeout_s=timeout_s + 5)
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
    raise FloorUnreachable(f"no agent of the floor in {floor.folders.site_dir} answers")


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
