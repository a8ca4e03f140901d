"""Small captures that each showed a fault (tests/cases/market), as they are and shifted.

A fault is of a kind, and the capture is one example of it: shifted, its ids, prices and times are others by a
constant, and its files have other names and another symbol; what is right of it stays the same.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "cases" / "market"
IDS = {"U", "u", "pu", "lastUpdateId", "t"}
TIMES = {"E", "T"}
LEVELS = {"bids", "asks", "b", "a"}
MICROSECONDS_FROM = 10**14
INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True)
class Shift:
    ids: int = 0
    price: Decimal = Decimal(0)
    hours: int = 0
    symbol: str = ""
    """What stands for BTC in the symbol; also in the names of the files."""

    def name(self, name: str) -> str:
        """Same order of the same files, by another form of the date where it is of a whole day."""
        if not self.symbol:
            return name
        name = name.lower().replace("btc", self.symbol.lower()).replace(".gz", ".jsonl.gz")
        return name.replace("_20250303.", "-2025-03-03.")

    def price_text(self, text: str) -> str:
        return text if not Decimal(text) else str(Decimal(text) + self.price)

    def line(self, line: bytes) -> bytes:
        head, _, raw = line.partition(b" ")
        data = self._object(json.loads(raw))
        receive_ns = int(head)
        if receive_ns <= INT64_MAX:
            receive_ns += self.hours * 3_600_000_000_000
        return b"%d %s" % (receive_ns, json.dumps(data, separators=(",", ":")).encode())

    def _object(self, data: dict[str, Any]) -> dict[str, Any]:
        return {key: self._value(key, value) for key, value in data.items()}

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return self._object(value)
        if key in IDS and isinstance(value, int) and value <= INT64_MAX:
            return value + self.ids
        if key in TIMES and isinstance(value, int):
            return value + self.hours * 3_600_000 * (1000 if value >= MICROSECONDS_FROM else 1)
        if key in LEVELS and isinstance(value, list):
            return [[self.price_text(price), quantity] for price, quantity in value]
        if key in ("p", "a", "b") and isinstance(value, str):
            return self.price_text(value)
        if self.symbol and key in ("s", "ps") and isinstance(value, str):
            return value.replace("BTC", self.symbol)
        if self.symbol and key == "stream":
            return str(value).replace("btc", self.symbol.lower())
        return value


AS_IT_IS = Shift()
SHIFTED = Shift(ids=9_000_000_123, price=Decimal("1234.5"), hours=5_001, symbol="SOL")
SHIFTS = {"as it is": AS_IT_IS, "shifted": SHIFTED}


def capture(to: Path, case: str, shift: Shift = AS_IT_IS) -> Path:
    """The capture `NUMBER-.../NAME` under a folder of its own, shifted; returns that folder."""
    source = FOLDER / case
    for path in sorted(source.rglob("*.gz")):
        lines = gzip.decompress(path.read_bytes()).split(b"\n")
        made = b"".join(
            shift.line(line) + b"\n" if shift != AS_IT_IS else line + b"\n" for line in lines if line
        )
        target = to / source.name / path.relative_to(source).parent / shift.name(path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(made))
    return to / source.name
