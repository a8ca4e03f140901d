"""`hftctl services`, `endpoints SERVICE`, `health [SERVICE or INSTANCE]`: three looks at the same status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

from controlplane.cli import agent_client, render
from controlplane.cli.declare import Argument
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import InvalidInput
from controlplane.site import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.site.document import InstanceRow, RegisteredRow


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
    status = agent_client.Floor(site_dir, timeout).status()
    others = [each for each in status.registered if each.service == service]
    if others and all(each.name != service for each in status.services):
        _show_others(others, output)
        return
    found = look.service(status, service)
    listening = [i for i in found.instances if i.endpoints]
    if output is Output.table:
        rows = [
            {"instance": i.id, "host": i.host, "role": i.role, "health": i.health, "registry": _registry(i)}
            | {"name": name, "endpoint": at}
            for i in listening
            for name, at in i.endpoints.items()
        ]
        render.show(rows, output, ("instance", "host", "role", "health", "registry", "name", "endpoint"))
        return
    keys = ("host", "role", "health", "registry", "maintenance", "endpoints")
    render.show([{"instance": i.id} | {key: getattr(i, key) for key in keys} for i in listening], output)


def _show_others(found: Sequence[RegisteredRow], output: Output) -> None:
    """Of a service that is not the floor's."""
    rows = [
        {"instance": i.id, "host": i.host, "health": i.health, "maintenance": i.maintenance}
        | {"address": i.address, "port": i.port, "tags": list(i.tags), "meta": dict(i.meta)}
        | {"zone": i.zone, "weight": i.weight, "endpoints": dict(i.endpoints)}
        for i in found
    ]
    if output is not Output.table:
        render.show(rows, output)
        return
    for row, each in zip(rows, found, strict=True):
        row["tags"] = ",".join(each.tags)
    render.show(rows, output, ("instance", "health", "maintenance", "address", "port", "tags", "zone"))


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


def _registry(instance: InstanceRow) -> str:
    return f"maintenance: {instance.maintenance}" if instance.maintenance else instance.registry
