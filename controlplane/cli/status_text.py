"""`hftctl status` without a command line around it: ask, print, say by the exit code whether the site is
healthy. Imports no typer (see main.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane.cli import agent_client, render
from controlplane.cli.output import Output


def run(site_dir: Path | None, output: Output, timeout_s: float) -> int:
    found = agent_client.Floor(site_dir, timeout_s).status()
    if output is Output.table:
        print(text(found))
    else:
        render.show(found, output)
    return 0 if found["healthy"] else 1


def text(found: dict[str, Any]) -> str:
    colour = render.coloured()
    store, health = found["store"], "healthy" if found["healthy"] else "unhealthy"
    latency = f", {store['latency_ms']:.1f} ms" if store.get("latency_ms") is not None else ""
    parts = [
        f"site {found['site']}: {render.paint(health, colour)}   "
        f"store {store['kind']} {store['version']} {'up' if store['healthy'] else 'DOWN'}{latency}   "
        f"controller {(found.get('controller') or {}).get('url') or '-'}",
        "",
        rows(found["hosts"], ("name", "state", "address", "url", "last_seen_ms", "instances")),
        "",
        instances(found["services"]),
        "",
        flow(found["flow"]),
    ]
    if found["alarms"]:
        parts += ["", rows(found["alarms"], ("severity", "subject", "text"))]
    if found.get("paused"):
        parts += ["", f"paused by {found['paused']['by']}: {found['paused']['reason']}"]
    return "\n".join(parts)


def rows(found: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    return render.table(
        [c.replace("_", " ") for c in columns], [[render.cell(row.get(c)) for c in columns] for row in found]
    )


def instances(services: list[dict[str, Any]]) -> str:
    columns = (
        "instance",
        "pid",
        "state",
        "role",
        "epoch",
        "health",
        "ready",
        "restarts",
        "uptime_s",
        "reason",
    )
    lines = []
    for service in services:
        for i in service["instances"]:
            leads = service.get("leader") == i["id"]
            lines.append({**i, "instance": i["id"], "epoch": service.get("epoch") if leads else None})
        if service["running"] < service["desired"] and not service["instances"]:
            lines.append(
                {
                    "instance": service["name"],
                    "state": "stopped",
                    "health": "critical",
                    "reason": "no instance runs",
                }
            )
    return rows(lines, columns)


def flow(found: dict[str, Any]) -> str:
    n = {
        key: found.get(key) or 0
        for key in ("messages", "lost", "gaps", "orders", "fills", "rejects", "stale_token_refusals")
    }
    lines = [
        f"flow: {n['messages']} messages ({found.get('messages_per_s') or 0:.0f}/s), lost {n['lost']}, gaps "
        f"{n['gaps']}; "
        f"orders {n['orders']}, fills {n['fills']}, rejects {n['rejects']}, stale tokens refused "
        f"{n['stale_token_refusals']}"
    ]
    for name, said_as in (
        ("tick_to_order_us", "tick to order"),
        ("order_to_ack_us", "order to acknowledgement"),
    ):
        measured = found.get(name) or {}
        if measured.get("p50") is not None:
            lines.append(
                f"{said_as}: p50 {measured['p50']:.0f}, p99 {measured['p99']:.0f}, p99.9 "
                f"{measured['p99_9']:.0f} µs"
            )
    return "\n".join(lines)
