"""`hftctl register`, `deregister`, `maint`: services that are not the floor's, and taking instances out of
service for a time. An agent does it; its record names the user.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, render, source
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput
from controlplane.http import unix

ANSWER_S = 5.0
ReasonOption = Annotated[Optional[str], Option("--reason", help="Why; kept with the operation.")]


def register(
    service: Annotated[str, Argument(help="Name of a service that is not the floor's.")],
    address: Annotated[str, Option("--address", help="Where it listens.")],
    port: Annotated[int, Option("--port", min=1, max=65535, help="Its port.")],
    id: Annotated[
        Optional[str], Option("--id", help="Name of the instance; SERVICE-ADDRESS-PORT when left out.")
    ] = None,
    tag: Annotated[Optional[list[str]], Option("--tag", help="A tag; may be given several times.")] = None,
    meta: Annotated[
        Optional[list[str]], Option("--meta", help="NAME=VALUE; may be given several times.")
    ] = None,
    weight: Annotated[
        int, Option("--weight", min=1, max=65535, help="Share of the calls that it is given.")
    ] = 1,
    zone: Annotated[str, Option("--zone", help="Where it stands: a rack, a data centre.")] = "",
    check_http: Annotated[
        Optional[str], Option("--check-http", help="URL that Consul probes (with Consul only).")
    ] = None,
    check_tcp: Annotated[
        Optional[str], Option("--check-tcp", help="ADDRESS:PORT that Consul probes (with Consul only).")
    ] = None,
    reason: ReasonOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Register a service that is not the floor's; it stands until it is deregistered."""
    if check_http and check_tcp:
        raise InvalidInput("--check-http and --check-tcp: wanted one of them")
    for each in meta or ():
        if "=" not in each:
            raise InvalidInput(f'--meta "{each}": wanted NAME=VALUE')
    body = {
        "service": service,
        "address": address,
        "port": port,
        "instance": id or "",
        "tags": tag or [],
        "meta": dict(each.split("=", 1) for each in meta or ()),
        "weight": weight,
        "zone": zone,
        "check": check_http or (f"tcp://{check_tcp}" if check_tcp else ""),
        "reason": reason or "",
    }
    return _show(_ask("register", body, source.floor(site_dir, timeout)), output)


def deregister(
    instance: Annotated[str, Argument(help="An instance that was registered by hand.")],
    reason: ReasonOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Take out an instance that was registered by hand."""
    body = {"instance": instance, "reason": reason or ""}
    return _show(_ask("deregister", body, source.floor(site_dir, timeout)), output)


def maint(
    what: Annotated[str, Argument(help="A service or an instance.")],
    reason: Annotated[Optional[str], Option("--reason", help="Why; required unless --off.")] = None,
    off: Annotated[bool, Option("--off", help="It is over: back into service.")] = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Take instances out of service, or back in; it outlives their processes."""
    if off == bool(reason and reason.strip()):
        raise InvalidInput(f'maint "{what}": wanted --reason TEXT, or --off')
    body = {"what": what, "reason": (reason or "").strip()}
    return _show(_ask("maintenance", body, source.floor(site_dir, timeout)), output)


def _ask(what: str, body: dict[str, Any], floor: agent_client.Floor) -> dict[str, Any]:
    """Raises InvalidInput; FloorUnreachable: nothing was changed."""
    host = floor.living_host()
    sent = json.dumps(body).encode()
    try:
        answer = unix.request(
            floor.socket(host), "POST", f"/v1/site/{what}", sent, timeout_s=floor.timeout_s + ANSWER_S
        )
    except FloorUnreachable as exc:
        said = f"the agent of {host} did not answer: {exc}"
        return {"operation": None, "kind": what, "instances": [], "outcome": "unknown", "reason": said}
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict) and "outcome" in found:
        return found
    said = agent_client.reason_of(answer)
    if answer.status in (400, 404, 422):
        raise InvalidInput(said)
    if answer.status == 503:
        raise FloorUnreachable(f"nothing was changed: {said}")
    raise HftctlError(said)


def _show(done: dict[str, Any], output: Output) -> int:
    if output is Output.table:
        named = ", ".join(done["instances"])
        operation = f" (operation {done['operation']})" if done["operation"] else ""
        why = f": {done['reason']}" if done["reason"] else ""
        render.say(f"{done['kind']} {named}: {done['outcome']}{why}{operation}")
    else:
        render.show(done, output)
    return agent_client.EXIT_CODES.get(done["outcome"], 1)
