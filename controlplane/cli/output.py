"""The three ways to print, and how long a verb waits for an answer. Apart from options.py, so that what only
prints needs no typer.
"""

from __future__ import annotations

from enum import Enum


class Output(str, Enum):  # noqa: UP042  (typer prints a StrEnum's repr in older releases)
    table = "table"
    json = "json"
    yaml = "yaml"


ASK_TIMEOUT_S = 5.0
