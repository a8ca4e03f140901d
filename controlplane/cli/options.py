"""The options that many verbs share, each declared once: `-o`, `--site-dir`, `--timeout`, `--site`. The first
three may also stand before the verb (`hftctl -o json status`); verbs.py hands them on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from controlplane.cli.output import ASK_TIMEOUT_S as ASK_TIMEOUT_S
from controlplane.cli.output import Output as Output

_OUTPUT = ("--output", "-o")
_SITE_DIR = "--site-dir"
_TIMEOUT = "--timeout"

OutputOption = Annotated[Output, typer.Option(*_OUTPUT, help="How to print: table, json or yaml.")]
SiteDirOption = Annotated[
    Optional[Path],
    typer.Option(
        _SITE_DIR,
        help="Where the floor keeps data, logs and journals (HFT_SITE_DIR; default under XDG_STATE_HOME).",
    ),
]
AskTimeoutOption = Annotated[float, typer.Option(_TIMEOUT, min=0.1, help="Seconds to wait for an answer.")]
SiteOption = Annotated[str, typer.Option("--site", envvar="HFT_SITE", help="Name of the site.")]

_BEFORE = "For the verb that follows."
OutputBefore = Annotated[Optional[Output], typer.Option(*_OUTPUT, help=_BEFORE)]
SiteDirBefore = Annotated[Optional[Path], typer.Option(_SITE_DIR, help=_BEFORE)]
TimeoutBefore = Annotated[Optional[float], typer.Option(_TIMEOUT, min=0.1, help=_BEFORE)]
