"""Rollouts of configuration on a floor that trades: a live limit, a setting that restarts, a canary that
dies, a controller that dies, a metric that turns, an operator who takes one back.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from controlplane import model, store
from controlplane.floor import folders
from controlplane.model import records
from controlplane.model.observed import HostRecord
from tests.support import floors, outside

pytestmark = pytest.mark.timeout(380)


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        floors.wait_for("it trades", one.trades)
        yield one


def roll(
    floor: floors.Floor, service: str, *changes: str, watch: str = "2s", more: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Sent; nobody waits for its end."""
    words = ("config", "set", service, *changes, "--rollout", "--watch", watch, *more)
    return floor.run(*words, "--reason", "a test", "--yes", "--no-wait", "-o", "json")


def begun(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["outcome"] == "running"
    return found


def operation(floor: floors.Floor, id: str) -> dict[str, Any]:
    found: dict[str, Any] = floor.json("op", "show", id)
    return found


def ended(floor: floors.Floor, id: str, seconds: float = 90) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        row = operation(floor, id)
        return row if row["state"] != "running" else None

    found: dict[str, Any] = floors.wait_for(f"{id} ends", look, seconds=seconds, pause_s=0.3)
    return found


def at_step(floor: floors.Floor, id: str, step: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        row = operation(floor, id)
        return row if any(each["name"] == step for each in row["steps"]) else None

    found: dict[str, Any] = floors.wait_for(f"{id} is at {step}", look, pause_s=0.2)
    return found


def in_force(floor: floors.Floor, service: str) -> dict[str, int]:
    return {row["id"]: row["in_force"] for row in floor.json("config", "get", service)["instances"]}


def wanted(floor: floors.Floor, service: str) -> int:
    return int(floor.json("config", "get", service)["revision"])


def leader(floor: floors.Floor, service: str) -> str:
    return str(floors.wait_for("it is led", lambda: floor.service(service)["leader"]))


def where(floor: floors.Floor) -> str:
    found = folders.Folders(floor.site_dir).store_url()
    assert found is not None
    return found


STEPS = ["canary in force", "canary good", "rest in force", "rest good", "promoted"]


def test_of_a_group_of_one_that_one_is_canary_and_all(floor: floors.Floor) -> None:
    pids = floor.pids()
    done = begun(roll(floor, "riskd", 'max_position="900"'))
    row = ended(floor, done["operation"])
    assert row["state"] == "succeeded", row
    assert [step["name"] for step in row["steps"]] == ["canary in force", "canary good", "promoted"]
    assert in_force(floor, "riskd") == {"riskd-alpha-1": done["to"]}
    assert floor.pids()["riskd-alpha-1"] == pids["riskd-alpha-1"]
    assert floor.trades()


def test_a_live_limit_comes_to_the_standby_first_and_restarts_nothing(floor: floors.Floor) -> None:
    pids, leads = floor.pids(), leader(floor, "omsd")
    [standby] = in_force(floor, "omsd").keys() - {leads}
    done = begun(roll(floor, "omsd", "open_orders_max=9900", watch="4s"))
    at_step(floor, done["operation"], "canary good")
    assert in_force(floor, "omsd") == {leads: done["from"], standby: done["to"]}
    second = roll(floor, "omsd", "open_orders_max=9800")
    assert second.returncode == 1 and done["operation"] in second.stderr + second.stdout, second
    row = ended(floor, done["operation"])
    assert row["state"] == "succeeded", row
    assert [(step["name"], step["state"]) for step in row["steps"]] == [(each, "succeeded") for each in STEPS]
    assert in_force(floor, "omsd") == {leads: done["to"], standby: done["to"]}
    assert wanted(floor, "omsd") == done["to"]
    assert {name: pid for name, pid in floor.pids().items() if name in (leads, standby)} == {
        name: pids[name] for name in (leads, standby)
    }
    assert floor.trades()


def test_a_canary_that_is_killed_takes_it_back(floor: floors.Floor) -> None:
    leads, before = leader(floor, "omsd"), wanted(floor, "omsd")
    [standby] = in_force(floor, "omsd").keys() - {leads}
    done = begun(roll(floor, "omsd", "open_orders_max=9700", watch="30s"))
    at_step(floor, done["operation"], "canary good")
    floor.kill(floor.pids()[standby])
    row = ended(floor, done["operation"])
    assert row["state"] == "failed" and f"{standby} crashed" in row["outcome"], row
    assert [step["name"] for step in row["steps"]] == ["canary in force", "canary good", "reverted"]
    assert wanted(floor, "omsd") == before
    floors.wait_for("both have it", lambda: in_force(floor, "omsd") == {leads: before, standby: before})
    alarm = "config.reverted.omsd"
    floors.wait_for("an alarm", lambda: alarm in [each["id"] for each in floor.status()["alarms"]])
    events = floor.run("events").stdout
    assert "rollout.reverted" in events and done["operation"] in events
    floors.wait_for("it is healthy", floor.healthy, pause_s=0.5)


def test_a_controller_that_is_killed_in_the_middle_is_followed_by_one_that_goes_on(
    floor: floors.Floor,
) -> None:
    done = begun(roll(floor, "omsd", "open_orders_max=9650", watch="6s"))
    at_step(floor, done["operation"], "canary good")
    floor.kill(floor.parent()["processes"]["controld"]["pid"])
    row = ended(floor, done["operation"])
    assert row["state"] == "succeeded", row
    assert [step["name"] for step in row["steps"]] == STEPS
    assert set(in_force(floor, "omsd").values()) == {done["to"]}


def test_a_metric_that_turns_takes_it_back(floor: floors.Floor) -> None:
    rates = {}

    def reported() -> dict[str, float]:
        for instance in metrics(floor, "riskd").values():
            rates.update(instance)
        return rates

    floors.wait_for("rates are known", lambda: reported(), pause_s=0.5)
    done = roll(floor, "riskd", 'max_position="600"', more=("--revert-when", "no_such_metric > 1"))
    assert done.returncode == 2, done
    name = sorted(rates)[0]
    assert name in done.stderr
    before = wanted(floor, "riskd")
    # Of whoever reports it, it is above: what is watched has turned at the first look.
    found = begun(
        roll(floor, "riskd", 'max_position="600"', watch="60s", more=("--revert-when", f"{name} > -1"))
    )
    row = ended(floor, found["operation"])
    assert row["state"] == "failed" and f"the metric has turned: {name}" in row["outcome"], row
    assert wanted(floor, "riskd") == before
    floors.wait_for("all have it", lambda: set(in_force(floor, "riskd").values()) == {before})


def metrics(floor: floors.Floor, service: str) -> dict[str, dict[str, float]]:
    """Rates of each instance, as the store has them."""

    async def look() -> dict[str, dict[str, float]]:
        client = store.connect(where(floor))
        try:
            entries = (await client.range(store.Keys(floor.status()["site"]).hosts)).entries
        finally:
            await client.close()
        hosts = [model.decode(HostRecord, entry.value) for entry in entries.values()]
        return {
            each.id: dict(each.rates) for host in hosts for each in host.instances if each.service == service
        }

    return asyncio.run(look())


def test_an_operator_takes_it_back_with_a_rollback(floor: floors.Floor) -> None:
    before = wanted(floor, "omsd")
    done = begun(roll(floor, "omsd", "open_orders_max=9550", watch="60s"))
    at_step(floor, done["operation"], "canary good")
    back = floor.run("config", "rollback", "omsd", "--reason", "not now", "--yes")
    assert back.returncode == 0, back.stdout + back.stderr
    row = ended(floor, done["operation"])
    assert row["state"] == "cancelled" and "not now" in row["outcome"], row
    assert wanted(floor, "omsd") == before and set(in_force(floor, "omsd").values()) == {before}


def test_a_setting_that_restarts_goes_by_the_rules_of_the_group_and_loses_nothing(
    floor: floors.Floor,
) -> None:
    spec_revision = asyncio.run(every_setting_restarts(floor, "omsd"))

    def settled() -> bool:
        rows = floor.service("omsd")["instances"]
        return all(row["spec_revision"] == spec_revision and row["ready"] for row in rows)

    floors.wait_for("both run as that spec", settled, pause_s=0.5)
    floors.wait_for("it is healthy", floor.healthy, pause_s=0.5)
    pids, leads = floor.pids(), leader(floor, "omsd")
    [standby] = in_force(floor, "omsd").keys() - {leads}
    done = begun(roll(floor, "omsd", "open_orders_max=9000", watch="2s"))
    assert done["restarts"] == ["open_orders_max"]
    at_step(floor, done["operation"], "canary good")
    now = floor.pids()
    assert now[standby] != pids[standby] and now[leads] == pids[leads], "the standby first"
    row = ended(floor, done["operation"])
    assert row["state"] == "succeeded", row
    assert floor.pids()[leads] != pids[leads] and leader(floor, "omsd") == standby
    assert set(in_force(floor, "omsd").values()) == {done["to"]}
    assert floor.trades()
    floors.wait_for("every position is the venue's", floor.settled, pause_s=0.5)
    assert outside.sent_twice(floor.site_dir) == set()


async def every_setting_restarts(floor: floors.Floor, service: str) -> int:
    """As of a spec that an earlier release wrote; returns the store's revision of it."""
    client = store.connect(where(floor))
    try:
        key = store.Keys(floor.status()["site"]).spec(service)
        entry = await client.get(key)
        assert entry is not None
        spec = records.decode_spec(entry.value)
        assert isinstance(spec, model.ServiceSpec)
        value = model.encode(replace(spec, restart=None))
        written = await client.put(key, value, expect=entry.revision)
        assert isinstance(written, store.Committed)
        return written.of_puts
    finally:
        await client.close()
