"""Positions and P&L: every execution is booked exactly once, in whatever order and however often it comes.

Quantity and cash are engine/accounts.py's, so they equal the venue's to the last unit. On top: the cost of
what is open (average-cost method), and from it realised = cash + cost and unrealised = quantity x mark -
cost. Their sum is always exact; only the split between them is rounded to 1e-8 when part of a position is
closed. Pure. Who keeps it on disk: storage/position_log.py; who publishes it: daemons/positiond.py.

Bad input: an execution that cannot be booked exactly changes no sum, counts as seen, and makes the position
of its instrument doubtful, for good. A derived figure over 64 bits is given as the nearest that fits, and
named in `saturated`; the cost behind it stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from hftd.engine import accounts
from hftd.wire.orders import Side

UNIT = accounts.UNIT


class Execution(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One fill, as it is kept in the log."""

    id: int
    """The venue's, rising over all instruments, with whatever gaps between."""
    market: str
    symbol: str
    side: Side
    price: int
    quantity: int


class Seen:
    """Which execution ids were applied: all that there are up to one, and some above it. Ids need not be
    dense: that a gap holds nothing only who knows the venue's list can say (`told`).
    """

    __slots__ = ("above", "up_to")

    def __init__(self, up_to: int = 0, above: set[int] | None = None) -> None:
        self.up_to = up_to
        self.above = above or set()

    def __contains__(self, id: int) -> bool:
        return id <= self.up_to or id in self.above

    def add(self, id: int) -> None:
        self.above.add(id)
        self._go_on()

    def told(self, after: int, up_to: int, count: int) -> bool:
        """There are `count` ids above `after` and up to `up_to`. True when that is so here: then nothing is
        missing up to there.
        """
        if after != self.up_to or up_to <= after:
            return False
        found = {id for id in self.above if id <= up_to}
        if len(found) != count:
            return False
        self.above -= found
        self.up_to = up_to
        self._go_on()
        return True

    def _go_on(self) -> None:
        while self.up_to + 1 in self.above:  # nothing fits between two ids that follow each other
            self.up_to += 1
            self.above.remove(self.up_to)

    def __repr__(self) -> str:
        return f"<Seen to {self.up_to}, {len(self.above)} above>"


@dataclass(frozen=True, slots=True)
class Position:
    """All in 1e-8: quantity of the base (or contracts), the rest of the quote currency."""

    market: str
    symbol: str
    quantity: int
    cash: int
    average_price: int
    """Of what is open; 0 when flat."""
    realised: int
    unrealised: int
    """0 while no mark is known."""
    last_execution: int
    """Highest execution id applied to this instrument."""
    saturated: tuple[str, ...] = ()
    """Names of the fields above that are over 64 bits: the nearest value that fits stands there."""
    doubtful: bool = False
    """The quantity is not to be relied on: an execution could not be booked, or it is over 64 bits itself."""
    marked: bool = True
    """A price to value it by is known."""


class Refused(NamedTuple):
    """The last execution of an instrument that could not be booked."""

    id: int
    reason: str


@dataclass(slots=True)
class _Open:
    cost: int = 0
    """Of the open quantity, 1e-8 of the quote currency, with its sign."""
    last_execution: int = 0


def _share(amount: int, part: int, whole: int) -> int:
    """amount x part / whole, rounded to nearest; signs of `part` and `whole` agree."""
    quotient, rest = divmod(abs(amount) * abs(part), abs(whole))
    if 2 * rest >= abs(whole):
        quotient += 1
    return quotient if amount >= 0 else -quotient


