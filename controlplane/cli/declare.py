"""How a verb declares its options and arguments: as data in the annotations of its function.

Two read it: plain.py, which runs an ordinary line and imports nothing for it, and with_typer.py, which hands
the same declarations to typer for help, completion and whatever is wrong with a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class Option:
    """`Annotated[float, Option("--timeout", min=1, help="...")]`; without a default it is required.

    A bool takes no value: `"--wait"`, or `"--wait/--no-wait"`. A list may be given several times. `complete`:
    `FILE:NAME` of what a shell is told for its value (complete.py).
    """

    __slots__ = ("complete", "envvar", "help", "max", "min", "names")

    def __init__(
        self,
        *names: str,
        help: str,
        min: float | None = None,
        max: float | None = None,
        envvar: str | None = None,
        complete: str = "",
    ) -> None:
        self.names = names
        self.help = help
        self.min = min
        self.max = max
        self.envvar = envvar
        self.complete = complete


class Argument:
    """`Annotated[str, Argument(help="...")]`; a list takes all words that are left. `complete` as Option."""

    __slots__ = ("complete", "help", "metavar")

    def __init__(self, *, help: str, metavar: str | None = None, complete: str = "") -> None:
        self.help = help
        self.metavar = metavar
        self.complete = complete


class Noun:
    """A verb with verbs of its own: `hftctl host list`."""

    __slots__ = ("help", "verbs")

    def __init__(self, help: str, verbs: Mapping[str, Callable[..., Any]]) -> None:
        self.help = help
        self.verbs = verbs


def at(place: str) -> Any:
    """The verb's function, or Noun, at `FILE:NAME` of this folder."""
    file, _, name = place.partition(":")
    return getattr(import_module(f"controlplane.cli.{file}"), name)
