"""`hftctl services`, `health [SERVICE or INSTANCE]`: two looks at the same status. `endpoints SERVICE`: what
discovery has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional
from urllib.parse import quote

from controlplane.cli import agent_client, render
from controlplane.cli.declare import Argument
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import InvalidInput
from controlplane.site import look


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
    found = agent_client.Floor(site_dir, timeout).get(f"/v1/site/endpoints/{quote(service, safe='')}")
    if output is not Output.table:
        render.show(found, output)
        return
    columns = ["instance", "host", "role", "health", "name", "endpoint"]
    if any(each["maintenance"] for each in found):
        columns.insert(4, "maintenance")  # and why; no column of blanks on an ordinary day
    rows = [{**each, "name": name, "endpoint": at} for each in found for name, at in _listening(each).items()]
    render.show(rows, output, columns)


def _listening(found: Mapping[str, Any]) -> Mapping[str, str]:
    """Socket -> where; of one that is not ours and has no sockets, its address."""
    sockets: Mapping[str, str] = found["endpoints"]
    return sockets or {"": f"{found['address']}:{found['port']}"}


def health(
    what: Annotated[Optional[str], Argument(help="A service or an instance; all when left out.")] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """Health of instances; exit 1 when one is not passing."""
    status = agent_client.Floor(site_dir, timeout).status()
    found = [
        (service.name, instance)
        for service in status.services
        for instance in service.instances
        if what in (None, service.name, instance.id)
    ]
    if not found and what is not None:
        raise InvalidInput(f'"{what}" is neither a service nor an instance of site {status.site}')
    keys = ("id", "service", "host", "state", "health", "ready", "reason")
    rows = [{key: service if key == "service" else getattr(i, key) for key in keys} for service, i in found]
    render.show(rows, output, keys)
    return 0 if all(look.well(instance) for _, instance in found) else 1
