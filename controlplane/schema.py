"""YAML nodes checked against dataclasses, with the line of everything that is wrong.

Used by specs.py (services.yml) and hftd/by_hand.py (`hftd NAME --config`). Findings are collected, not raised, so that one run names them all.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from controlplane.errors import HftctlError

_SHOWN_MAX = 60
"""Characters of a found value in a message: enough to recognise it, one line for certain."""


@dataclass(frozen=True, slots=True)
class Finding:
    file: str
    line: int
    field: str
    found: str
    wanted: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: {self.field}".rstrip(": ")
        return f"{where}: found {self.found}, wanted {self.wanted}"


@dataclass(slots=True)
class Lines:
    """The lines of one node and of what is below it."""

    line: int
    value: Any = None
    below: dict[Any, Lines] = field(default_factory=dict)
    keys: dict[Any, int] = field(default_factory=dict)

    def line_of(self, key: object) -> int:
        """Of a key or index; of the whole node when it is not there."""
        return self.keys.get(key, self.line)

    def child(self, key: object) -> Lines:
        return self.below.get(key) or Lines(self.line_of(key))


def shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = msgspec.json.encode(value, enc_hook=str).decode() if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."


def plain(node: yaml.Node, file: str, path: str, findings: list[Finding]) -> Lines | None:
    """The node's plain value with its lines; None (and a finding) when it holds what no schema allows."""
    constructor = yaml.constructor.SafeConstructor()
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found = Lines(line, {})
        for key_node, value_node in node.value:
            at = key_node.start_mark.line + 1
            key = constructor.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                findings.append(Finding(file, at, path, shown(key), "a text as key"))
                continue
            below = f"{path}.{key}" if path else key
            if key in found.keys:
                findings.append(Finding(file, at, below, f"{key} again", f"each key once (first on line {found.keys[key]})"))
                continue
            child = plain(value_node, file, below, findings)
            found.keys[key] = at
            if child is not None:
                found.value[key] = child.value
                found.below[key] = child
        return found
    if isinstance(node, yaml.SequenceNode):
        found = Lines(line, [])
        for index, item in enumerate(node.value):
            child = plain(item, file, f"{path}[{index}]", findings) or Lines(item.start_mark.line + 1)
            found.value.append(child.value)
            found.below[index] = child
            found.keys[index] = child.line
        return found
    try:
        return Lines(line, constructor.construct_object(node))  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError) as exc:
        findings.append(Finding(file, line, path, node.value if isinstance(node.value, str) else node.tag, " ".join(str(exc).split())[:120]))
        return None


def convert(given: Mapping[str, object], kind: type, file: str, path: str, lines: Lines, findings: list[Finding]) -> Any:
    """An instance of the dataclass `kind`, or None with findings: unknown keys, wrong types, missing keys, and what its own checks say."""
    before = len(findings)
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in given.items():
        if key not in known:
            names = ", ".join(known) or "none: it has no settings"
            findings.append(Finding(file, lines.line_of(key), f"{path}.{key}", shown(key), f"one of {names}"))
            continue
        _check(value, hints[key], file, f"{path}.{key}", lines.line_of(key), lines.child(key), findings)
    for name, each in known.items():
        if name not in given and each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            findings.append(Finding(file, lines.line, f"{path}.{name}", "nothing", f"a value ({_called(hints[name])})"))
    if len(findings) > before:
        return None
    try:
        return msgspec.convert(dict(given), kind)
    except (msgspec.ValidationError, ValueError, HftctlError) as exc:
        findings.append(Finding(file, lines.line, path, "settings that do not fit together", str(exc)))
        return None


def _check(value: object, hint: Any, file: str, path: str, line: int, lines: Lines, findings: list[Finding]) -> None:
    """Go down into dataclasses, lists and mappings, so that a fault is named where it is; msgspec judges the leaves."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        convert(value, hint, file, path, lines if lines.value is not None else Lines(line), findings)
    elif origin in (list, tuple) and isinstance(value, list) and args and (origin is list or args[-1] is Ellipsis):
        for index, item in enumerate(value):
            _check(item, args[0], file, f"{path}[{index}]", lines.keys.get(index, line), lines.child(index), findings)
    elif origin in (dict, Mapping) and isinstance(value, Mapping) and len(args) == 2:
        for key, item in value.items():
            _check(item, args[1], file, f"{path}.{key}", lines.keys.get(key, line), lines.child(key), findings)
    else:
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError as exc:
            findings.append(Finding(file, line, path, shown(value), f"{_called(hint)} ({exc})" if "Expected" not in str(exc) else _called(hint)))


def _called(hint: Any) -> str:
    """A type's name as an operator says it."""
    plain_names: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    if hint in plain_names:
        return plain_names[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_called(args[0])} {' '.join(str(arg) for arg in args[1:])}"
    if origin is typing.Literal:
        return f"one of {', '.join(str(arg) for arg in args)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_called(arg) for arg in args)
    if origin in (list, tuple):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return f"one of {', '.join(str(member.value) for member in hint.__members__.values())}"
    return getattr(hint, "__name__", str(hint))


def references(settings: Any, prefix: str = "") -> Iterator[tuple[str, str, str, bool]]:
    """(field, daemon wanted, service named, token wanted) of every setting that names a service; an empty one names none."""
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        wanted = each.metadata.get("service")
        if wanted is None:
            if dataclasses.is_dataclass(value):
                yield from references(value, f"{prefix}{each.name}.")
            continue
        for name in (value,) if isinstance(value, str) else tuple(value or ()):
            if name:
                yield f"{prefix}{each.name}", wanted, name, bool(each.metadata.get("floor"))


def ranges(numbers: Collection[int]) -> str:
    """`0-3,8` for {0, 1, 2, 3, 8}."""
    parts: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
