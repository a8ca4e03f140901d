"""The verbs that other packages bring (entry point group `hftctl.verbs`): `data` and `audit` from hftd, and
those of whatever else is installed.

importlib.metadata answers the same question, but importing it costs 20 ms, a fifth of what a verb has in all.
Entry points are lines of text in one file of each installed distribution, and reading those takes 1 ms.
Promises the names and targets that `importlib.metadata.entry_points(group=...)` gives. Used by verbs.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

GROUP = "hftctl.verbs"
_METADATA_FOLDERS = (".dist-info", ".egg-info")


def places(path: Sequence[str] | None = None) -> dict[str, str]:
    """Name of a verb -> `module:attribute`, from the folders of `path` (sys.path); the first one wins.

    A folder that cannot be read has none, as for Python's own imports.
    """
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        for text in _entry_point_files(folder):
            for name, place in section(text, GROUP).items():
                found.setdefault(name, place)
    return found


def _entry_point_files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder or ".") as entries:
            names = sorted(entry.path for entry in entries if entry.name.endswith(_METADATA_FOLDERS))
    except OSError:
        return
    for name in names:
        try:
            with open(f"{name}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123 (one of many: be quick)
                yield file.read()
        except (OSError, UnicodeDecodeError):
            continue


def section(text: str, group: str) -> dict[str, str]:
    """The `name = module:attribute` lines of one group. Pure; a line of another form is left out."""
    found, inside = {}, False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and not line.startswith(("#", ";")) and "=" in line:
            name, _, place = line.partition("=")
            found[name.strip()] = place.partition("[")[0].strip()  # extras, in brackets, name no object
    return found


def load(place: str) -> Any:
    """The object at `module:attribute`."""
    module, _, attribute = place.partition(":")
    found: Any = import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found
