"""The live screen of `hftctl up` and `hftctl status --watch`: is it well, what leads, what flows, what is
wrong, from top to bottom.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controlplane.host.log_line import printable
from controlplane.site import document, look

_STYLE = {
    "passing": "green",
    "warning": "yellow",
    "critical": "bold red",
    "leader": "bold cyan",
    "stopped": "red",
    "backoff": "bold red",
}


def draw(status: document.StatusDocument | None, hint: str = "") -> RenderableType:
    if status is None:
        return Group(Text("no agent answers yet", style="yellow"), Text(hint, style="dim"))
    return Group(
        _head(status), _instances(status), _flow(status.flow), *_alarms(status), Text(hint, style="dim")
    )


def _head(status: document.StatusDocument) -> Text:
    store = status.store
    latency = f" {store.latency_ms:.1f} ms" if store.latency_ms is not None else ""
    text = Text(f"site {printable(status.site)}  ", style="bold")
    text.append(
        "healthy" if status.healthy else "not healthy", style="bold green" if status.healthy else "bold red"
    )
    text.append(
        f"   {printable(f'{store.kind} {store.version}')}{latency}", style="" if store.healthy else "bold red"
    )
    text.append(f"   controller {printable(status.controller.url or '-')}")
    for host in status.hosts:
        text.append(
            f"   {printable(f'{host.name} {host.state}')}", style="" if host.state == "up" else "bold red"
        )
    return text


def _instances(status: document.StatusDocument) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for heading in (
        "instance", "pid", "state", "role", "epoch", "health", "restarts", "uptime", "reason"
    ):  # fmt: skip
        table.add_column(heading, no_wrap=heading != "reason")
    for service in status.services:
        for i in service.instances:
            table.add_row(
                printable(i.id),
                str(i.pid or "-"),
                Text(printable(i.state), style=_STYLE.get(i.state, "")),
                Text(printable(i.role or "-"), style=_STYLE.get(i.role or "", "")),
                str(service.epoch or "-") if service.leader == i.id else "-",
                Text(printable(i.health), style=_STYLE.get(i.health, "")),
                str(i.restarts),
                f"{i.uptime_s:.0f} s" if i.uptime_s is not None else "-",
                printable(i.reason)[:60],
            )
    return table


def _flow(flow: document.Flow) -> Text:
    said = [
        f"{flow.messages:,} messages ({look.per_s(flow)}/s)",
        f"orders {flow.orders}",
        f"fills {flow.fills}",
        f"rejects {flow.rejects}",
        f"lost {flow.lost}",
        f"gaps {flow.gaps}",
        f"stale tokens refused {flow.stale_token_refusals}",
    ]
    text = Text("\n" + "   ".join(said))
    for name, us in {"tick to order": flow.tick_to_order_us, "order to ack": flow.order_to_ack_us}.items():
        if us.p50 is not None:
            text.append(f"\n{name}: p50 {us.p50:,.0f}  p99 {us.p99:,.0f}  p99.9 {us.p99_9:,.0f} µs")
    return text


def _alarms(status: document.StatusDocument) -> list[Text]:
    style = {"critical": "bold red", "warning": "yellow", "info": "dim"}
    return [
        Text(
            printable(f"{alarm.severity}: {alarm.subject}: {alarm.text}"), style=style.get(alarm.severity, "")
        )
        for alarm in status.alarms
    ]
