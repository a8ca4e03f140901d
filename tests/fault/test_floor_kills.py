"""Fault: kill -9 of each part of a floor in turn, then of a whole host. Each comes back by itself, the floor
is healthy, and trading goes on.

One floor for all of it, in this order: what one kill leaves behind, the next one meets. Safety first in each:
no epoch but the expected ones, the positions equal to the venue's to the last unit; recovery after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support import floors

pytestmark = pytest.mark.timeout(300)
GROUPS = ("omsd", "riskd", "execd")


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        one.trades()
        yield one


def epochs(floor: floors.Floor) -> dict[str, int]:
    return {
        service["name"]: service["epoch"]
        for service in floor.status()["services"]
        if service["name"] in GROUPS
    }


def causes(floor: floors.Floor, group: str, after: int) -> list[str]:
    return [row["cause"] for row in floor.json("history", group) if row["epoch"] > after]


def kill(*pids: int) -> None:
    """All at once: none sees another die before it dies itself."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # a child that died with its parent
            os.kill(pid, signal.SIGKILL)


def recovered(floor: floors.Floor) -> None:
    floors.wait_for("healthy", floor.healthy)
    assert floor.trades()
    floors.wait_for("positions equal to the venue's", floor.settled)


def killed_and_back(floor: floors.Floor, instance: str) -> None:
    before = floor.instance(instance)
    kill(before["pid"])

    def back() -> bool:
        now = floor.instance(instance)
        return bool(
            now["pid"] not in (None, before["pid"])
            and now["ready"]
            and now["restarts"] == before["restarts"] + 1
        )

    floors.wait_for(f"a new {instance}", back)


@pytest.mark.parametrize(
    "service", ["riskd", "execd", "simd", "bookd", "marketd", "positiond", "auditd", "strategy-mm"]
)
def test_a_killed_daemon_comes_back_and_trading_goes_on(floor: floors.Floor, service: str) -> None:
    (instance,) = floor.service(service)["instances"]
    before, pids, flow = epochs(floor), floor.pids(), floor.status()["flow"]
    killed_and_back(floor, instance["id"])
    recovered(floor)
    after, now = epochs(floor), floor.status()["flow"]
    expected = before | ({service: before[service] + 1} if service in before else {})
    assert after == expected, "one death, one epoch, and none of anybody else"
    assert {id for id, pid in floor.pids().items() if pid != pids[id]} == {instance["id"]}
    for name in ("messages", "orders", "fills", "rejects", "stale_token_refusals"):
        assert now[name] >= flow[name], f"{name} never falls"


@pytest.mark.parametrize("times", range(2))
def test_a_killed_leader_is_followed_and_the_flow_counts_on(floor: floors.Floor, times: int) -> None:
    before, flow = floor.service("omsd"), floor.status()["flow"]
    killed_and_back(floor, before["leader"])
    recovered(floor)
    # A host's counters come with its record: which of two statuses is the newer, nobody says.
    floors.wait_for(
        "more orders than before", lambda: floor.status()["flow"]["orders"] > flow["orders"], pause_s=0.2
    )
    after, now = floor.service("omsd"), floor.status()["flow"]
    assert after["epoch"] == before["epoch"] + 1 and after["leader"] != before["leader"]
    assert causes(floor, "omsd", before["epoch"]) == ["process_lost"]
    assert now["fills"] >= flow["fills"]


def parents_child(floor: floors.Floor, name: str) -> Callable[[], int]:
    return lambda: int(floor.parent()["processes"].get(name, {}).get("pid", 0))


@pytest.mark.parametrize("beside", ["the standby", "its keeper", "both keepers", "the store"])
def test_a_leader_killed_together_with_what_would_replace_it(floor: floors.Floor, beside: str) -> None:
    """Who can take the lead, or say so, is gone too: it is taken later, and never twice."""
    service = floor.service("omsd")
    leader, pids = service["leader"], {instance["id"]: instance["pid"] for instance in service["instances"]}
    keepers = {host: floor.holder(host, "keeper") for host in ("alpha", "beta")}
    others = {
        "the standby": list(pids.values()),
        "its keeper": [keepers[leader.split("-")[1]]],
        "both keepers": list(keepers.values()),
        "the store": [floor.store_pid()],
    }[beside]
    kill(pids[leader], *others)
    floors.wait_for(
        "a new leader", lambda: (now := floor.service("omsd"))["epoch"] > service["epoch"] and now["leader"]
    )
    recovered(floor)
    taken = [row for row in floor.json("history", "omsd") if row["epoch"] > service["epoch"]]
    assert [row["epoch"] for row in taken] == list(
        range(service["epoch"] + 1, floor.service("omsd")["epoch"] + 1)
    )
    assert {row["cause"] for row in taken} <= {"process_lost", "lease_expired"} and len(taken) <= 3


