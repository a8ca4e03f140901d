"""Tick to order: from the frame read in marketd to just before execd's send, beside the same chain of hops in
bare pyzmq (_chain.py).

Both on this machine in the same run, one after the other. The tape at 1x when the recorded data is there,
else the synthetic market. As root the lab as it is, with `sched: fifo` on the path, and the bare chain under
it too; then, for everybody, both under the default scheduler, as an ordinary user has it. Also the resident
memory of the floor and the time from `up --detach` to healthy. Ratios first: two shared cores drift.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _chain, _stops
from tests.conftest import recorded_data
from tests.support import floors


def resident_mb(site_dir: Path) -> tuple[float, float]:
    """(sum of RSS, sum of PSS) of the floor's processes in MB; RSS counts shared pages once a process."""
    rss = pss = 0.0
    for line in floors.processes_of(site_dir):
        try:
            process = psutil.Process(int(line.partition(":")[0]))
            rss += process.memory_info().rss / 1e6
            pss += process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue
    return rss, pss


PATH = ("marketd", "bookd", "strategy-mm", "riskd", "omsd", "execd")
"""Services from tick to order."""


@contextlib.contextmanager
def scheduled(sched: str) -> Iterator[None]:
    """This process and the children that it starts meanwhile."""
    if sched == "fifo":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def services(folder: str, sched: str) -> Path:
    """The lab's, with this scheduling on the path."""
    told = yaml.safe_load((Path(__file__).resolve().parent.parent / "inventory/lab/services.yml").read_text())
    for service in told["services"]:
        if service["name"] in PATH:
            service["sched"] = sched
    path = Path(folder) / f"services-{sched}.yml"
    path.write_text(yaml.safe_dump(told))
    return path


def measure(sched: str, ticks: list[_chain.Tick], tape: Path | None, seconds: float) -> dict[str, Any]:
    with scheduled(sched):
        bare = _chain.run(ticks)
    with tempfile.TemporaryDirectory() as folder, floors.floor(bring_up=False) as floor:
        began = time.monotonic()
        floor.up("--services", str(services(folder, sched)), *(("--tape", str(tape)) if tape else ()))
        up_s = time.monotonic() - began
        time.sleep(seconds)
        flow = floor.status()["flow"]
        rss, pss = resident_mb(floor.site_dir)
    return {"bare": bare, "flow": flow, "up_s": up_s, "rss": rss, "pss": pss}


def main() -> None:
    _stops.end_in_order()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    tape = recorded_data()
    ticks = _chain.recorded(tape, arguments.seconds) if tape else _chain.poisson(2000, 100.0)
    for sched in ("fifo", "other") if os.geteuid() == 0 else ("other",):
        found = measure(sched, ticks, tape, arguments.seconds)
        bare, flow = found["bare"], found["flow"]
        ours, ack = flow["tick_to_order_us"], flow["order_to_ack_us"]
        print(
            f"tick to order, sched {sched}, {flow['orders']} orders at {flow['messages_per_s']:.0f} "
            f"messages/s, beside {_chain.HOPS} bare pyzmq hops:"
        )
        print(
            f"  p50 ratio {ours['p50'] / bare['p50']:.2f} (goal: at most 1.5)   p99 ratio "
            f"{ours['p99'] / bare['p99']:.2f}"
        )
        for name, each in (("floor", ours), ("bare", bare)):
            print(f"  {name:5} p50 {each['p50']:.0f} p99 {each['p99']:.0f} p99.9 {each['p99_9']:.0f} µs")
        print(
            f"  order to acknowledgement p50 {ack['p50']:.0f} p99 {ack['p99']:.0f} µs, {flow['fills']} "
            f"fills, {flow['lost']} lost"
        )
        print(
            f"resident memory of the floor: {found['rss']:.0f} MB RSS summed, {found['pss']:.0f} MB PSS "
            "(goal: under 1,200 MB)"
        )
        print(f"up --detach to healthy: {found['up_s']:.1f} s (goal: under 15 s)")


if __name__ == "__main__":
    main()
