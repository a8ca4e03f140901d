"""Accounts: net quantity and cash of each (market, symbol), kept to the last unit or not changed at all.

Pure. Quantities are in 1e-8 of the base, cash in 1e-8 of the quote currency. A fill of `quantity` at `price`
moves price x quantity / 1e8 of cash. Where either is not above zero, the product is not whole, or a sum would
pass 64 bits, the fill is refused and nothing is booked: a rounded or wrapped account is never right again.
The venue (venues/sim.py) and positiond book by this same code, so that their sums can be compared with ==.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hftd.engine import reasons
from hftd.wire.orders import Side

UNIT = 100_000_000
"""1 in units of 1e-8: price x quantity is in 1e-16 and comes back by this."""
INT64_MAX = (1 << 63) - 1
INT64_MIN = -(1 << 63)


def fits(value: int) -> bool:
    return INT64_MIN <= value <= INT64_MAX


def saturated(value: int) -> int:
    """The nearest value that fits into 64 bits."""
    return max(INT64_MIN, min(INT64_MAX, value))


def notional(price: int, quantity: int) -> int | None:
    """price x quantity in 1e-8 of the quote currency; None where that is not whole."""
    whole, rest = divmod(price * quantity, UNIT)
    return None if rest else whole


@dataclass(slots=True)
class Account:
    quantity: int = 0
    cash: int = 0


class Accounts:
    """All accounts of one owner. An account begins with its first fill."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], Account] = {}

    def __repr__(self) -> str:
        return (
            "<Accounts "
            f"{', '.join(f'{market}/{symbol} {a.quantity} {a.cash}' for market, symbol, a in self)}>"
        )

    def __iter__(self) -> Iterator[tuple[str, str, Account]]:
        """In the order of market and symbol."""
        for market, symbol in sorted(self._accounts):
            yield market, symbol, self._accounts[market, symbol]

    def of(self, market: str, symbol: str) -> Account:
        """A copy: only `book` and `restore` change an account."""
        account = self._accounts.get((market, symbol), Account())
        return Account(account.quantity, account.cash)

    def restore(self, market: str, symbol: str, quantity: int, cash: int) -> None:
        self._accounts[market, symbol] = Account(quantity, cash)

    def book(self, market: str, symbol: str, side: Side, price: int, quantity: int) -> str:
        """Book one fill: "" when it is booked, else the reason code (reasons.py), and nothing has changed."""
        if price <= 0 or quantity <= 0:
            return reasons.NOT_POSITIVE
        value = notional(price, quantity)
        if value is None:
            return reasons.NOT_WHOLE
        account = self._accounts.get((market, symbol)) or Account()
        sign = 1 if side is Side.BUY else -1
        after, cash = account.quantity + sign * quantity, account.cash - sign * value
        if not (fits(after) and fits(cash) and fits(value)):
            return reasons.OVERFLOW
        self._accounts[market, symbol] = account
        account.quantity, account.cash = after, cash
        return ""
