"""`hftctl status` without a command line around it: ask, print, say by the exit code whether the site is
healthy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.cli import agent_client, render
from controlplane.cli.output import Output
from controlplane.errors import FloorUnreachable
from controlplane.host.log_line import printable
from controlplane.site import look

if TYPE_CHECKING:
    from controlplane.site import document


REASONS_MAX = 8
"""Of those why the site is not healthy; all are in `-o json`."""


def run(site_dir: Path | None, output: Output, timeout_s: float, site: str = "lab") -> int:
    """`site`: which one is looked up in the store, where no floor runs here and HFT_STORE_ENDPOINTS names one
    (agents know their own).
    """
    try:
        found = agent_client.Floor(site_dir, timeout_s).status()
    except FloorUnreachable:
        if not os.environ.get("HFT_STORE_ENDPOINTS"):
            raise
        from controlplane.cli import store_status  # with a client of it, 200 ms

        url = store_status.given()
        assert url is not None
        found = store_status.read(url, site)
    if output is Output.table:
        print(text(found))
    else:
        render.show(found, output)
    return 0 if found.healthy else 1


def text(found: document.StatusDocument) -> str:
    colour = render.coloured()
    store, health = found.store, "healthy" if found.healthy else "unhealthy"
    latency = f", {store.latency_ms:.1f} ms" if store.latency_ms is not None else ""
    parts = [
        f"site {printable(found.site)}: {render.paint(health, colour)}   "
        f"store {printable(f'{store.kind} {store.version}')} {'up' if store.healthy else 'DOWN'}{latency}   "
        f"controller {printable(found.controller.url or '-')}",
        *(printable(f"  KILL SWITCH: {alarm.text}") for alarm in found.alarms if look.of_kill_switch(alarm)),
        *(printable(f"  {reason}") for reason in found.reasons[:REASONS_MAX]),
        *([f"  and {len(found.reasons) - REASONS_MAX} more"] if len(found.reasons) > REASONS_MAX else []),
        "",
        rows(found.hosts, ("name", "state", "address", "url", "last_seen_ms", "instances")),
        "",
        instances(found.services),
        "",
        flow(found.flow),
    ]
    shut = [breaker for breaker in found.breakers if breaker.state != "closed"]
    if shut:
        parts += ["", "circuit breakers that are not closed:"]
        parts += [rows(shut, ("name", "instance", "state", "refused", "until", "reason"))]
    if found.alarms:
        parts += ["", rows(found.alarms, ("severity", "subject", "text"))]
    if found.paused:
        parts += ["", printable(f"paused by {found.paused.by}: {found.paused.reason}")]
    return "\n".join(parts)


def rows(found: Sequence[Any], columns: tuple[str, ...]) -> str:
    cells = [[render.cell(render.field_of(row, column)) for column in columns] for row in found]
    return render.table([column.replace("_", " ") for column in columns], cells)


def instances(services: Sequence[document.ServiceRow]) -> str:
    columns = ("pid", "state", "role", "epoch", "health", "ready", "restarts", "uptime_s", "reason")
    lines: list[dict[str, Any]] = []
    for service in services:
        for i in service.instances:
            led = {"epoch": service.epoch if service.leader == i.id else None}
            why = {"reason": "; ".join(filter(None, (i.reason, look.config_words(i))))}
            lines.append({"instance": i.id} | {key: render.field_of(i, key) for key in columns} | led | why)
        if service.running < service.desired and not service.instances:
            reason = "no instance runs"
            lines.append(
                {"instance": service.name, "state": "stopped", "health": "critical", "reason": reason}
            )
    return rows(lines, ("instance", *columns))


def flow(found: document.Flow) -> str:
    lines = [
        f"flow: {found.messages} messages ({look.per_s(found)}/s), lost {found.lost}, gaps "
        f"{found.gaps}; "
        f"orders {found.orders}, fills {found.fills}, rejects {found.rejects}, "
        f"stale tokens refused {found.stale_token_refusals}"
    ]
    measured = {"tick to order": found.tick_to_order_us, "order to acknowledgement": found.order_to_ack_us}
    for name, us in measured.items():
        if us.p50 is not None:
            lines.append(f"{name}: p50 {us.p50:.0f}, p99 {us.p99:.0f}, p99.9 {us.p99_9:.0f} µs")
    return "\n".join(lines)
