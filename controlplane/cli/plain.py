"""The plain command line: a verb, its arguments, and options that are spelled out and well formed. It is read
here from what the verb declares (declare.py), in a millisecond, without typer, which takes 50 ms to import.

Anything else is not judged here: `read` returns None, and typer reads the line from the same declarations,
answers it, or says what is wrong with it (with_typer.py). So there is one set of rules, typer's; this accepts
a part of what typer accepts, with the same values (test_plain_line.py compares the two).
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from controlplane.cli import declare, options
from controlplane.cli.declare import Argument, Noun, Option


class Call:
    __slots__ = ("arguments", "function")

    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.function = function
        self.arguments = arguments

    def run(self) -> int:
        code = self.function(**self.arguments)
        return code if isinstance(code, int) else 0


class Parameter:
    """One of a verb's function: `type` is that of one value (str, int, float, bool, Path or an Enum), `many`
    says that it takes a list of them.
    """

    __slots__ = ("declared", "many", "name", "type")

    def __init__(self, name: str, type: Any, many: bool, declared: Option | Argument) -> None:
        self.name = name
        self.type = type
        self.many = many
        self.declared = declared


class NotPlain(Exception):
    """For typer to read."""


def read(words: Sequence[str], places: Mapping[str, str]) -> Call | None:
    """The call that a plain line asks for; None for every other line.

    `places`: name of a verb -> `FILE:NAME`, as verbs.VERBS has it.
    """
    try:
        return _read(list(words), places)
    except NotPlain:
        return None


def _read(words: list[str], places: Mapping[str, str]) -> Call:
    begin = 0
    while begin < len(words) and words[begin].startswith("-"):
        begin += 2  # what may stand before a verb takes a value
    if begin >= len(words) or words[begin] not in places:
        raise NotPlain
    before = values(words[:begin], [_parameter(*each) for each in options.BEFORE.items()])
    target, rest = declare.at(places[words[begin]]), words[begin + 1 :]
    if isinstance(target, Noun):
        if not rest or rest[0] not in target.verbs:
            raise NotPlain
        target, rest = target.verbs[rest[0]], rest[1:]
    return Call(target, _arguments(target, rest, before))


def _arguments(function: Callable[..., Any], words: list[str], before: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of the function: from the line, else its environment, else before the verb, else its
    default.
    """
    takes = parameters(function)
    given = values(words, takes)
    defaults = dict(zip(reversed(takes), reversed(function.__defaults__ or ()), strict=False))
    found = {}
    for each in takes:
        envvar = each.declared.envvar if isinstance(each.declared, Option) else None
        if each.name in given:
            found[each.name] = given[each.name]
        elif envvar and os.environ.get(envvar):
            found[each.name] = _value(each, os.environ[envvar])
        elif each.name in before:
            found[each.name] = _in_range(each, before[each.name])
        elif each in defaults:
            found[each.name] = defaults[each]
        else:
            raise NotPlain  # it is required
    return found


def declared(function: Callable[..., Any]) -> dict[str, Any]:
    """Name of a parameter -> Annotated[type, Option or Argument]."""
    hints = get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return"}


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    return [_parameter(*each) for each in declared(function).items()]


def _parameter(name: str, hint: Any) -> Parameter:
    kind, how = get_args(hint)[:2]
    if get_origin(kind) in (Union, types.UnionType):  # Optional: None is a default, no word of a line
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    many = get_origin(kind) is list
    return Parameter(name, get_args(kind)[0] if many else kind, many, how)


def values(words: Sequence[str], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """What the words give, by name of the parameter. Raises NotPlain."""
    spelled = spellings(parameters)
    found: dict[str, Any] = {}
    loose: list[str] = []
    left = iter(words)
    for word in left:
        if not word or word in ("-", "--"):
            raise NotPlain
        if not word.startswith("-"):
            loose.append(word)
            continue
        name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        if name not in spelled:
            raise NotPlain
        each, constant = spelled[name]
        if constant is not None:
            if equals:
                raise NotPlain
            found[each.name] = constant
            continue
        text = text if equals else next(left, "")
        if not text or (text.startswith("-") and not equals):
            raise NotPlain
        value = _value(each, text)
        found[each.name] = [*found.get(each.name, ()), value] if each.many else value
    for each in parameters:
        if loose and isinstance(each.declared, Argument):
            taken, loose = (loose, []) if each.many else (loose[:1], loose[1:])
            read = [_value(each, text) for text in taken]
            found[each.name] = read if each.many else read[0]
    if loose:
        raise NotPlain
    return found


def spellings(parameters: Sequence[Parameter]) -> dict[str, tuple[Parameter, bool | None]]:
    """Each spelling of an option -> whose it is, and what it means when it takes no value."""
    found: dict[str, tuple[Parameter, bool | None]] = {}
    for each in parameters:
        for name in each.declared.names if isinstance(each.declared, Option) else ():
            yes, _, no = name.partition("/")
            found[yes] = (each, True if each.type is bool else None)
            if no:
                found[no] = (each, False)
    return found


def _value(each: Parameter, text: str) -> Any:
    if each.type is Path:
        return Path(text)
    try:
        return _in_range(each, each.type(text))
    except ValueError:
        raise NotPlain from None


def _in_range(each: Parameter, value: Any) -> Any:
    how = each.declared
    if isinstance(how, Option) and not isinstance(value, (str, Path, Enum)):
        if how.min is not None and not value >= how.min:
            raise NotPlain
        if how.max is not None and not value <= how.max:
            raise NotPlain
    return value
