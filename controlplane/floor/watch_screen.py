"""The live screen of `hftctl up` and `hftctl status --watch`: is it well, what leads, what flows, what is
wrong, from top to bottom.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLE = {
    "passing": "green",
    "warning": "yellow",
    "critical": "bold red",
    "leader": "bold cyan",
    "stopped": "red",
    "backoff": "bold red",
}


def draw(status: dict[str, Any] | None, hint: str = "") -> RenderableType:
    if status is None:
        return Group(Text("no agent answers yet", style="yellow"), Text(hint, style="dim"))
    return Group(
        _head(status), _instances(status), _flow(status["flow"]), *_alarms(status), Text(hint, style="dim")
    )


def _head(status: dict[str, Any]) -> Text:
    store = status["store"]
    latency = f" {store['latency_ms']:.1f} ms" if store.get("latency_ms") is not None else ""
    text = Text(f"site {status['site']}  ", style="bold")
    text.append(
        "healthy" if status["healthy"] else "not healthy",
        style="bold green" if status["healthy"] else "bold red",
    )
    text.append(
        f"   {store['kind']} {store['version']}{latency}", style="" if store["healthy"] else "bold red"
    )
    text.append(f"   controller {(status.get('controller') or {}).get('url') or '-'}")
    for host in status["hosts"]:
        text.append(f"   {host['name']} {host['state']}", style="" if host["state"] == "up" else "bold red")
    return text


def _instances(status: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for heading in ("instance", "pid", "state", "role", "epoch", "health", "restarts", "uptime", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    for service in status["services"]:
        for i in service["instances"]:
            leads = service.get("leader") == i["id"]
            uptime = f"{i['uptime_s']:.0f} s" if i.get("uptime_s") is not None else "-"
            table.add_row(
                i["id"],
                str(i["pid"] or "-"),
                Text(i["state"], style=_STYLE.get(i["state"], "")),
                Text(i.get("role") or "-", style=_STYLE.get(i.get("role") or "", "")),
                str(service.get("epoch") or "-") if leads else "-",
                Text(i["health"], style=_STYLE.get(i["health"], "")),
                str(i["restarts"]),
                uptime,
                (i.get("reason") or "")[:60],
            )
    return table


def _flow(flow: dict[str, Any]) -> Text:
    said = [
        f"{flow.get('messages') or 0:,} messages ({flow.get('messages_per_s') or 0:,.0f}/s)",
        f"orders {flow.get('orders') or 0}",
        f"fills {flow.get('fills') or 0}",
        f"rejects {flow.get('rejects') or 0}",
        f"lost {flow.get('lost') or 0}",
        f"gaps {flow.get('gaps') or 0}",
        f"stale tokens refused {flow.get('stale_token_refusals') or 0}",
    ]
    text = Text("\n" + "   ".join(said))
    for name, said_as in (("tick_to_order_us", "tick to order"), ("order_to_ack_us", "order to ack")):
        found = flow.get(name) or {}
        if found.get("p50") is not None:
            text.append(
                f"\n{said_as}: p50 {found['p50']:,.0f}  p99 {found['p99']:,.0f}  p99.9 "
                f"{found['p99_9']:,.0f} µs"
            )
    return text


def _alarms(status: dict[str, Any]) -> list[Text]:
    style = {"critical": "bold red", "warning": "yellow", "info": "dim"}
    return [
        Text(f"{a['severity']}: {a['subject']}: {a['text']}", style=style.get(a["severity"], ""))
        for a in status["alarms"]
    ]
