"""Configuration that changes while a floor trades: what the next order obeys, who is restarted for it and who
is not, and what stands while the store, an agent or a record is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from controlplane import model
from controlplane.cli.trading import ENDED
from controlplane.http import unix
from controlplane.model import ServiceSpec
from tests.support import config_writes as config
from tests.support import floors, outside

pytestmark = pytest.mark.timeout(300)
UNIT = 100_000_000
"""Of quantities on the wire."""
SYMBOL = "ETHUSDT"
"""Of which a step is worth far less than an order."""
REFUSED = "kill_switch_refusals"
STRATEGY, RISK, ORDERS = "strategy-mm", "riskd", "omsd"


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        floors.wait_for("it trades", one.trades)
        yield one


def change(floor: floors.Floor, service: str, **settings: Any) -> int:
    revision = config.set_settings(floor, service, **settings)
    floors.wait_for(f"{service} has revision {revision}", lambda: config.in_force(floor, service, revision))
    return revision


def placed_from_now(floor: floors.Floor, count: int = 6) -> list[Any]:
    """The next orders of SYMBOL at the venue."""
    before = outside.seen_by_venue(floor.site_dir)

    def fresh() -> list[Any]:
        placed = outside.placed_at_venue(floor.site_dir)
        return [each for each in placed if each.symbol == SYMBOL and each.order_id not in before]

    return list(floors.wait_for("more orders", lambda: len(now := fresh()) >= count and now, pause_s=0.2))


def notional(order: Any) -> float:
    return float(order.quantity / UNIT * order.price / UNIT)


def rendered(floor: floors.Floor, instance: str) -> dict[str, Any]:
    """What the process was started with."""
    return dict(json.loads((floor.run_dir() / f"{instance}.config.json").read_text()))


def restarted(floor: floors.Floor, instance: str, pid: int, *, ready: bool = True) -> dict[str, Any]:
    """`ready`: wait for that too; without a store nobody leads, and who needs a leader is not."""
    return dict(
        floors.wait_for(
            f"another process of {instance}",
            lambda: (
                (now := floor.instance(instance))["pid"] not in (pid, None)
                and now["state"] == "running"
                and (now["ready"] or not ready)
                and now
            ),
        )
    )


@contextlib.contextmanager
def no_store(floor: floors.Floor) -> Iterator[None]:
    kind = floor.environment.get("HFT_TEST_STORE") or "etcd"
    server = floor.parent()["processes"][kind]["pid"]
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)
    floors.wait_for("healthy with its store", floor.healthy, pause_s=0.2)


def counted(floor: floors.Floor, service: str, counter: str) -> int:
    """By the processes of a service that run."""
    found = 0
    for host in ("alpha", "beta"):
        answer = unix.request(floor.run_dir() / f"{host}.agent.sock", "GET", "/v1/instances")
        for each in json.loads(answer.body):
            found += each["counters"].get(counter, 0) if each["service"] == service else 0
    return found


def kill_agent(floor: floors.Floor, host: str = "alpha") -> None:
    agent = floor.holder(host, "agent")
    floor.kill(agent)
    floors.wait_for("another agent", lambda: floor.holder(host, "agent") not in (0, agent))


def alarms(floor: floors.Floor) -> dict[str, str]:
    return {each["id"]: each["text"] for each in floor.status()["alarms"]}


# --- live ---------------------------------------------------------------------------------------------------


def test_a_strategys_parameter_is_obeyed_by_its_next_quote_without_a_restart(floor: floors.Floor) -> None:
    pids = floor.pids()
    assert all(notional(order) <= 101 for order in placed_from_now(floor))
    change(floor, STRATEGY, order_notional="300")
    assert all(250 < notional(order) <= 301 for order in placed_from_now(floor))
    change(floor, STRATEGY, order_notional="100")
    assert all(notional(order) <= 101 for order in placed_from_now(floor))
    assert floor.pids() == pids


def test_a_risk_limit_is_obeyed_by_the_next_order_without_a_restart(floor: floors.Floor) -> None:
    pids = floor.pids()
    limit = max(order.quantity for order in placed_from_now(floor)) // 2
    change(floor, RISK, max_order_size=f"{limit / UNIT:.8f}")
    since = outside.seen_by_venue(floor.site_dir)
    refused = counted(floor, RISK, 'refused_by{reason="order_size"}')
    floors.wait_for(
        "some are refused", lambda: counted(floor, RISK, 'refused_by{reason="order_size"}') > refused + 3
    )
    placed = [o for o in outside.placed_at_venue(floor.site_dir) if o.order_id not in since]
    assert all(order.quantity <= limit for order in placed)
    change(floor, RISK, max_order_size="100")
    assert any(order.quantity > limit for order in placed_from_now(floor))
    assert floor.pids() == pids


def test_no_order_is_lost_or_sent_twice_by_changes_while_it_trades(floor: floors.Floor) -> None:
    pids = floor.pids()
    for notional_value in ("120", "150", "90", "100"):
        change(floor, STRATEGY, order_notional=notional_value)
    assert outside.sent_twice(floor.site_dir) == set()
    floors.wait_for("positions equal the venue's", floor.settled, pause_s=0.2)
    floors.wait_for("it trades", floor.trades)
    floors.wait_for("healthy", floor.healthy)
    assert floor.pids() == pids


# --- what cannot be in force --------------------------------------------------------------------------------


def test_what_a_daemon_refuses_is_an_alarm_and_a_reason_and_the_old_stays(floor: floors.Floor) -> None:
    good = floor.service(RISK)["config_revision"]
    document = json.loads(json.dumps(rendered(floor, "riskd-alpha-1")["settings"]))
    config.put_document(floor, RISK, good + 1, {**document, "max_order_size": "-1"})
    row = floors.wait_for(
        "refused", lambda: (now := floor.instance("riskd-alpha-1"))["config_refused"] and now
    )
    assert (row["config_revision"], row["config_wanted"]) == (good, good + 1)
    assert "max_order_size" in row["config_refused"]
    assert "riskd-alpha-1 does not take revision" in alarms(floor)["config.refused"]
    assert f"config {good} -> {good + 1}" in floor.run("status").stdout
    [reason] = floors.wait_for("a reason", lambda: floor.status()["reasons"])
    assert reason.startswith(f"riskd-alpha-1: revision {good + 1} of its configuration is wanted")
    floors.wait_for("it trades", floor.trades)
    config.put_document(floor, RISK, good + 2, {**document, "max_order_size": "100"})
    floors.wait_for("taken", lambda: config.in_force(floor, RISK, good + 2))
    floors.wait_for("healthy", floor.healthy)
    assert "config.refused" not in alarms(floor)


def test_a_record_that_is_rubbish_changes_nothing_and_survives_agent_and_daemon(floor: floors.Floor) -> None:
    revision = change(floor, STRATEGY, order_notional="200")
    good = config.with_store(floor, lambda client: client.get(config.KEYS.config_current(STRATEGY)))
    assert good is not None
    config.put_raw(floor, config.KEYS.config_current(STRATEGY), b"{rubbish")
    floors.wait_for(
        "it is named", lambda: f"config/{STRATEGY}/current" in alarms(floor).get("store.undecodable", "")
    )
    kill_agent(floor)
    floors.wait_for(
        "it says why", lambda: f"{STRATEGY}-alpha-1: the record" in alarms(floor).get("config.last_good", "")
    )
    pid = floor.pids()[f"{STRATEGY}-alpha-1"]
    floor.kill(pid)
    assert restarted(floor, f"{STRATEGY}-alpha-1", pid)["config_revision"] == revision
    assert all(150 < notional(order) <= 201 for order in placed_from_now(floor))
    config.put_raw(floor, config.KEYS.config_current(STRATEGY), good.value)
    floors.wait_for("healthy", floor.healthy)
    floors.wait_for(
        "it is over", lambda: not {"config.last_good", "store.undecodable"} & alarms(floor).keys()
    )


# --- restarts -----------------------------------------------------------------------------------------------


def test_a_setting_that_asks_for_a_restart_is_taken_by_the_standby_first(floor: floors.Floor) -> None:
    key = config.KEYS.spec(ORDERS)
    entry = config.with_store(floor, lambda client: client.get(key))
    assert entry is not None
    spec = model.decode(ServiceSpec, entry.value)
    assert spec.restart is not None
    # No setting of omsd's own needs one; here one does, as of a daemon of another release.
    pids = floor.pids()
    config.put_raw(floor, key, model.encode(replace(spec, restart=(*spec.restart, "resend_s"))))
    floors.wait_for(
        "restarted with it", lambda: all(floor.pids()[i] not in (pids[i], None) for i in pids if "omsd" in i)
    )
    floors.wait_for("healthy", floor.healthy, pause_s=0.2)
    before = {each["id"]: each for each in floor.service(ORDERS)["instances"]}
    leader = floor.service(ORDERS)["leader"]
    [standby] = before.keys() - {leader}
    revision = config.set_settings(floor, ORDERS, resend_s=2.0)
    after = restarted(floor, standby, before[standby]["pid"])
    assert after["config_revision"] == revision
    restarted(floor, leader, before[leader]["pid"])
    floors.wait_for("in force everywhere", lambda: config.in_force(floor, ORDERS, revision))
    floors.wait_for("healthy", floor.healthy, pause_s=0.2)
    assert floor.service(ORDERS)["leader"] == standby, "it had the new settings before it took the lead"
    assert floor.json("history", ORDERS)[-1]["cause"] == "stopped"
    stops = [line for line in floor.run("events").stdout.splitlines() if "instance.stopping" in line]
    order = [name for line in stops for name in (standby, leader) if f'"{name}"' in line][-2:]
    assert order == [standby, leader]
    floors.wait_for("it trades", floor.trades)


# --- without a store ----------------------------------------------------------------------------------------


def test_without_a_store_a_daemon_comes_back_with_the_settings_that_were_last_good(
    floor: floors.Floor,
) -> None:
    revision = change(floor, STRATEGY, order_notional="250")
    name = f"{STRATEGY}-alpha-1"
    with no_store(floor):
        pid = floor.pids()[name]
        floor.kill(pid)
        now = restarted(floor, name, pid, ready=False)
        assert now["config_revision"] == revision
        assert rendered(floor, name)["settings"]["order_notional"] == "250"
        # The same of an agent that has never seen the store.
        kill_agent(floor)
        (floor.run_dir() / f"{name}.config.json").unlink()
        floor.kill(now["pid"])
        floors.wait_for(
            "it is started", lambda: (floor.run_dir() / f"{name}.config.json").exists(), pause_s=0.1
        )
        assert rendered(floor, name)["revision"] == revision
        assert rendered(floor, name)["settings"]["order_notional"] == "250"
    assert all(200 < notional(order) <= 251 for order in placed_from_now(floor))
    assert outside.sent_twice(floor.site_dir) == set()


def test_a_killed_agent_changes_no_settings_and_its_successor_hands_on_what_changed_meanwhile(
    floor: floors.Floor,
) -> None:
    pids = floor.pids()
    agent = floor.holder("alpha", "agent")
    floor.kill(agent)
    revision = config.set_settings(floor, STRATEGY, order_notional="100")
    floors.wait_for("another agent", lambda: floor.holder("alpha", "agent") not in (0, agent))
    floors.wait_for("handed on", lambda: config.in_force(floor, STRATEGY, revision))
    assert all(notional(order) <= 101 for order in placed_from_now(floor))
    floors.wait_for("healthy", floor.healthy)
    assert floor.pids() == pids


# --- the kill switch ----------------------------------------------------------------------------------------


def working(floor: floors.Floor) -> int:
    return sum(order["status"] not in ENDED for order in floor.json("orders"))


def test_the_kill_switch_stops_orders_lets_cancels_pass_and_survives_all(floor: floors.Floor) -> None:
    placed_from_now(floor)
    config.put_key(floor, "kill_switch", True, "drill")
    set_ns = time.time_ns()
    floors.wait_for("orders are refused", lambda: counted(floor, ORDERS, REFUSED) > 2, pause_s=0.2)
    text = floor.run("status").stdout.splitlines()[1]
    assert (
        text.startswith("  KILL SWITCH: the kill switch is on") and "set by ann" in text and "drill" in text
    )
    floors.wait_for("what worked was cancelled", lambda: working(floor) == 0, pause_s=0.2)
    late = [o for o in outside.placed_at_venue(floor.site_dir) if o.sent_ns > set_ns + 1_000_000_000]
    assert late == []
    placed = outside.seen_by_venue(floor.site_dir)
    # Every process that obeys it, then its store, then the agents that tell it.
    for instance in floor.service(ORDERS)["instances"]:
        floor.kill(instance["pid"])
        restarted(floor, instance["id"], instance["pid"])
    with no_store(floor):
        for host in ("alpha", "beta"):
            kill_agent(floor, host)
        for instance in ("omsd-alpha-1", "omsd-beta-1"):
            path = floor.run_dir() / f"{instance}.config.json"
            path.unlink()
            state = json.loads((floor.run_dir() / f"{instance}.shim.json").read_text())
            floor.kill(state["daemon"]["pid"])
            floors.wait_for("it is started", path.exists, pause_s=0.1)
            assert rendered(floor, instance)["flags"] == {"kill_switch": True}
    floors.wait_for("refused again", lambda: counted(floor, ORDERS, REFUSED) > 0, pause_s=0.2)
    assert outside.seen_by_venue(floor.site_dir) == placed
    config.put_key(floor, "kill_switch", False, "drill is over")
    floors.wait_for("it trades", floor.trades)
    floors.wait_for("healthy", floor.healthy)
    assert "KILL SWITCH" not in floor.run("status").stdout
    assert outside.sent_twice(floor.site_dir) == set()
    floors.wait_for("positions equal the venue's", floor.settled, pause_s=0.2)
