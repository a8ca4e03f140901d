"""Fault: the disk under the journals, or under the logs, is full. For real: a small tmpfs, filled by a file.

Under the journals omsd stops taking orders and says so, nothing acknowledged is lost, and when there is room
trading goes on by itself, in the same processes and the same epoch, with positions equal to the venue's.
Under the logs nothing happens at all, but that lines are missing.
"""

from __future__ import annotations

import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from controlplane.floor import folders
from controlplane.http import unix
from hftd.engine.orders import oms
from hftd.storage import journal
from hftd.wire import orders
from tests.support import disks, floors

pytestmark = pytest.mark.timeout(180)


def counter(floor: floors.Floor, host: str, name: str, instance: str) -> float:
    """From the agent's /metrics; 0 while it is not there."""
    body = unix.request(
        folders.Folders(floor.site_dir).agent_socket(host), "GET", "/metrics", timeout_s=10
    ).body.decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in body.splitlines()
        if re.match(rf"hft_{name}(_total)?\{{", line) and f'"{instance}"' in line
    )


def settled(floor: floors.Floor) -> bool:
    rows = floor.json("positions")
    return bool(rows) and all(
        Decimal(row["quantity"]) == Decimal(row["venue_quantity"])
        and Decimal(row["cash"]) == Decimal(row["venue_cash"])
        for row in rows
    )


def unmoved(floor: floors.Floor, before: dict[str, Any]) -> bool:
    """The same leaders in the same epochs, and nobody was restarted."""

    def shown(status: dict[str, Any]) -> list[Any]:
        return [
            (
                each["name"],
                each["leader"],
                each["epoch"],
                [(i["pid"], i["restarts"]) for i in each["instances"]],
            )
            for each in status["services"]
        ]

    return shown(floor.status()) == shown(before)


def journaled(folder: Path) -> tuple[set[str], set[int]]:
    """(order ids placed, execution ids) that an omsd has on its disk."""
    placed, executions = set(), set()
    kept = journal.Journal(folder)
    try:
        for record in kept.read():
            message = oms.decode_journaled(record.payload)
            if isinstance(message, orders.Place):
                placed.add(message.order_id)
            elif isinstance(message, orders.Report) and message.execution_id:
                executions.add(message.execution_id)
    finally:
        kept.close()
    return placed, executions


def test_a_full_disk_under_the_journal_stops_new_orders_loses_none_and_heals_by_itself() -> None:
    with tempfile.TemporaryDirectory(prefix="hft-journal-") as name:
        disk = Path(name)
        with (
            disks.small_disk(disk, "6m"),
            floors.floor("--seed", "5", environment={"HFT_JOURNAL_DIR": name}) as floor,
        ):

            def traded() -> int:
                return int(floor.status()["flow"]["orders"])

            def alarms() -> list[dict[str, Any]]:
                return [alarm for alarm in floor.status()["alarms"] if alarm["id"] == "journal_full"]

            def refuses() -> None:
                refused = counter(floor, host, "refused", leader)
                floors.wait_for(
                    "orders that are refused",
                    lambda: counter(floor, host, "refused", leader) > refused + 2,
                    pause_s=0.2,
                )

            floors.wait_for(
                "some trading", lambda: traded() > 20 and floor.status()["flow"]["fills"] > 0, pause_s=0.2
            )
            before = floor.status()
            leader = floor.service("omsd")["leader"]
            host = leader.split("-")[1]

            filler = disks.fill(disk)
            floors.wait_for(
                "the alarm", lambda: any(leader == alarm["subject"] for alarm in alarms()), pause_s=0.2
            )
            (alarm,) = [alarm for alarm in alarms() if alarm["subject"] == leader]
            assert alarm["severity"] == "critical"
            assert (
                "no new orders are taken" in alarm["text"]
                and "No space left on device" in alarm["text"]
                and "\n" not in alarm["text"]
            )

            refuses()  # the alarm is an event; what was counted until then comes with the next host record
            floors.wait_for(
                "the count of the leader's agent",
                lambda: traded() == counter(floor, host, "orders", leader),
                pause_s=0.2,
            )
            taken = traded()
            refuses()
            assert traded() == taken, "none is taken while the disk is full"
            known = {row["id"] for row in floor.json("orders")}
            assert known
            assert unmoved(floor, before), "nothing died of it, and nobody was elected"

            filler.unlink()
            floors.wait_for("the end of the alarm", lambda: not alarms(), pause_s=0.2)
            floors.wait_for("new orders", lambda: traded() > taken + 5, pause_s=0.2)
            floors.wait_for("positions equal to the venue's", lambda: settled(floor), pause_s=0.2)
            floors.wait_for("healthy", floor.healthy)
            assert unmoved(floor, before)
            kinds = [event["kind"] for event in floor.json("events")]
            assert "journal.full" in kinds and "journal.room" in kinds

            assert floor.run("down").returncode == 0
            placed, executions = journaled(disk / leader)
            assert known <= placed, "what was acknowledged is on the disk"
            assert executions == set(range(min(executions), max(executions) + 1)), (
                "and every execution of the venue"
            )
            assert floor.run("audit", "verify", str(floor.site_dir / "audit")).returncode == 0


def test_a_full_disk_under_the_logs_costs_lines_and_nothing_else() -> None:
    with floors.floor(bring_up=False) as floor:
        logs = folders.Folders(floor.site_dir).logs
        logs.mkdir()
        with disks.small_disk(logs, "1m"):
            try:
                floor.up()
                before = floor.status()
                filler = disks.fill(logs)
                (plain,) = floor.service("positiond")["instances"]
                floor.kill(plain["pid"])  # what is started now cannot even begin its log
                floors.wait_for(
                    "a new positiond",
                    lambda: (
                        (now := floor.instance(plain["id"]))["pid"] not in (None, plain["pid"])
                        and now["ready"]
                        and now
                    ),
                )
                orders_before = floor.status()["flow"]["orders"]
                floors.wait_for(
                    "trading", lambda: floor.status()["flow"]["orders"] > orders_before + 5, pause_s=0.2
                )
                floors.wait_for("positions equal to the venue's", lambda: settled(floor), pause_s=0.2)
                after = floor.status()
                assert after["healthy"]
                restarts = {
                    i["id"]: i["restarts"] for service in after["services"] for i in service["instances"]
                }
                assert {id for id, count in restarts.items() if count} == {plain["id"]}
                assert [(s["name"], s["epoch"]) for s in after["services"]] == [
                    (s["name"], s["epoch"]) for s in before["services"]
                ]
                filler.unlink()
            finally:
                floor.run("down")
