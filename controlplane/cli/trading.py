"""`hftctl orders` and `hftctl positions`: what omsd works, and what positiond says beside what the venue
says.
"""

from __future__ import annotations

from typing import Annotated, Any

from controlplane.cli import agent_client, render, source
from controlplane.cli.declare import Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import Refused
from controlplane.site import look

ORDER_KEYS = ("id", "market", "symbol", "side", "price", "quantity", "filled", "status", "epoch")
ORDER_KEYS_WIDE = (*ORDER_KEYS, "type", "strategy", "client_order_id", "created", "updated", "reason")
ENDED = frozenset({"filled", "cancelled", "rejected", "refused"})
WIRE_DECIMALS = 8
INSTRUMENT = ("market", "symbol")
POSITION_KEYS = (*INSTRUMENT, "quantity", "cash", "venue_quantity", "venue_cash")
VALUED = ("average_price", "realised", "unrealised")
"""What positiond makes of a position beside its two sums."""

WideOption = Annotated[bool, Option("--wide", "-w", help="All that is known of each.")]


def orders(
    lines: Annotated[
        int,
        Option("--lines", "-n", min=0, help="How many, working ones first; 0: all that omsd still knows."),
    ] = 0,
    wide: WideOption = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Orders, working ones first, as the leading omsd has them. Of each kind the oldest first. Wide: also
    type, strategy and its own id, when made and last changed, why ended.
    """
    floor = source.floor(site_dir, timeout)
    keys = ORDER_KEYS_WIDE if wide else ORDER_KEYS
    orders = ask_daemon(floor, "omsd", "orders")
    found = [{key: order_field(order, key) for key in keys} for order in newest(orders, lines)]
    render.show(found, output, keys)


def positions(
    wide: WideOption = False,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Positions and cash by instrument, ours beside the venue's own account. Wide: also average price,
    realised and unrealised P&L.
    """
    floor = source.floor(site_dir, timeout)
    keys = (*POSITION_KEYS, *VALUED) if wide else POSITION_KEYS
    render.show(
        merge(ask_daemon(floor, "positiond", "positions"), ask_daemon(floor, "simd", "accounts"), keys),
        output,
        keys,
    )


def newest(orders: list[dict[str, Any]], lines: int) -> list[dict[str, Any]]:
    """Working orders, then ended ones; with `lines`, the newest of both, but an ended one only where there
    are not so many that work.
    """
    working = [order for order in orders if order.get("status") not in ENDED]
    ended = [order for order in orders if order.get("status") in ENDED]
    if not lines:
        return [*working, *ended]
    room = max(0, lines - len(working))
    return [*working[-lines:], *(ended[-room:] if room else [])]


def order_field(order: dict[str, Any], key: str) -> Any:
    at_ns = order.get(f"{key}_ns")
    return order.get(key) if at_ns is None else look.iso(at_ns)


def ask_daemon(floor: agent_client.Floor, daemon: str, what: str) -> list[dict[str, Any]]:
    """One answer of each service that runs the daemon, put together."""
    services = [service.name for service in floor.status().services if service.daemon == daemon]
    if not services:
        raise Refused(f"no service of this site runs {daemon}")
    return [row for service in services for row in floor.ask(service, what)]


def merge(
    ours: list[dict[str, Any]], venue: list[dict[str, Any]], keys: tuple[str, ...] = POSITION_KEYS
) -> list[dict[str, Any]]:
    """One row an instrument; what only one side knows is nothing on the other."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    told = [
        *ours,
        *(
            {key if key in INSTRUMENT else f"venue_{key}": value for key, value in account.items()}
            for account in venue
        ),
    ]
    for part in told:
        row = rows.setdefault((part["market"], part["symbol"]), dict.fromkeys(keys, "0"))
        row |= {key: decimal(part[key]) for key in keys if key in part}
    return [rows[key] for key in sorted(rows)]


def decimal(value: str | int | None) -> str | None:
    """An exact decimal text; a whole number is in units of the wire, 1e-8. None: not known."""
    if value is None:
        return None
    if isinstance(value, str):
        return value
    whole, fraction = divmod(abs(value), 10**WIRE_DECIMALS)
    digits = f"{fraction:0{WIRE_DECIMALS}d}".rstrip("0")
    return f"{'-' if value < 0 else ''}{whole}{'.' if digits else ''}{digits}"
