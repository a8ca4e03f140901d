"""A whole document as YAML (JSON is YAML): read with the line of each value, so that what is wrong with one
names file, line and path; and written for an editor.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from controlplane.errors import InvalidInput
from controlplane.specs import schema

FILE_BYTES_MAX = 256 << 10
"""Of YAML, which may be longer than the 64 KiB of JSON that a document may have."""
_SAID = re.compile(r"(?P<service>[^:\s]+): (?P<path>[^:\s]+): found ")
"""How a fault of a document begins (specs/settings_check.py)."""


class Document(NamedTuple):
    file: str
    lines: schema.Lines

    @property
    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = self.lines.value
        return found

    def located(self, said: str) -> str:
        """Faults, a line each, with the line of the file before those that name a path."""
        return "\n".join(self._located(line) for line in said.splitlines())

    def _located(self, line: str) -> str:
        found = _SAID.match(line)
        return line if found is None else f"{self.file}:{self.line_of(found['path'])}: {line}"

    def line_of(self, path: str) -> int:
        """Of the value at a path, or of what is nearest above it."""
        here = self.lines
        for name in path.split("."):
            key: object = int(name) if isinstance(here.value, list) and name.isdecimal() else name
            if key not in here.keys:
                break
            here = here.below.get(key) or schema.Lines(here.keys[key])
        return here.line


class Bad(InvalidInput):
    """No document; `empty`: nothing but comments."""

    def __init__(self, why: str, *, empty: bool = False) -> None:
        super().__init__(why)
        self.empty = empty


def read(path: Path) -> Document:
    """Of a file, or `-` for stdin. Raises InvalidInput: it cannot be read; Bad."""
    name = "stdin" if str(path) == "-" else str(path)
    try:
        if name == "stdin":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise InvalidInput(f"{name}: cannot be read: {exc.strerror}") from exc
    return parse(content, name)


def parse(content: bytes, file: str) -> Document:
    """Raises Bad: too large, not UTF-8, not YAML (with the line), or not a mapping."""
    if len(content) > FILE_BYTES_MAX:
        raise Bad(f"{file}: found more than {FILE_BYTES_MAX:,} bytes, wanted at most that")
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as exc:
        raise Bad(f"{file}: not UTF-8 text (byte {exc.start})") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise Bad(f"{file}:{line}: not YAML: {exc.problem or 'broken'}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise Bad(f"{file}: not YAML: {' '.join(str(exc).split())}") from exc
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value.strip()):
        raise Bad(f"{file}: it is empty", empty=True)
    findings: list[schema.Problem] = []
    lines = schema.plain(root, file, "", findings)
    if findings or lines is None:
        raise Bad("\n".join(map(str, findings)))
    if not isinstance(lines.value, dict):
        raise Bad(f"{file}:{lines.line}: found {schema.shown(lines.value)}, wanted a mapping of settings")
    return Document(file, lines)


def write(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
