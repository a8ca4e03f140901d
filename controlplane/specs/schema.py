"""YAML nodes checked against dataclasses, with the line of everything that is wrong.

A field's type says what it may hold; where that is not enough, `rules` in the field's metadata do. Used for
services.yml (entry.py, and each daemon's own settings) and by hftd/standalone/config.py (`hftd NAME
--config`). Findings are collected, not raised, so that one run names them all.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import yaml

from controlplane.errors import HftctlError, InvalidSettings
from controlplane.host.log_line import printable

_SHOWN_MAX = 60
"""Characters of a found value in a message: enough to recognise it, one line for certain."""

DEPTH_MAX = 20
"""Levels below the top; a services file has four, and the deepest settings two more."""
NODES_MAX = 100_000
"""Values in a file: thousands of services."""


@dataclass(frozen=True, slots=True)
class Problem:
    file: str
    line: int
    """0 where it is of no file, but of the command line."""
    field: str
    found: str
    wanted: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f"{place}: {self.field}".rstrip(": ")
        return printable(f"{where}: found {self.found}, wanted {self.wanted}")  # one line, whatever is quoted


A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Beside(Generic[A]):
    """What a rule may look at beside the value it judges."""

    given: Mapping[str, object]
    """The mapping that it stands in, not checked yet."""
    around: A
    """What the caller of `convert` handed in."""
    earlier: Sequence[object] = ()
    """The items before it in its list."""


Rule = Callable[[object, Beside[Any]], str]
"""What is wanted instead of a value; empty: it is good."""


def rules(whole: Rule, each: Rule | None = None) -> dict[str, Rule | None]:
    """Metadata of a field that is judged by a rule instead of its type; `each`: every item of its list."""
    return {"rule": whole, "each": each}


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


def plain(node: yaml.Node, file: str, path: str, findings: list[Problem]) -> Lines | None:
    """The node's plain value with its lines; None (and a finding) when it holds what no schema allows."""
    beyond = _beyond(node)
    if beyond is not None:
        line, found, wanted = beyond
        findings.append(Problem(file, line, path, found, wanted))
        return None
    return _plain(node, file, path, findings)


def _beyond(root: yaml.Node) -> tuple[int, str, str] | None:
    """(line, found, wanted) of a tree too deep or too large, aliases followed: one that holds itself has no
    end.
    """
    waiting, seen = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        line = node.start_mark.line + 1
        if depth > DEPTH_MAX:
            return (
                line,
                f"more than {DEPTH_MAX} levels inside each other",
                "a file without an alias that holds itself, and not so deep",
            )
        if seen > NODES_MAX:
            return line, f"more than {NODES_MAX} values, aliases counted", "a smaller file"
        if isinstance(node, yaml.MappingNode):
            waiting += [(each, depth + 1) for _, each in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in node.value]
    return None


def _plain(node: yaml.Node, file: str, path: str, findings: list[Problem]) -> Lines | None:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found = Lines(line, {})
        for key_node, value_node in _merged(node, file, path, findings):
            at = key_node.start_mark.line + 1
            key = _scalar(key_node, file, path, []) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                findings.append(Problem(file, at, path, _written(key_node), "a text as key"))
                continue
            below = f"{path}.{key}" if path else key
            if key in found.keys:
                findings.append(
                    Problem(
                        file, at, below, f"{key} again", f"each key once (first on line {found.keys[key]})"
                    )
                )
                continue
            child = _plain(value_node, file, below, findings)
            found.keys[key] = at
            if child is not None:
                found.value[key] = child.value
                found.below[key] = child
        return found
    if isinstance(node, yaml.SequenceNode):
        found = Lines(line, [])
        for index, item in enumerate(node.value):
            child = _plain(item, file, f"{path}[{index}]", findings) or Lines(item.start_mark.line + 1)
            found.value.append(child.value)
            found.below[index] = child
            found.keys[index] = child.line
        return found
    before = len(findings)
    value = _scalar(node, file, path, findings)
    return Lines(line, value) if len(findings) == before else None


def _scalar(node: yaml.Node, file: str, path: str, findings: list[Problem]) -> object:
    """The value of one word; None, and a finding, when it has none."""
    wanted = ""
    if node.tag in _NUMBERS and ":" in node.value:
        wanted = "a number, or a text in quotes (to YAML 1.1 this is a number of base 60)"
    else:
        try:
            value: object = yaml.constructor.SafeConstructor().construct_object(node)
        except NOT_CONSTRUCTED as exc:
            wanted = " ".join(str(exc).split())[:120]
        else:
            if not isinstance(value, int) or -(2**63) <= value < 2**64:
                return value
            wanted = "a whole number of at most 64 bits"
    findings.append(Problem(file, node.start_mark.line + 1, path, _written(node), wanted))
    return None


