"""Tape at full speed through marketd and bookd: messages and level updates a second, timed from the
compressed bytes, and nothing lost.

    python -m benchmarks.throughput [FOLDER or FILES]        (default: HFT_RECORDED_DATA or ../shared/data,
    binance-2024-08-08)

Two real processes over ipc, no strategies: marketd reads the files itself, paced by bookd's credit. This
process plays their agent: it introduces them to each other and asks for their counts. What bookd counted per
instrument and kind must be what the tape holds, counted by a third reading.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _pair
from controlplane.errors import InvalidInput
from hftd import settings
from hftd.venues import binance, replay
from hftd.wire import market

TARGET_MESSAGES_PER_S = 30_000
TIMEOUT_S = 300.0
ROOT = Path(__file__).resolve().parent.parent


def reading_alone(files: list[Path]) -> float:
    """The floor: lines a second of the tape unpacked, split and merged, and nothing done with them."""
    began = time.monotonic()
    lines = sum(1 for _ in replay.Tape(files))
    return lines / (time.monotonic() - began)


def tape_counts(files: list[Path]) -> tuple[dict[str, dict[str, int]], int]:
    """Name -> kind -> messages, and the level updates, by reading the tape here."""
    tape = replay.Tape(files)
    normalise = [binance.Normaliser(one.market, one.id, one.symbol) for one in tape.instruments]
    counts: list[Counter[int]] = [Counter() for _ in tape.instruments]
    level_updates = 0
    for line in tape:
        if isinstance(line, replay.BadLine):
            continue
        message = normalise[line.instrument](line.raw, line.receive_ns)
        if isinstance(message, market.Message):
            counts[line.instrument][message.kind] += 1
            if message.kind == market.Kind.DIFF:
                level_updates += len(message.bids) + len(message.asks)
    named = {
        one.name: {market.Kind(kind).name.lower(): n for kind, n in counts[one.id].items()}
        for one in tape.instruments
    }
    return named, level_updates


def without_reference(counts: dict[str, int]) -> dict[str, int]:
    return {kind: n for kind, n in counts.items() if kind != "instrument"}


def measure(files: list[Path]) -> dict[str, Any]:
    """Run the pair over the files. Raises RuntimeError when a count differs or it does not end in time."""
    wanted, level_updates = tape_counts(files)
    messages = sum(sum(kinds.values()) for kinds in wanted.values())
    with tempfile.TemporaryDirectory(prefix="hft-") as folder, _pair.Pair(Path(folder)) as pair:
        pair.start("marketd", settings.MarketSettings(files=tuple(map(str, files))))
        pair.start("bookd", settings.BookSettings())
        until, began, found = time.monotonic() + TIMEOUT_S, 0.0, {}
        while time.monotonic() < until:
            books = pair.ask("bookd", "books") or {}
            found = {name: without_reference(book["counts"]) for name, book in books.items()}
            total = sum(sum(kinds.values()) for kinds in found.values())
            if total and not began:
                began, before = time.monotonic(), total
            if total >= messages:
                took_s = time.monotonic() - began
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"not through in {TIMEOUT_S} s: {found}")
        if found != wanted:
            raise RuntimeError(f"bookd counted {found}, the tape holds {wanted}")
        for _ in range(30):
            pair.turn()
        counters = {name: dict(status.counters) for name, status in pair.status.items()}
    timed = messages - before
    return {
        "messages": messages,
        "level_updates": level_updates,
        "timed_messages": timed,
        "seconds": round(took_s, 3),
        "messages_per_s": round(timed / took_s),
        "level_updates_per_s": round(level_updates * timed / messages / took_s),
        "floor_lines_per_s": round(reading_alone(files)),
        "lost": sum(counter.get("lost", 0) for counter in counters.values()),
        "gaps": sum(book["gaps"] for book in books.values()),
        "counts_equal": True,
        "target_messages_per_s": TARGET_MESSAGES_PER_S,
    }


def main() -> int:
    named = [Path(argument) for argument in sys.argv[1:]]
    if not named:
        named = [
            Path(os.environ.get("HFT_RECORDED_DATA", str(ROOT.parent / "shared" / "data")))
            / "binance-2024-08-08"
        ]
    try:
        result = measure(named)
    except InvalidInput as exc:
        print(f"throughput: {exc}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2))
    return 0 if result["messages_per_s"] >= TARGET_MESSAGES_PER_S and not result["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
