"""The options that many verbs share, each declared once: `-o`, `--site-dir`, `--site`, `--timeout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from controlplane.cli.output import ASK_TIMEOUT_S as ASK_TIMEOUT_S
from controlplane.cli.output import Output as Output

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print: table, json or yaml.")]
SiteDirOption = Annotated[
    Optional[Path],
    typer.Option(
        "--site-dir",
        help="Where the floor keeps data, logs and journals (HFT_SITE_DIR; default under XDG_STATE_HOME).",
    ),
]
SiteOption = Annotated[str, typer.Option("--site", envvar="HFT_SITE", help="Name of the site.")]
AskTimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")]
