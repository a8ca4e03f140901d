"""The daemons that can be run, by their kinds' entry points (`hftctl.daemons`), so that one of somebody
else's runs the same way.

A daemon's module is imported here and nowhere else, in its own process.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import msgspec

from controlplane.errors import HftctlError, InvalidInput
from controlplane.model.specs import DaemonKind
from hftd import runtime
from hftd.sched import slice

DAEMONS_GROUP = "hftctl.daemons"


def _entries() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=DAEMONS_GROUP)}


def names() -> list[str]:
    return sorted(_entries())


def kind_of(name: str) -> DaemonKind:
    """Raises InvalidInput that lists the daemons there are."""
    entries = _entries()
    if name not in entries:
        raise InvalidInput(f'"{name}" is not a daemon; there are {", ".join(sorted(entries))}')
    kind: DaemonKind = entries[name].load()
    return kind


def settings_of(kind: DaemonKind, given: Any, source: str) -> Any:
    """The agent has checked them; a daemon that was updated under a running floor has the last word."""
    try:
        return msgspec.convert(given, kind.settings)
    except (msgspec.ValidationError, HftctlError) as exc:
        raise InvalidInput(f"{source}: settings of {kind.name}: {exc}") from exc


def load(kind: DaemonKind) -> Callable[[runtime.Context, Any], runtime.Loop]:
    """The daemon's `build`. Importing was work; from here on the process, and the threads that it starts,
    wait for ticks.
    """
    build: Callable[[runtime.Context, Any], runtime.Loop] = import_module(kind.module).build
    slice.ask(slice.SHORT_NS if kind.hot else slice.DEFAULT_NS)
    return build
