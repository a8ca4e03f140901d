"""What reading one of the site's flags costs a daemon, in the three ways there are, with 200 keys in memory:
the call that a strategy makes, the mapping, and the attribute that omsd's desk reads before each order.

Goal: under 100 ns each. Then the same with settings: an attribute of the frozen object in force.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controlplane.host import identity
from hftd import runtime
from hftd.daemons.omsd.kill_switch import KillSwitch
from hftd.runtime import context as contexts
from hftd.settings import StrategySettings

ROUNDS = 40
CALLS = 20_000
GOAL_NS = 100.0


def reads_ns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median of all rounds, less a call of nothing. In turn, so that a busy machine is busy for all."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    many = range(CALLS)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began_ns = time.perf_counter_ns()
            for _ in many:
                call()
            took[name].append((time.perf_counter_ns() - began_ns) / CALLS)
    nothing = statistics.median(took.pop("nothing"))
    return {name: statistics.median(each) - nothing for name, each in took.items()}


def a_context(folder: Path) -> runtime.Context:
    me = identity.identify("omsd-alpha-1")
    assert me is not None
    flags = {f"key-{n}": n for n in range(199)} | {"kill_switch": False}
    config = contexts.Config(1, "omsd", folder, folder, folder / "data", folder / "journal", {}, flags)
    return runtime.Context(site="lab", host="alpha", service="omsd", process=me, config=config)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = a_context(Path(folder))
        switch, settings = KillSwitch(context), StrategySettings()

        def nothing() -> None:
            pass

        def by_call() -> object:
            return context.flag("kill_switch", False)

        def by_mapping() -> object:
            return context.flags.get("kill_switch", False)

        def by_attribute() -> object:
            return switch.on

        def a_setting() -> object:
            return settings.skew_ppm

        took = reads_ns(
            {
                "nothing": nothing,
                "context.flag(name)": by_call,
                "context.flags.get(name)": by_mapping,
                "the desk's attribute": by_attribute,
                "a setting": a_setting,
            }
        )
    for name, each in took.items():
        print(f"  {name:24} {each:6.1f} ns   {'' if each < GOAL_NS else f'over {GOAL_NS:.0f} ns'}".rstrip())


if __name__ == "__main__":
    main()
