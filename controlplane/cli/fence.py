"""`hftctl fence show SERVICE` and `hftctl fence reset SERVICE --reason`: how the receivers' fences of a group
stand to what the store holds, and setting them to it when the group is locked out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, render, source
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput
from controlplane.http import unix
from controlplane.site import look

FINE = ("as the store", "below")
SHOW_TIMEOUT_S = 10.0
"""Every host's receivers are asked, and the store."""

Service = Annotated[str, Argument(help="Name of an active_standby service.")]


def show(
    service: Service,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = SHOW_TIMEOUT_S,
) -> int:
    """Each receiver's fence of a group beside the store's token; exit 1 when one refuses its leader."""
    floor = source.floor(site_dir, timeout)
    look.service(floor.status(), service)
    found = floor.get(f"/v1/site/fences/{service}")
    if output is Output.table:
        store = found["store"]
        holder = store["holder"] or "no process"
        render.say(f"{service}: the store holds {store['incarnation']}/{store['epoch']}, given to {holder}")
        rows = [{**row, "receiver": row.get("instance"), "fence": fence(row)} for row in found["receivers"]]
        render.show(rows, output, ("receiver", "host", "fence", "claimant", "stands"))
    else:
        render.show(found, output)
    return 0 if all(row["stands"] in FINE for row in found["receivers"]) else 1


def reset(
    service: Service,
    reason: Annotated[Optional[str], Option("--reason", help="Why; kept in the history. Required.")] = None,
    timeout: Annotated[
        float, Option("--timeout", min=0.1, help="Seconds until the outcome counts as unknown.")
    ] = 10.0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Set the fences of a group's receivers to the token that the store holds."""
    try:
        result = request(service, reason, timeout, site_dir)
        code = agent_client.EXIT_CODES.get(result["outcome"], 1)
    except HftctlError as exc:
        if output is Output.table:
            raise
        result, code = outcome(service, "refused", str(exc)), exc.exit_code
    if output is Output.table:
        render.say(sentence(result))
    else:
        render.show(result, output)
    return code


def request(service: str, reason: str | None, timeout_s: float, site_dir: Path | None) -> dict[str, Any]:
    """The result of one reset.

    Raises:
        InvalidInput: no reason, or no such service. FloorUnreachable: no agent took the request, or the
        store cannot be read; nothing was changed.
    """
    if not reason or not reason.strip():
        raise InvalidInput(f'fence reset of "{service}": --reason is missing (it is kept in the history)')
    floor = source.floor(site_dir, ASK_TIMEOUT_S)
    look.service(floor.status(), service)
    body = json.dumps({"reason": reason, "timeout_s": timeout_s}).encode()
    host = floor.living_host()
    target = f"/v1/site/fences/{service}/reset"
    try:
        answer = unix.request(floor.socket(host), "POST", target, body, timeout_s=timeout_s + 5)
    except FloorUnreachable as exc:
        return outcome(service, "unknown", f"the agent of {host} did not answer: {exc}")
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict) and "outcome" in found:
        return found
    said = agent_client.reason_of(answer)
    if answer.status == 404:
        raise InvalidInput(said)
    if answer.status == 503:
        raise FloorUnreachable(f"{service}: no fence was changed: {said}")
    raise HftctlError(f"{service}: {said}")


def outcome(service: str, what: str, reason: str) -> dict[str, Any]:
    return {
        "operation": None,
        "service": service,
        "store": None,
        "outcome": what,
        "reason": reason,
        "receivers": [],
    }


def sentence(result: dict[str, Any]) -> str:
    operation = f" (operation {result['operation']})" if result.get("operation") else ""
    lines = [f"{result['service']}: fence reset {result['outcome']}: {result['reason']}{operation}"]
    store = result["store"]
    lines += [
        f"  {row['instance']}: {fence(row)} -> {store['incarnation']}/{store['epoch']}"
        for row in result["receivers"]
        if row["outcome"] == "reset"
    ]
    if result["outcome"] == "succeeded" and len(lines) == 1:
        lines.append("  no receiver was above the store: nothing had to be changed")
    return "\n".join(lines)


def fence(row: dict[str, Any]) -> str | None:
    return None if row.get("epoch") is None else f"{row['incarnation']}/{row['epoch']}"


fences = Noun("The fences that receivers keep of a group.", {"show": show, "reset": reset})
