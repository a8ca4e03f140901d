"""Answers printed: as a table of plain text, as JSON or as YAML. Colours only at a terminal, and never when
NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from controlplane.cli.output import Output
from controlplane.host.log_line import printable

_COLOURS = {
    "critical": "31",
    "stopped": "31",
    "backoff": "31",
    "unhealthy": "31",
    "warning": "33",
    "starting": "33",
    "passing": "32",
    "healthy": "32",
}


def show(value: Any, output: Output, columns: Sequence[str] = ()) -> None:
    """Print plain data, or what by_name.py reads. For a table, `columns` are fields of the rows, and the
    headings.
    """
    if output is Output.table:
        rows = [[cell(field_of(row, column)) for column in columns] for row in value]
        print(table([column.replace("_", " ") for column in columns], rows))
        return
    if output is Output.json:
        print(json_text(value, indent=2))
    else:
        import yaml

        print(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True), end="")


def say(text: str) -> None:
    """Print lines of text, with nothing in them that a terminal obeys: they quote what other programs and
    people wrote.
    """
    for line in text.splitlines() or [""]:
        print(printable(line), flush=True)


_C1 = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""What JSON may leave as it is, and terminals obey."""


def json_text(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False).translate(_C1)


def _plain(value: Any) -> Any:
    """yaml refuses what is a dict, but no `dict`."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def field_of(row: Any, name: str) -> Any:
    """Of a mapping or of a struct; None where it has no such field."""
    return row.get(name) if isinstance(row, dict) else getattr(row, name, None)


def cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple):
        return printable(",".join(str(item) for item in value)) or "-"
    if isinstance(value, dict):
        return printable(" ".join(f"{key}={item}" for key, item in value.items())) or "-"
    return printable(" ".join(str(value).split()))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, colour: bool | None = None) -> str:
    """Columns as wide as their widest cell, the last one free; no trailing blanks."""
    colour = coloured() if colour is None else colour
    widths = [max([len(heading), *(len(row[i]) for row in rows)]) for i, heading in enumerate(headings)]
    lines = [
        "  ".join(
            heading.upper().ljust(width) for heading, width in zip(headings, widths, strict=True)
        ).rstrip()
    ]
    for row in rows:
        parts = [
            paint(text, colour).ljust(width + len(paint(text, colour)) - len(text))
            for text, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def paint(text: str, colour: bool) -> str:
    code = _COLOURS.get(text) if colour else None
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
