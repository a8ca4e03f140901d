"""`hftctl services` and `endpoints SERVICE`: two looks at the status. `health [SERVICE or INSTANCE]`: each
check of each instance.
"""

from __future__ import annotations

from typing import Annotated, Optional

from controlplane.cli import agent_client, by_name, render
from controlplane.cli.declare import Argument
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import InvalidInput
from controlplane.site import look

HEALTH_KEYS = ("service", "instance", "check", "kind", "state", "since", "output", "next_at")
OUTPUT_CHARS = 200


def services(
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """The services of the site: wanted, running, led by."""
    found = agent_client.Floor(site_dir, timeout).status().services
    render.show(found, output, ("name", "daemon", "mode", "desired", "running", "leader", "epoch"))


def endpoints(
    service: Annotated[str, Argument(help="Name of a service.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Where the instances of a service listen."""
    found = look.service(agent_client.Floor(site_dir, timeout).status(), service)
    listening = [i for i in found.instances if i.endpoints]
    if output is Output.table:
        rows = [
            {"instance": i.id, "host": i.host, "role": i.role, "health": i.health}
            | {"name": name, "endpoint": at}
            for i in listening
            for name, at in i.endpoints.items()
        ]
        render.show(rows, output, ("instance", "host", "role", "health", "name", "endpoint"))
        return
    keys = ("host", "role", "health", "endpoints")
    render.show([{"instance": i.id} | {key: getattr(i, key) for key in keys} for i in listening], output)


def health(
    what: Annotated[Optional[str], Argument(help="A service or an instance; all when left out.")] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Health of instances, check by check; exit 1 when one is not passing."""
    found = by_name.read(agent_client.Floor(site_dir, timeout).body("/v1/site/checks"))
    rows = [row for row in found.checks if what in (None, row.service, row.instance)]
    if not rows and what is not None:
        raise InvalidInput(f'"{what}" is neither a service nor an instance of site {found.site}')
    if output is Output.table:
        columns = ("instance", "check", "kind", "state", "since", "next_at", "output")
        render.show([{**row, "output": brief(row.output)} for row in rows], output, columns)
    else:
        render.show([{key: row.get(key) for key in HEALTH_KEYS} for row in rows], output)
    return 0 if all(row.state == "passing" for row in rows) else 1


def brief(text: str) -> str:
    """As much of an output as a table shows; JSON and YAML have all of it."""
    line = " ".join(text.split())
    return line if len(line) <= OUTPUT_CHARS else f"{line[: OUTPUT_CHARS - 4]} ..."
