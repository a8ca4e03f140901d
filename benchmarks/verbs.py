"""Every verb of hftctl as a whole process beside `python -c pass` and `python -c "import typer"`, in turn, on
a running floor; completion and `--help` too. Goal: each under 100 ms of wall clock.
`benchmarks/verbs.py status events` measures those.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _stops
from tests.support import floors

RUNS = 15
GOAL_MS = 100
BARE = "python -c pass"
TYPER = "python -c 'import typer'"
"""What no verb can go below while typer reads the command line."""

LINES = ["status", "services", "health", "endpoints omsd", "host list", "events", "history omsd", "orders"]
LINES += ["positions", "logs omsd-alpha-1", "-o json status", "--help", "up --help"]
COMPLETIONS: dict[str, Mapping[str, str]] = {
    "completion of a verb (bash)": {
        "_HFTCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "hftctl ser",
        "COMP_CWORD": "1",
    },
    "completion of an option (zsh)": {
        "_HFTCTL_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "hftctl services --",
    },
}


def wall_ms(command: list[str], environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return (time.perf_counter() - began) * 1000


def measured(wanted: list[str], runs: int = RUNS) -> dict[str, list[float]]:
    """Wall ms of each command, all in turn, so that what else the machine does falls on all alike."""
    hftctl = str(Path(sys.executable).with_name("hftctl"))
    with floors.floor() as floor:
        floor.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as it is installed: compiled once
        commands: dict[str, tuple[list[str], Mapping[str, str]]] = {
            BARE: ([sys.executable, "-c", "pass"], floor.environment),
            TYPER: ([sys.executable, "-c", "import typer"], floor.environment),
        }
        for line in LINES:
            commands[line] = ([hftctl, *line.split()], floor.environment)
        for name, given in COMPLETIONS.items():
            commands[name] = ([hftctl], {**floor.environment, **given})
        if wanted:
            commands = {name: each for name, each in commands.items() if name in (BARE, TYPER, *wanted)}
        for name, (command, environment) in commands.items():
            answered = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if answered.returncode not in (0, 1):  # 1: answered, and something is not healthy yet
                raise SystemExit(f"{name}: exit {answered.returncode}: {answered.stderr}")
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, (command, environment) in commands.items():
                times[name].append(wall_ms(command, environment))
    return times


def main() -> None:
    _stops.end_in_order()
    times = measured(sys.argv[1:])
    bare = times.pop(BARE)
    print(f"times {BARE} ({RUNS} runs in turn), then ms; goal: each under {GOAL_MS} ms")
    for name, ours in times.items():
        ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
        median = statistics.median(ours)
        verdict = "" if median < GOAL_MS or name == TYPER else "   over the goal"
        print(f"  {ratio:4.1f}  {name:32} median {median:4.0f}, max {max(ours):4.0f}{verdict}")
    print(f"   1.0  {BARE:32} median {statistics.median(bare):4.0f}, max {max(bare):4.0f}")


if __name__ == "__main__":
    main()
