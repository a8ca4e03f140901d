"""What a line of a daemon's log costs its caller, beside the standard library's logging and the bare write,
in turn, into a pipe that somebody reads.

Goal: 3 to 8 us or less, and never a wait (tests/unit/hftd/test_log.py has the full pipe).
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hftd.runtime.log import Log

ROUNDS = 300
CALLS = 50
PAUSE_S = 0.002
"""Between rounds; the reader empties the pipe meanwhile."""


def measured(calls: dict[str, Callable[[int], object]]) -> dict[str, list[float]]:
    """Microseconds of each call, by name."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS):
        for name, call in calls.items():
            for n in range(CALLS):
                began_ns = time.perf_counter_ns()
                call(round_ * CALLS + n)
                took[name].append((time.perf_counter_ns() - began_ns) / 1000)
            time.sleep(PAUSE_S)
    return took


def main() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        pipe = reader.stdin.fileno()
        ours = Log(pipe)
        ours.never_wait()
        theirs = logging.getLogger("benchmark")
        handler = logging.StreamHandler(os.fdopen(os.dup(pipe), "w"))
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        theirs.addHandler(handler)
        theirs.setLevel(logging.INFO)
        line = b"2026-01-01T00:00:00.000Z book.gap symbol='BTCUSDT' expected=12345 found=12348\n"
        took = measured(
            {
                "log line": lambda n: ours.line(
                    "book.gap", {"symbol": "BTCUSDT", "expected": n, "found": n + 3}
                ),
                "logging": lambda n: theirs.info(
                    "book.gap symbol=%r expected=%d found=%d", "BTCUSDT", n, n + 3
                ),
                "bare write": lambda n: os.write(pipe, line),
            }
        )
        handler.stream.close()
        reader.stdin.close()
    p50 = {name: statistics.median(values) for name, values in took.items()}
    print(
        f"log line: {p50['log line'] / p50['logging']:.2f} times logging's, "
        f"{p50['log line'] / p50['bare write']:.1f} times a bare write"
    )
    for name, values in took.items():
        print(f"  {name:10} p50 {p50[name]:.1f} us, p99 {sorted(values)[int(len(values) * 0.99)]:.1f} us")


if __name__ == "__main__":
    main()
