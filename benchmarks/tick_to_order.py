"""Tick to order: from the frame read in marketd to just before execd's send, beside the same chain of hops in bare pyzmq (_chain.py).

Both on this machine in the same run, one after the other. The tape at 1x when the recorded data is there, else the synthetic market. Also the
resident memory of the whole floor and the time from `up --detach` to healthy. Ratios first: two shared cores drift.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _chain
from tests.conftest import recorded_data
from tests.support import floors


def resident_mb(site_dir: Path) -> tuple[float, float]:
    """(sum of RSS, sum of PSS) of the floor's processes in MB; RSS counts shared pages once for each process."""
    rss = pss = 0.0
    for line in floors.processes_of(site_dir):
        try:
            process = psutil.Process(int(line.partition(":")[0]))
            rss += process.memory_info().rss / 1e6
            pss += process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue
    return rss, pss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    tape = recorded_data()
    bare = _chain.run(_chain.recorded(tape, arguments.seconds) if tape else _chain.poisson(2000, 100.0))
    with floors.floor(bring_up=False) as floor:
        began = time.monotonic()
        floor.up(*(("--tape", str(tape)) if tape else ()))
        up_s = time.monotonic() - began
        time.sleep(arguments.seconds)
        flow = floor.status()["flow"]
        rss, pss = resident_mb(floor.site_dir)
    ours, ack = flow["tick_to_order_us"], flow["order_to_ack_us"]
    print(f"tick to order, {flow['orders']} orders at {flow['messages_per_s']:.0f} messages/s, beside {_chain.HOPS} bare pyzmq hops:")
    print(f"  p50 ratio {ours['p50'] / bare['p50']:.2f} (goal: at most 1.5)")
    for name, found in (("floor", ours), ("bare", bare)):
        print(f"  {name:5} p50 {found['p50']:.0f} p99 {found['p99']:.0f} p99.9 {found['p99_9']:.0f} µs")
    print(f"  order to acknowledgement p50 {ack['p50']:.0f} p99 {ack['p99']:.0f} µs, {flow['fills']} fills, {flow['lost']} lost")
    print(f"resident memory of the floor: {rss:.0f} MB RSS summed, {pss:.0f} MB PSS (goal: under 1,200 MB)")
    print(f"up --detach to healthy: {up_s:.1f} s (goal: under 15 s)")


if __name__ == "__main__":
    main()
