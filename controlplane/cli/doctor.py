"""`hftctl doctor`: is everything under the floor as it should be? Exit 1 when something is critical."""

from __future__ import annotations

import os
from typing import Annotated

from controlplane.cli import render
from controlplane.cli.declare import Option
from controlplane.cli.options import Output, OutputOption, SiteDirOption, SiteOption
from controlplane.floor import folders


def doctor(
    production: Annotated[
        bool,
        Option("--production", help="Judge as for a site that trades real money; a site of that name is."),
    ] = False,
    everything: Annotated[bool, Option("--all", help="Show what is well, too.")] = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    site: SiteOption = "lab",
) -> int:
    """Examine store, hosts, machine and the floor's folders, and say what to do."""
    from controlplane.doctor import examine, finding

    floor = folders.Folders(site_dir or folders.default_site_dir())
    floor.require_ours()
    running = floor.running() or {}
    name = str(running.get("site") or site)
    found = examine.everything(
        floor,
        name,
        floor.store_url() or _of_environment(),
        production=production or name == examine.PRODUCTION,
    )
    worst = finding.worst(found)
    if output is not Output.table:
        render.show(finding.document(found), output)
    else:
        shown = [each for each in found if everything or each.severity not in ("ok", "info")]
        order = finding.SEVERITIES.index
        for each in sorted(shown, key=lambda each: -order(each.severity)):
            print(text(each))
        well = sum(each.severity in ("ok", "info") for each in found)
        render.say(
            f"{len(found)} looks: {len(found) - well} to mend, {well} well or for information; worst: {worst}"
        )
    return 1 if worst == "critical" else 0


def text(found: object) -> str:
    from controlplane.doctor.finding import Finding

    assert isinstance(found, Finding)
    lines = [f"{render.paint(found.severity, render.coloured())}  {found.id}  {found.subject}"]
    lines += [f"    found   {found.found}"] if found.found else []
    lines += [f"    wanted  {found.wanted}"] if found.wanted else []
    lines += [f"    do      {found.remedy}"] if found.remedy else []
    return "\n".join(" ".join(line.splitlines()) if "\n" in line else line for line in lines)


def _of_environment() -> str | None:
    if not os.environ.get("HFT_STORE_ENDPOINTS"):
        return None
    from controlplane.store import existing

    return existing.url_of_environment()