NOT_CONSTRUCTED = (yaml.YAMLError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError)
"""PyYAML's constructors do not look before they convert: `!!int ` is an IndexError, `!!bool x` a KeyError."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"


def _written(node: yaml.Node) -> str:
    """As it stands in the file, short."""
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else node.tag.rpartition(":")[2]


def _merged(
    node: yaml.MappingNode, file: str, path: str, findings: list[Problem]
) -> list[tuple[yaml.Node, yaml.Node]]:
    """Its pairs, with those of `<<: *ANCHOR` (one, or a list of them) that it does not give itself; of
    several the first one counts (https://yaml.org/type/merge.html).
    """
    own = [(key, value) for key, value in node.value if key.tag != _MERGE]
    given = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
    for key, value in node.value:
        if key.tag != _MERGE:
            continue
        for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(each, yaml.MappingNode):
                at = key.start_mark.line + 1
                findings.append(
                    Problem(file, at, path, _written(each), "a mapping, or a list of them, to merge")
                )
                continue
            for pair in _merged(each, file, path, findings):
                name = pair[0].value if isinstance(pair[0], yaml.ScalarNode) else None
                if name not in given:
                    given.add(name)
                    own.append(pair)
    return own


def convert(
    given: Mapping[str, object],
    kind: type,
    file: str,
    path: str,
    lines: Lines,
    findings: list[Problem],
    around: object = None,
) -> Any:
    """An instance of the dataclass `kind`, or None with findings: unknown keys, wrong types, missing keys,
    and what its rules and its own checks say. `around`: for the rules.
    """
    before = len(findings)
    prefix = f"{path}." if path else ""
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, object] = {}
    for key, value in given.items():
        if key not in known:
            names = ", ".join(known) or "none: it has no settings"
            findings.append(
                Problem(file, lines.line_of(key), f"{prefix}{key}", shown(key), f"one of {names}")
            )
            continue
        if "rule" in known[key].metadata:
            values[key] = value
            at = Problem(file, lines.line_of(key), f"{prefix}{key}", shown(value), "")
            _judge(value, known[key].metadata, Beside(given, around), at, lines.child(key), findings)
            continue
        values[key] = _checked(
            value, hints[key], file, f"{prefix}{key}", lines.line_of(key), lines.child(key), findings
        )
    for name, each in known.items():
        if (
            name not in given
            and each.default is dataclasses.MISSING
            and each.default_factory is dataclasses.MISSING
        ):
            rule = each.metadata.get("rule")
            wanted = rule(None, Beside(given, around)) if rule else f"a value ({_called(hints[name])})"
            findings.append(Problem(file, lines.line, f"{prefix}{name}", "nothing", wanted))
    if len(findings) > before:
        return None
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, ValueError, HftctlError) as exc:
        if isinstance(exc, InvalidSettings) and exc.field:
            line = lines.line_of(exc.field)
            findings.append(Problem(file, line, f"{prefix}{exc.field}", shown(exc.found), exc.wanted))
            return None
        findings.append(Problem(file, lines.line, path, "settings that do not fit together", str(exc)))
        return None


def _judge(
    value: object,
    field_rules: Mapping[str, Any],
    beside: Beside[Any],
    at: Problem,
    lines: Lines,
    findings: list[Problem],
) -> None:
    """By the rules of a field. `at`: the finding it would be, but for what is wanted."""
    if wanted := field_rules["rule"](value, beside):
        findings.append(dataclasses.replace(at, wanted=wanted))
        return
    each: Rule | None = field_rules["each"]
    for index, item in enumerate(value if each is not None and isinstance(value, list) else ()):
        assert each is not None and isinstance(value, list)
        if wanted := each(item, dataclasses.replace(beside, earlier=value[:index])):
            line = lines.keys.get(index, at.line)
            findings.append(Problem(at.file, line, f"{at.field}[{index}]", shown(item), wanted))


def _checked(
    value: object, hint: Any, file: str, path: str, line: int, lines: Lines, findings: list[Problem]
) -> object:
    """Go down into dataclasses, lists and mappings, so that a fault is named where it is; msgspec judges the
    leaves.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if (
        origin in (typing.Union, types.UnionType)
        and len(args) == 2
        and type(None) in args
        and value is not None
    ):
        hint = next(arg for arg in args if arg is not type(None))  # optional, and given: judged as what it is
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return convert(value, hint, file, path, lines if lines.value is not None else Lines(line), findings)
    if (
        origin in (list, tuple)
        and isinstance(value, list)
        and args
        and (origin is list or args[-1] is Ellipsis)
    ):
        return [
            _checked(v, args[0], file, f"{path}[{i}]", lines.keys.get(i, line), lines.child(i), findings)
            for i, v in enumerate(value)
        ]
    if origin in (dict, Mapping) and isinstance(value, Mapping) and len(args) == 2:
        return {
            k: _checked(v, args[1], file, f"{path}.{k}", lines.keys.get(k, line), lines.child(k), findings)
            for k, v in value.items()
        }
    if origin is typing.Literal and not isinstance(value, bool) and str(value) in args:
        return str(value)  # `speed: 10` is a number to YAML and a choice to us
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as exc:
        # What a type alone does not say (a pattern, a bound) msgspec does.
        said = "" if str(exc).startswith(("Expected", "Invalid enum value")) else f": {exc}"
        findings.append(Problem(file, line, path, shown(value), _called(hint) + said))
    return value


def _called(hint: Any) -> str:
    """A type's name as an operator says it."""
    plain_names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "nothing",
    }
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
    """(field, daemon wanted, service named, token wanted) of every setting that names a service; an empty one
    names none.
    """
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        wanted = each.metadata.get("service")
        if wanted is None:
            if dataclasses.is_dataclass(value):
                yield from references(value, f"{prefix}{each.name}.")
            continue
        for name in (value,) if isinstance(value, str) else tuple(value or ()):
            if name:
                yield f"{prefix}{each.name}", wanted, name, bool(each.metadata.get("fence"))


def ranges(numbers: Collection[int]) -> str:
    """`0-3,8` for {0, 1, 2, 3, 8}."""
    parts: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
