"""Fault: a daemon that comes up, looks well, and dies again, over and over. A crash loop is never healthy."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agents import health
from controlplane.floor import folders
from controlplane.http import unix
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
INSTANCE = "positiond-beta-1"


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        one.trades()
        yield one


def is_up(floor: floors.Floor, restarts: int) -> bool:
    found = floor.instance(INSTANCE)
    return bool(found["restarts"] == restarts and found["ready"] and found["state"] == "running")


def asked(floor: floors.Floor, path: str) -> unix.Answer:
    return unix.request(folders.Folders(floor.site_dir).agent_socket("beta"), "GET", path, timeout_s=10)


def test_an_instance_that_keeps_dying_makes_the_site_unhealthy_while_it_is_up_and_says_why(
    floor: floors.Floor,
) -> None:
    for died in range(1, health.LOOP_DEATHS + 1):
        assert floor.healthy(), "one crash or two are healed by the restart"
        floor.kill(floor.instance(INSTANCE)["pid"])
        floors.wait_for("it is up again", lambda died=died: is_up(floor, died))
        if died < health.LOOP_DEATHS:
            floors.wait_for("healthy", floor.healthy)
    found = floor.instance(INSTANCE)
    assert found["state"] == "running" and found["ready"], "nothing is wrong with it at this moment"
    assert found["health"] == "critical"
    assert found["reason"].startswith("crash loop: ended 3 times in a row before it had been ready for ")
    assert "last: killed by SIGKILL" in found["reason"]
    status = floor.run("status", "-o", "json")
    assert status.returncode == 1 and json.loads(status.stdout)["healthy"] is False
    assert asked(floor, f"/v1/instances/{INSTANCE}/health").status == 503
    assert asked(floor, "/health").status == 503
    assert floor.trades(), "it works all the same"


def test_it_is_healthy_again_once_it_has_lived_long_enough(floor: floors.Floor) -> None:
    floors.wait_for("healthy", floor.healthy, seconds=180, pause_s=1)
    assert floor.instance(INSTANCE)["restarts"] == health.LOOP_DEATHS, "it was only left alone"
