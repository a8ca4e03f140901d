"""`hftctl orders` and `hftctl positions`: what omsd works, and what positiond says beside what the venue says."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from controlplane.cli import asking, render
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import Refused

ORDER_KEYS = ("id", "market", "symbol", "side", "price", "quantity", "filled", "status", "epoch")
WIRE_DECIMALS = 8
POSITION_KEYS = ("market", "symbol", "quantity", "cash", "venue_quantity", "venue_cash")


def orders(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Only the last so many; 0: all that omsd still knows.")] = 0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """Orders, oldest first, as the leading omsd has them."""
    floor = asking.Floor(site_dir, timeout)
    found = [{key: order.get(key) for key in ORDER_KEYS} for order in ask_daemon(floor, "omsd", "orders")]
    render.show(found[-lines:] if lines else found, output, ORDER_KEYS)


def positions(output: OutputOption = Output.table, site_dir: SiteDirOption = None, timeout: AskTimeoutOption = ASK_TIMEOUT_S) -> None:
    """Positions and cash by instrument, ours beside the venue's own account."""
    floor = asking.Floor(site_dir, timeout)
    render.show(merge(ask_daemon(floor, "positiond", "positions"), ask_daemon(floor, "simd", "accounts")), output, POSITION_KEYS)


def ask_daemon(floor: asking.Floor, daemon: str, what: str) -> list[dict[str, Any]]:
    """One answer of each service that runs the daemon, put together."""
    services = [service["name"] for service in floor.status()["services"] if service["daemon"] == daemon]
    if not services:
        raise Refused(f"no service of this site runs {daemon}")
    return [row for service in services for row in floor.ask(service, what)]


def merge(ours: list[dict[str, Any]], venue: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an instrument; what only one side knows is nothing on the other."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for position in ours:
        row = rows.setdefault((position["market"], position["symbol"]), dict.fromkeys(POSITION_KEYS, "0"))
        row |= {"market": position["market"], "symbol": position["symbol"]}
        row |= {"quantity": decimal(position["quantity"]), "cash": decimal(position["cash"])}
    for account in venue:
        row = rows.setdefault((account["market"], account["symbol"]), dict.fromkeys(POSITION_KEYS, "0"))
        row |= {"market": account["market"], "symbol": account["symbol"]}
        row |= {"venue_quantity": decimal(account["quantity"]), "venue_cash": decimal(account["cash"])}
    return [rows[key] for key in sorted(rows)]


def decimal(value: str | int) -> str:
    """An exact decimal text; a whole number is in units of the wire, 1e-8."""
    if isinstance(value, str):
        return value
    whole, fraction = divmod(abs(value), 10**WIRE_DECIMALS)
    digits = f"{fraction:0{WIRE_DECIMALS}d}".rstrip("0")
    return f"{'-' if value < 0 else ''}{whole}{'.' if digits else ''}{digits}"
