"""Messages of an omsd that leads epoch 3: what it is sent, what it journals, what comes back."""

from __future__ import annotations

from hftd.wire import codec, orders
from hftd.wire.orders import Kind, OrderState, Side

TOKEN = codec.TokenOnWire(7, "omsd", 3)
RISK = codec.TokenOnWire(7, "riskd", 2)
HEAD: codec.Head = (1, 0, 1_700_000_000_000_000_000, "omsd-alpha-1", TOKEN)
QUANTITY = 1_000


def place(
    n: int = 1, *, approval: codec.TokenOnWire | None = RISK, order_id: str | None = None
) -> orders.Place:
    signed = orders.Approval(n, approval, 1) if approval else None
    name = f"omsd-3-{n}" if order_id is None else order_id
    return orders.Place(
        *HEAD,
        f"mm-{n}",
        "strategy-mm",
        "spot",
        "BTCUSDT",
        Side.BUY,
        Kind.LIMIT,
        50_000,
        QUANTITY,
        0,
        0,
        name,
        signed,
    )


def report(
    n: int, state: OrderState, *, filled: int = 0, execution: int = 0, reason: str = ""
) -> orders.Report:
    last = QUANTITY if execution else 0
    return orders.Report(
        *HEAD, 0, execution, f"omsd-3-{n}", f"mm-{n}", "strategy-mm", "spot", "BTCUSDT", Side.BUY, state,
        50_000, QUANTITY, filled, 0, last,
        reason, "", 0,
    )  # fmt: skip


def cancel(n: int, order_id: str = "") -> orders.Cancel:
    return orders.Cancel(*HEAD, f"mm-{n}", "strategy-mm", "spot", "BTCUSDT", 0, order_id)
