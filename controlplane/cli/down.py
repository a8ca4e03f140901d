"""`hftctl down`: the floor ends in order; its data stays."""

from __future__ import annotations

from typing import Annotated

from controlplane.cli import render
from controlplane.cli.declare import Option
from controlplane.cli.options import SiteDirOption
from controlplane.floor import folders


def down(
    site_dir: SiteDirOption = None,
    timeout: Annotated[
        float,
        Option("--timeout", min=1, help="Seconds for an orderly end; what is left then is killed."),
    ] = 30.0,
) -> None:
    """Stop everything of a floor: no process, socket or shared memory is left."""
    from controlplane.floor import down as floor_down

    floor = folders.Folders(site_dir or folders.default_site_dir())
    render.say(floor_down.take_down(floor, timeout_s=timeout))
