"""`hftd NAME`: one trading daemon in this process, under an agent (its environment says everything) or by hand (`--config FILE`).

The daemon's module is imported here and nowhere else, found by its kind's entry point (`hftctl.daemons`), so that a daemon of somebody else's runs
the same way. Exit 2: bad arguments, config or settings, said in one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import msgspec

from controlplane.errors import HftctlError, InvalidInput
from controlplane.model import DaemonKind
from hftd import runtime
from hftd.native import policy, slice

DAEMONS_GROUP = "hftctl.daemons"
USAGE = "usage: hftd NAME [--config FILE]"


def kind_of(name: str) -> DaemonKind:
    """Raises InvalidInput that lists the daemons there are."""
    entries = {entry.name: entry for entry in metadata.entry_points(group=DAEMONS_GROUP)}
    if name not in entries:
        raise InvalidInput(f'"{name}" is no daemon (there are {", ".join(sorted(entries))})')
    kind: DaemonKind = entries[name].load()
    return kind


def settings_of(kind: DaemonKind, given: Any, source: str) -> Any:
    """The agent has checked them; a daemon that was updated under a running floor has the last word."""
    try:
        return msgspec.convert(given, kind.settings)
    except (msgspec.ValidationError, HftctlError) as exc:
        raise InvalidInput(f"{source}: settings of {kind.name}: {exc}") from exc


def load(kind: DaemonKind) -> Callable[[runtime.Floor, Any], runtime.Loop]:
    """The daemon's `build`. Importing was work; from here on the process, and the threads that it starts, wait for ticks."""
    build: Callable[[runtime.Floor, Any], runtime.Loop] = import_module(kind.module).build
    slice.ask(slice.SHORT_NS if kind.hot else slice.DEFAULT_NS)
    return build


def start(arguments: Sequence[str]) -> int:
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        kind = kind_of(arguments[0])
        build = load(kind)
        floor = runtime.Floor.from_environment()
        loop = build(floor, settings_of(kind, floor.config.settings, f"config of {floor.instance}"))
        left_out = policy.take(os.environ.get("HFT_SCHED", "other"))
        if left_out:
            floor.event("host.left_out", text=left_out)
        return loop.run()
    if len(arguments) == 3 and "--config" in arguments[:2] and not arguments[0].startswith("-"):
        from hftd import by_hand

        return by_hand.start(kind_of(arguments[0]), Path(arguments[2]))
    if arguments in (["-h"], ["--help"]):
        names = ", ".join(sorted(entry.name for entry in metadata.entry_points(group=DAEMONS_GROUP)))
        print(f"{USAGE}\n\nNAME: {names}.\nWithout --config the environment of an agent is needed (HFT_INSTANCE, HFT_AGENT, HFT_CONFIG ...).")
        return 0
    raise InvalidInput(USAGE)


def main() -> None:
    try:
        code = start(sys.argv[1:])
    except HftctlError as exc:
        for line in str(exc).splitlines():
            print(f"hftd: {line}", file=sys.stderr, flush=True)
        code = exc.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
