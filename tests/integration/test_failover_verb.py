"""`hftctl failover` on a real floor: every outcome, its exit code, and JSON on stdout whatever it is."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import floors

pytestmark = pytest.mark.timeout(300)
FIELDS = ["operation", "service", "from", "to", "epoch", "took_ms", "outcome", "reason"]


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        yield one


def ask(floor: floors.Floor, *words: str) -> tuple[int, dict[str, Any]]:
    done = floor.run("failover", *words, "-o", "json")
    told = json.loads(done.stdout)
    assert list(told) == FIELDS, done.stderr
    return done.returncode, told


def electable(floor: floors.Floor) -> tuple[str, str]:
    """Leader and standby of omsd, once the standby may take the lead."""

    def found() -> tuple[str, str] | None:
        service = floor.service("omsd")
        others = [instance["id"] for instance in service["instances"] if instance["id"] != service["leader"]]
        texts = [
            event["fields"]["text"]
            for event in floor.json("events")
            if event["kind"] == "group.decision" and event["fields"]["service"] == "omsd"
        ]
        leads = next(
            (text for text in reversed(texts) if text.startswith(f"leads epoch {service['epoch']}")), ""
        )
        return (
            (service["leader"], others[0])
            if service["leader"] and f"electable is {others[0]}" in leads
            else None
        )

    pair: tuple[str, str] = floors.wait_for("an electable standby", found, pause_s=0.2)
    return pair


@pytest.mark.parametrize(
    ("words", "code", "outcome", "why"),
    [
        (("omsd",), 2, "refused", "--reason"),
        (("omsd", "--reason", " "), 2, "refused", "reason"),
        (("omds", "--reason", "drill"), 2, "refused", '"omds"'),
        (("bookd", "--reason", "drill"), 1, "refused", "singleton"),
        (("riskd", "--reason", "drill"), 1, "refused", "no electable standby"),
        (
            ("omsd", "--reason", "drill", "--to", "omsd-gamma-1"),
            1,
            "refused",
            "omsd-gamma-1 is not an instance of omsd",
        ),
        (
            ("omsd", "--reason", "drill", "--to", "riskd-alpha-1"),
            1,
            "refused",
            "riskd-alpha-1 is not an instance of omsd",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    floor: floors.Floor, words: tuple[str, ...], code: int, outcome: str, why: str
) -> None:
    before, epoch = floor.pids(), floor.service("omsd")["epoch"]
    found, told = ask(floor, *words)
    assert (found, told["outcome"], told["service"]) == (code, outcome, words[0]) and why in told["reason"]
    assert told["operation"] is None and told["took_ms"] is None
    assert floor.pids() == before and floor.service("omsd")["epoch"] == epoch


def test_the_present_leader_is_no_target(floor: floors.Floor) -> None:
    leader, _ = electable(floor)
    code, told = ask(floor, "omsd", "--reason", "drill", "--to", leader)
    assert (code, told["outcome"], told["from"]) == (1, "refused", leader) and "leads already" in told[
        "reason"
    ]


def test_one_that_succeeds_says_from_to_epoch_and_time(floor: floors.Floor) -> None:
    leader, standby = electable(floor)
    before = floor.service("omsd")
    code, told = ask(floor, "omsd", "--reason", "drill", "--to", standby)
    assert code == 0 and told["took_ms"] > 0 and told["operation"].startswith("failover-omsd-")
    assert {name: told[name] for name in ("service", "from", "to", "epoch", "outcome", "reason")} == {
        "service": "omsd", "from": leader, "to": standby, "epoch": before["epoch"] + 1,
        "outcome": "succeeded", "reason": "drill",
    }  # fmt: skip
    assert floor.service("omsd")["leader"] == standby
    old = {instance["id"]: instance["pid"] for instance in before["instances"]}[leader]
    floors.wait_for(
        "the old leader back as standby",
        lambda: (now := floor.instance(leader))["role"] == "standby" and now["pid"] not in (None, old),
    )
    row = floor.json("history", "omsd")[-1]
    assert (row["epoch"], row["cause"], row["reason"]) == (told["epoch"], "failover", "drill")


def test_one_that_is_not_settled_in_time_is_unknown_and_names_its_operation(floor: floors.Floor) -> None:
    """The leader's keeper is stopped: nobody acts on the request for as long as the caller waits. Later it is
    carried out or refused, or, where the machine was so slow that the lease ran out meanwhile, settled by the
    standby's take.
    """
    leader, _ = electable(floor)
    epoch = floor.service("omsd")["epoch"]
    keeper = floor.holder(leader.split("-")[1], "keeper")
    os.kill(keeper, signal.SIGSTOP)
    try:
        code, told = ask(floor, "omsd", "--reason", "drill", "--timeout", "0.5")
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert (code, told["outcome"], told["from"]) == (4, "unknown", leader)
    assert told["operation"].startswith("failover-omsd-") and told["operation"] in told["reason"]

    def settled() -> bool:
        now = floor.service("omsd")
        return bool(now["leader"] and (now["epoch"] > epoch or now["leader"] == leader))

    floors.wait_for("the request settled", settled)
    floors.wait_for("healthy", floor.healthy)


def test_without_json_it_is_one_line(floor: floors.Floor) -> None:
    refused = floor.run("failover", "riskd", "--reason", "drill")
    assert refused.returncode == 1 and len((refused.stdout + refused.stderr).strip().splitlines()) == 1
    unexplained = floor.run("failover", "omsd")
    assert unexplained.returncode == 2 and len(unexplained.stderr.strip().splitlines()) == 1


def test_without_a_floor_it_is_refused_in_json_too() -> None:
    with floors.floor(bring_up=False) as none:
        code, told = ask(none, "omsd", "--reason", "drill")
    assert (code, told["outcome"]) == (3, "refused")
