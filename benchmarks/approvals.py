"""What an approval costs on the order path: riskd makes its MAC, execd checks it and takes it. Beside it a
bare keyed BLAKE2b of as many bytes, from the same run. CPU time of the thread, so that other work on the
machine counts only by the caches that it takes. Goal: under 3 µs on each side.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hftd.engine.orders import approvals
from hftd.wire import codec, orders

KEY = bytes(range(32))
RISK = codec.TokenOnWire(1_790_000_000_000, "riskd", 3)
ROUNDS, CALLS = 20, 5_000


def order(number: int) -> orders.Place:
    head = codec.head("omsd-alpha-1", 1_790_000_000_000_000_000, number, RISK)
    return orders.Place(
        *head, f"strategy-mm-1790000000000-{number}", "strategy-mm", "usdm", "BTCUSDT", orders.Side.BUY,
        orders.Kind.POST_ONLY, 6_180_020_000_000, 100_000, 5, 6, f"omsd-7-{number}", None, None,
        f"strategy-mm-1790000000000-{number - 1}", f"omsd-7-{number - 1}",
    )  # fmt: skip


def microseconds(run: Callable[[orders.Place], object], those: list[orders.Place]) -> float:
    began_ns = time.thread_time_ns()
    for each in those:
        run(each)
    return (time.thread_time_ns() - began_ns) / len(those) / 1000


def main() -> None:
    macs = approvals.Macs(KEY)
    gate = approvals.Approvals(macs)
    taken: dict[str, list[float]] = {"riskd makes it": [], "execd takes it": [], "bare keyed BLAKE2b": []}
    number = 0

    def make(place: orders.Place) -> object:
        return macs.approval(place, place.seq, RISK, 1)

    def bare(place: orders.Place) -> object:
        return hashlib.blake2b(bytes(160), key=KEY, digest_size=16).digest()

    for _ in range(ROUNDS):
        those = [order(number + n) for n in range(1, CALLS + 1)]
        number += CALLS
        approved = [msgspec.structs.replace(each, approval=make(each)) for each in those]
        taken["riskd makes it"].append(microseconds(make, those))
        taken["execd takes it"].append(microseconds(gate.take, approved))
        taken["bare keyed BLAKE2b"].append(microseconds(bare, those))
        assert gate.take(approved[-1]) != "", "it was taken, so it is used"
    print(f"an approval of an order, {ROUNDS} rounds of {CALLS} (goal: under 3 µs on each side):")
    for name, each in taken.items():
        print(f"  {name:20} median {statistics.median(each):.2f} µs, fastest round {min(each):.2f} µs")


if __name__ == "__main__":
    main()