def test_a_leader_that_hangs_is_followed_and_finds_itself_a_standby(floor: floors.Floor) -> None:
    """Stopped, not killed: its word runs out, the standby leads after a lease, and what it would still send
    is refused.
    """
    floors.wait_for(
        "a standby that may lead", lambda: "electable is omsd-" in str(last_decision(floor)), pause_s=0.2
    )
    before = floor.service("omsd")
    pid = {instance["id"]: instance["pid"] for instance in before["instances"]}[before["leader"]]
    os.kill(pid, signal.SIGSTOP)
    try:
        floors.wait_for(
            "the other leads", lambda: floor.service("omsd")["leader"] not in (None, before["leader"])
        )
        assert floor.trades()
    finally:
        os.kill(pid, signal.SIGCONT)
    floors.wait_for(
        "the old leader as standby", lambda: floor.instance(before["leader"])["role"] == "standby"
    )
    recovered(floor)
    after = floor.service("omsd")
    assert after["epoch"] == before["epoch"] + 1 and causes(floor, "omsd", before["epoch"]) == [
        "lease_expired"
    ]
    assert floor.instance(before["leader"])["pid"] == pid


def last_decision(floor: floors.Floor) -> str:
    texts = [
        event["fields"]["text"]
        for event in floor.json("events")
        if event["kind"] == "group.decision" and event["fields"]["service"] == "omsd"
    ]
    return next((text for text in reversed(texts) if text.startswith("leads epoch")), "")


def hosts_killed_and_back(floor: floors.Floor, lock: str) -> None:
    """That process of both hosts at once."""
    old = {host: floor.holder(host, lock) for host in ("alpha", "beta")}
    assert all(old.values())
    kill(*old.values())
    for host in old:
        floors.wait_for(
            f"a new {lock} of {host}", lambda host=host: floor.holder(host, lock) not in (0, old[host])
        )  # type: ignore[misc]


def unchanged_or_expired(floor: floors.Floor, before: dict[str, int]) -> None:
    """A group changes its epoch here only when nobody could renew for a whole lease."""
    for group, epoch in before.items():
        assert set(causes(floor, group, epoch)) <= {"lease_expired"}, group


def test_both_keepers_at_once(floor: floors.Floor) -> None:
    before, pids = epochs(floor), floor.pids()
    hosts_killed_and_back(floor, "keeper")
    recovered(floor)
    unchanged_or_expired(floor, before)
    assert floor.pids() == pids, "no daemon is restarted by the loss of its keeper"


def test_both_agents_at_once(floor: floors.Floor) -> None:
    before, pids, keepers = (
        epochs(floor),
        floor.pids(),
        {host: floor.holder(host, "keeper") for host in ("alpha", "beta")},
    )
    hosts_killed_and_back(floor, "agent")
    recovered(floor)
    assert epochs(floor) == before and floor.pids() == pids, "keepers and daemons go on, and are adopted"
    assert {host: floor.holder(host, "keeper") for host in keepers} == keepers


@pytest.mark.parametrize("name", ["controld", "the store"])
def test_a_child_of_floord_comes_back(floor: floors.Floor, name: str) -> None:
    child = floor.store_pid if name == "the store" else parents_child(floor, name)
    before, pids = epochs(floor), floor.pids()
    old = child()
    kill(old)
    floors.wait_for(f"a new {name}", lambda: child() not in (0, old))
    recovered(floor)
    unchanged_or_expired(floor, before)
    assert floor.pids() == pids, "nobody else is restarted"
    if name == "controld":
        assert epochs(floor) == before, "nothing hangs on the controller"


def everything_of(floor: floors.Floor, host: str) -> list[int]:
    """Agent, keeper, shims and daemons."""
    found = [floor.holder(host, "agent"), floor.holder(host, "keeper")]
    for path in floor.run_dir().glob("*.shim.json"):
        state = json.loads(path.read_bytes())
        if state["host"] == host and not state.get("exit"):
            found += [state["shim"]["pid"], state["daemon"]["pid"]]
    return found


def test_a_whole_host_is_lost_and_brought_back(floor: floors.Floor) -> None:
    """The order manager's leader was there: the other member leads, and hft-floord brings the host back."""

    def led_from_alpha() -> bool:
        if floor.service("omsd")["leader"] == "omsd-alpha-1":
            return True
        done = floor.json("failover", "omsd", "--to", "omsd-alpha-1", "--reason", "drill")
        return bool(done["outcome"] == "succeeded")

    floors.wait_for("omsd led from alpha", led_from_alpha, pause_s=0.5)
    recovered(floor)
    floors.wait_for("beta electable", lambda: "electable is omsd-beta-1" in last_decision(floor))
    before, pids = epochs(floor), floor.pids()
    kill(*everything_of(floor, "alpha"))
    floors.wait_for("beta leads", lambda: floor.service("omsd")["leader"] == "omsd-beta-1")
    floors.wait_for("a new agent of alpha", lambda: floor.holder("alpha", "agent"))
    recovered(floor)
    after, now = epochs(floor), floor.pids()
    assert after["omsd"] == before["omsd"] + 1 and after["execd"] == before["execd"], (
        "one hand-over, and none on beta"
    )
    assert {id for id in now if now[id] == pids[id]} == {id for id in now if "-beta-" in id}
    assert {host["name"]: host["state"] for host in floor.status()["hosts"]} == {"alpha": "up", "beta": "up"}
