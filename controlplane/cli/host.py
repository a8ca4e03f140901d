"""`hftctl host list`: the hosts of the site and how long ago each was heard of."""

from __future__ import annotations

from controlplane.cli import render, source
from controlplane.cli.declare import Noun
from controlplane.cli.options import (
    ASK_TIMEOUT_S,
    AskTimeoutOption,
    Output,
    OutputOption,
    SiteDirOption,
    SiteOption,
)


def listing(
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
    site: SiteOption = "lab",
) -> None:
    """Hosts, their agents and how many instances each runs. Where no floor runs,
    out of the store that HFT_STORE_ENDPOINTS names.
    """
    found = source.ask(site_dir, timeout, site, lambda known: known.status().hosts)
    render.show(found, output, ("name", "state", "address", "url", "last_seen_ms", "instances"))


host = Noun("Hosts of the site.", {"list": listing})
