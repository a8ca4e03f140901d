"""The options that many verbs share, each declared once: `-o`, `--site-dir`, `--timeout`, `--site`. The first
three may also stand before the verb (`hftctl -o json status`), which then takes them as its defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

from controlplane.cli.declare import Option
from controlplane.cli.output import ASK_TIMEOUT_S as ASK_TIMEOUT_S
from controlplane.cli.output import Output as Output

_OUTPUT = ("--output", "-o")
_SITE_DIR = "--site-dir"
_TIMEOUT = "--timeout"

OutputOption = Annotated[Output, Option(*_OUTPUT, help="How to print: table, json or yaml.")]
SiteDirOption = Annotated[
    Optional[Path],
    Option(
        _SITE_DIR,
        help="Where the floor keeps data, logs and journals (HFT_SITE_DIR; default under XDG_STATE_HOME).",
    ),
]
AskTimeoutOption = Annotated[float, Option(_TIMEOUT, min=0.1, help="Seconds to wait for an answer.")]
SiteOption = Annotated[str, Option("--site", envvar="HFT_SITE", help="Name of the site.")]

_BEFORE = "For the verb that follows."
BEFORE: dict[str, Any] = {
    "output": Annotated[Optional[Output], Option(*_OUTPUT, help=_BEFORE)],
    "site_dir": Annotated[Optional[Path], Option(_SITE_DIR, help=_BEFORE)],
    "timeout": Annotated[Optional[float], Option(_TIMEOUT, min=0.1, help=_BEFORE)],
}
"""By the name of the verb's own parameter."""
