"""`hftctl status` as a whole process beside `python -c pass`, in turn, on a running floor. Goal: under 200 ms
of wall clock.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import floors

RUNS = 15


def wall_ms(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    with floors.floor() as floor:
        hftctl = [str(Path(sys.executable).with_name("hftctl")), "status"]
        ours, bare = [], []
        for _ in range(RUNS):
            ours.append(wall_ms(hftctl, floor.environment))
            bare.append(wall_ms([sys.executable, "-c", "pass"], floor.environment))
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    print(f"hftctl status: {ratio:.1f} times python -c pass ({RUNS} runs in turn)")
    print(
        f"  median {statistics.median(ours):.0f} ms, max {max(ours):.0f} ms; python -c pass "
        f"{statistics.median(bare):.0f} ms (goal: under 200 ms)"
    )


if __name__ == "__main__":
    main()
