"""Completion of plain lines for bash, zsh and fish: verbs, options, and what an option or an argument may be,
from what the verbs declare. A key was pressed and somebody waits, so typer is not imported.

Promises what typer would answer (test_complete.py compares the two), for the scripts that typer installs.
`answer` returns None for what it leaves to typer: lines that are not plain, verbs of other packages, other
shells. Those verbs are named without being imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from controlplane.cli import declare, foreign, plain
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.errors import HftctlError

Candidate = tuple[str, str]
"""A word, and a line of help or ""."""

HELP = ("--help", "Show this message and exit.")


def answer(environ: Mapping[str, str], shell: str, verbs: Mapping[str, Any]) -> str | None:
    """What the shell's script reads from stdout. `verbs` as verbs.VERBS."""
    typed = _typed(environ, shell)
    if typed is None:
        return None
    try:
        return _SHELLS[shell](list(_candidates(*typed, verbs)))
    except plain.NotPlain:
        return None


def _typed(environ: Mapping[str, str], shell: str) -> tuple[list[str], str] | None:
    """The words before the cursor, and the beginning of the one at it; None: not plain."""
    line = environ.get("COMP_WORDS" if shell == "bash" else "_TYPER_COMPLETE_ARGS", "")
    if shell not in _SHELLS or not line.isascii() or any(each in line for each in "'\"\\="):
        return None
    words = line.split()
    if shell == "bash":
        at = environ.get("COMP_CWORD", "")
        return (words[1 : int(at)], (words[int(at) :] or [""])[0]) if at.isdecimal() else None
    if shell == "fish" and environ.get("_TYPER_COMPLETE_FISH_ACTION") != "get-args":
        return None
    return (words[1:], "") if line.endswith(" ") or len(words) < 2 else (words[1:-1], words[-1])


def _candidates(words: list[str], beginning: str, verbs: Mapping[str, Any]) -> Iterator[Candidate]:
    """Raises NotPlain."""
    if not words:
        if beginning.startswith("-"):
            raise plain.NotPlain
        named = {name: verb.help for name, verb in verbs.items()}
        yield from _beginning(
            named | {name: named.get(name, "") for name in sorted(foreign.places())}, beginning
        )
        return
    if words[0] not in verbs:
        raise plain.NotPlain
    target, rest = declare.at(verbs[words[0]].place), words[1:]
    if isinstance(target, Noun):
        if not rest and not beginning.startswith("-"):
            yield from _beginning({each: first_line(verb) for each, verb in target.verbs.items()}, beginning)
            return
        if not rest or rest[0] not in target.verbs:
            raise plain.NotPlain
        target, rest = target.verbs[rest[0]], rest[1:]
    yield from _of_verb(target, rest, beginning)


def _of_verb(function: Callable[..., Any], words: list[str], beginning: str) -> Iterator[Candidate]:
    """Names of options that are not given yet, the values of the one before the cursor, or those of the next
    argument.
    """
    takes = plain.parameters(function)
    last, constant = plain.spellings(takes).get(words[-1] if words else "", (None, None))
    if last is not None and constant is None and not beginning.startswith("-"):
        if issubclass(last.type, Enum):
            yield from _beginning({each.value: "" for each in last.type}, beginning)
        elif last.declared.complete:
            yield from known(last.declared.complete, plain.values(words[:-1], takes), beginning)
        return
    given = plain.values(words, takes)
    if not beginning.startswith("-"):
        loose = (each for each in takes if isinstance(each.declared, Argument))
        at = next((each for each in loose if each.many or each.name not in given), None)
        if at is not None and at.declared.complete:
            yield from known(at.declared.complete, given, beginning)
    if beginning.startswith("-"):
        for each in takes:
            if isinstance(each.declared, Option) and (each.many or each.name not in given):
                # a name without a value comes before its opposite, as typer lists them
                pairs = [name.partition("/") for name in each.declared.names]
                names = [yes for yes, _, _ in pairs] + [no for _, _, no in pairs if no]
                yield from _beginning(dict.fromkeys(names, each.declared.help), beginning)
        yield from _beginning(dict([HELP]), beginning)


def known(place: str, given: Mapping[str, Any], beginning: str) -> Iterator[Candidate]:
    """What the function at `FILE:NAME` knows for a line on which these parameters are given; nothing when it
    cannot find out.
    """
    try:
        yield from _beginning(declare.at(place)(given), beginning)
    except HftctlError:
        return


def _beginning(named: Mapping[str, str], beginning: str) -> Iterator[Candidate]:
    return ((name, help) for name, help in named.items() if name.startswith(beginning))


def first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


def _bash(found: list[Candidate]) -> str:
    return "\n".join(name for name, _ in found)


def _zsh(found: list[Candidate]) -> str:
    escaped = str.maketrans({'"': '""', "'": "''", "$": "\\$", "`": "\\`", ":": "\\\\:"})
    lines = (":".join(f'"{each.translate(escaped)}"' for each in pair if each) for pair in found)
    return "_arguments '*: :((" + "\n".join(lines) + "))'" if found else "_files"


def _fish(found: list[Candidate]) -> str:
    return "\n".join("\t".join(each for each in pair if each) for pair in found)


_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
