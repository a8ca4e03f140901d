"""`healthy` on a real floor: true while it is quiet, false with the reason while something is wrong, true
again afterwards. What it says is held against what was done to the floor, from outside.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support import floors

QUIET_S = 15.0


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as up:
        yield up


@pytest.fixture(autouse=True)
def well_before_and_after(floor: floors.Floor) -> Iterator[None]:
    floors.wait_for("healthy", lambda: no_reason(floor))
    yield
    floors.wait_for("healthy again", lambda: no_reason(floor))


def no_reason(floor: floors.Floor) -> bool:
    """By both agents: either answers, and one may have heard of the other's host a moment later."""
    return all(floor.status()["reasons"] == [] for _ in range(5))


def unhealthy_for(floor: floors.Floor, reason: str) -> list[str]:
    """Wait until the site is not healthy for this reason; all the reasons then."""

    def said() -> list[str]:
        found = floor.status()
        assert found["healthy"] is not bool(found["reasons"])
        return found["reasons"] if any(reason in each for each in found["reasons"]) else []

    return list(floors.wait_for(f"unhealthy: {reason}", said))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_quiet_floor_is_healthy_all_the_time(floor: floors.Floor) -> None:
    end_mono_s = time.monotonic() + QUIET_S
    while time.monotonic() < end_mono_s:
        assert floor.status()["reasons"] == []
        time.sleep(0.1)


def test_a_controller_that_hangs_or_dies_is_a_reason(floor: floors.Floor) -> None:
    with stopped(floor.parent()["processes"]["controld"]["pid"]):
        unhealthy_for(floor, "no controller is elected")


def test_a_parent_that_died_is_a_reason_until_up_brings_another(floor: floors.Floor) -> None:
    before = floor.pids()
    floor.kill(floor.parent()["floord"]["pid"])
    assert "hftctl up" in unhealthy_for(floor, "hft-floord has died")[0]
    done = floor.run("up", "--detach")
    assert done.returncode == 0, done.stderr
    floors.wait_for("healthy", floor.healthy)
    assert floor.pids() == before, "it adopted everything"


def test_a_standby_whose_keeper_hangs_cannot_take_over_and_is_a_reason(floor: floors.Floor) -> None:
    leader = floor.service("omsd")["leader"]
    host = "beta" if leader == "omsd-alpha-1" else "alpha"
    with stopped(floor.holder(host, "keeper")):
        unhealthy_for(floor, f"agent-{host}: the keeper")


def test_an_agent_that_hangs_is_a_reason(floor: floors.Floor) -> None:
    with stopped(floor.holder("beta", "agent")):
        unhealthy_for(floor, "agent of beta silent for")


def test_a_standby_that_hangs_is_a_reason(floor: floors.Floor) -> None:
    service = floor.service("omsd")
    (standby,) = [each for each in service["instances"] if each["id"] != service["leader"]]
    with stopped(standby["pid"]):
        unhealthy_for(floor, standby["id"])


def test_a_market_data_daemon_that_hangs_is_a_reason_and_its_rate_is_not_known(floor: floors.Floor) -> None:
    (row,) = floor.service("marketd")["instances"]
    assert floors.wait_for("a rate", lambda: floor.status()["flow"]["messages_per_s"]) > 0
    with stopped(row["pid"]):
        unhealthy_for(floor, row["id"])
        floors.wait_for("no rate", lambda: floor.status()["flow"]["messages_per_s"] is None)
        assert floor.status()["flow"]["messages"] > 0, "a total stays"
        floors.wait_for("people see it", lambda: "(?/s)" in floor.run("status").stdout)
