"""The order path (order_path.py) brought to where most tests begin, and what they look at."""

from __future__ import annotations

import json

from controlplane.model import Phase
from tests.support.order_path import Member, OrderPath


def active(path: OrderPath, **settings: object) -> Member:
    """execd active with epoch 1, omsd-alpha-1 active with epoch 1, positiond and auditd there."""
    execd = path.start("execd-alpha-1")
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    alpha = path.start("omsd-alpha-1", **settings)
    path.introduce()
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    alpha.lead(1)
    path.until("omsd is active and attached", lambda: alpha.phase is Phase.ACTIVE and path.riskd.omsd)
    return alpha


def standby(
    path: OrderPath, leader: str = "omsd-alpha-1", epoch: int = 1, instance: str = "omsd-beta-1"
) -> Member:
    beta = path.start(instance)
    path.introduce(omsd_leader=leader, epoch=epoch)
    path.until("the standby is electable", lambda: electable(path.members[leader]) == [instance])
    return beta


def electable(member: Member) -> list[str]:
    shown = member.happened("electable")
    return [] if not shown or shown[-1]["instances"] == "nobody" else shown[-1]["instances"].split(",")


def positions(path: OrderPath) -> dict[str, str]:
    return {row["symbol"]: row["quantity"] for row in path.members["positiond-alpha-1"].ask("positions")}


def audit(path: OrderPath) -> list[str]:
    file = path.folder / "site" / "audit" / "1.jsonl"
    return [json.loads(line)["action"] for line in file.read_bytes().splitlines()] if file.exists() else []


def unacknowledged(path: OrderPath) -> int:
    execd = path.members["execd-alpha-1"]
    execd.loop._timers[-1].run(0)
    return int(execd.context.gauges["reports_unacknowledged"])