class Positions:
    def __init__(self) -> None:
        self.seen = Seen()
        self._accounts = accounts.Accounts()
        self._open: dict[tuple[str, str], _Open] = {}
        self._marks: dict[tuple[str, str], int] = {}
        self.refused: dict[tuple[str, str], Refused] = {}
        """(market, symbol) -> why its position is doubtful."""

    def apply(self, execution: Execution) -> str:
        """Book one execution that has not been seen: "" when it is booked, else a reason code, and no sum has
        changed.

        It counts as seen either way: the venue books by the same rules, and would say the same again.
        """
        assert execution.id not in self.seen, f"execution {execution.id} applied twice"
        self.seen.add(execution.id)
        key = (execution.market, execution.symbol)
        before = self._accounts.of(*key).quantity
        refused = self._accounts.book(*key, execution.side, execution.price, execution.quantity)
        if refused:
            self.refused[key] = Refused(execution.id, refused)
            return refused
        open_ = self._open.setdefault(key, _Open())
        after = self._accounts.of(*key).quantity
        if before == 0 or (before > 0) == (after > before):
            open_.cost += (execution.price * (after - before)) // UNIT  # whole: the account took it
        elif after != 0 and (after > 0) == (before > 0):
            open_.cost = _share(open_.cost, after, before)
        else:
            open_.cost = _share(execution.price, after, UNIT) * (1 if after >= 0 else -1)
        open_.last_execution = max(open_.last_execution, execution.id)
        return ""

    def mark(self, market: str, symbol: str, price: int) -> None:
        """The price at which an open position is valued; 0 or less: none known."""
        if price > 0:
            self._marks[market, symbol] = price
        else:
            self._marks.pop((market, symbol), None)

    def of(self, market: str, symbol: str) -> Position:
        key = (market, symbol)
        account, open_ = self._accounts.of(market, symbol), self._open.get(key, _Open())
        mark, quantity, cost = self._marks.get(key), account.quantity, open_.cost
        exact = {
            "quantity": quantity,
            "cash": account.cash,
            "average_price": _share(abs(cost), UNIT, quantity) if quantity else 0,
            "realised": account.cash + cost,
            "unrealised": (quantity * mark) // UNIT - cost if mark is not None and quantity else 0,
        }
        over = tuple(name for name, value in exact.items() if not accounts.fits(value))
        return Position(
            market,
            symbol,
            **{name: accounts.saturated(value) for name, value in exact.items()},
            last_execution=open_.last_execution,
            saturated=over,
            doubtful=key in self.refused or "quantity" in over,
            marked=mark is not None,
        )

    def __iter__(self) -> Iterator[Position]:
        """In the order of market and symbol."""
        for market, symbol, _ in self._accounts:
            yield self.of(market, symbol)

    # --- snapshots ------------------------------------------------------------------------------------------

    def dump(self) -> PositionsDump:
        rows = [
            Row(market, symbol, account.quantity, account.cash, open_.cost, open_.last_execution)
            for market, symbol, account in self._accounts
            for open_ in (self._open[market, symbol],)
        ]
        refused = [RefusedRow(*key, *why) for key, why in sorted(self.refused.items())]
        return PositionsDump(self.seen.up_to, sorted(self.seen.above), rows, refused)

    @classmethod
    def load(cls, snapshot: PositionsDump) -> Positions:
        positions = cls()
        positions.seen = Seen(snapshot.up_to, set(snapshot.above))
        for row in snapshot.rows:
            positions._accounts.restore(row.market, row.symbol, row.quantity, row.cash)
            positions._open[row.market, row.symbol] = _Open(row.cost, row.last_execution)
        positions.refused = {
            (row.market, row.symbol): Refused(row.id, row.reason) for row in snapshot.refused
        }
        return positions


class Row(msgspec.Struct, frozen=True):
    market: str
    symbol: str
    quantity: int
    cash: int
    cost: int
    last_execution: int


class RefusedRow(msgspec.Struct, frozen=True):
    market: str
    symbol: str
    id: int
    reason: str


class PositionsDump(msgspec.Struct, frozen=True):
    up_to: int
    above: list[int]
    rows: list[Row]
    refused: list[RefusedRow] = []


class Inventory:
    """One instrument's net quantity as positiond last said it, plus the fills that it had not seen then. For
    riskd and strategies.
    """

    __slots__ = ("_after", "_fills", "doubtful", "known", "quantity")

    FILLS_MAX = 1_000
    """Fills that positiond has not confirmed; beyond it (positiond is gone) the oldest are believed for
    good."""

    def __init__(self) -> None:
        self.quantity = 0
        self.known = False
        """positiond has spoken."""
        self.doubtful = False
        """By its own word the quantity is not to be relied on."""
        self._after = 0
        self._fills: dict[int, int] = {}

    def told(self, quantity: int, last_execution: int, *, doubtful: bool = False) -> None:
        """positiond's word: it contains all fills up to `last_execution`."""
        self._after, self.known, self.doubtful = last_execution, True, doubtful
        if self._fills:
            self._fills = {id: signed for id, signed in self._fills.items() if id > last_execution}
        self.quantity = quantity + sum(self._fills.values())

    def filled(self, execution_id: int, side: Side, quantity: int) -> None:
        if execution_id <= self._after or execution_id in self._fills or quantity <= 0:
            return
        signed = quantity if side is Side.BUY else -quantity
        self._fills[execution_id] = signed
        self.quantity += signed
        if len(self._fills) > self.FILLS_MAX:
            del self._fills[next(iter(self._fills))]
