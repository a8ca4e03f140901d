"""`hftctl services`: a look at the status. `endpoints SERVICE`: what discovery has. `health [SERVICE or
INSTANCE]`: each check of each instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional

from controlplane.cli import by_name, render, source
from controlplane.cli.declare import Argument
from controlplane.cli.options import (
    ASK_TIMEOUT_S,
    AskTimeoutOption,
    Output,
    OutputOption,
    SiteDirOption,
    SiteOption,
)
from controlplane.errors import InvalidInput

HEALTH_KEYS = ("service", "instance", "check", "kind", "state", "since", "output", "next_at")
OUTPUT_CHARS = 200


def services(
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> None:
    """The services of the site: wanted, running, led by. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    found = source.ask(site_dir, timeout, site, lambda known: known.status().services)
    render.show(found, output, ("name", "daemon", "mode", "desired", "running", "leader", "epoch"))


def endpoints(
    service: Annotated[str, Argument(help="Name of a service.")],
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> None:
    """Where the instances of a service listen. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    found = source.ask(site_dir, timeout, site, lambda known: known.endpoints(service))
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
    """Health of instances, check by check; exit 1 when one is not passing."""
    found = by_name.read(source.floor(site_dir, timeout).body("/v1/site/checks"))
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
