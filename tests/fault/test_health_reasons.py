"""`healthy` on a real floor: true while it is quiet, false with the reason while something is wrong, true
again afterwards; `/health` of the controller with it, and what went wrong in the events when it is over. What
the floor says is held against what was done to it, from outside.

Every agent is asked, and the controller, over their own sockets: a verb would add its own start to each look.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from controlplane.errors import FloorUnreachable
from controlplane.http import unix
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
QUIET_S = 60.0
LOOK_S = 0.1
SESSION_S = 20.0
"""Consul's least TTL is 10 s, and a session may live for twice its TTL: a hung controller is elected for as
long."""
TOLD_S = 8.0
"""From what is done to the floor until whoever asks is told."""
HOSTS = ("alpha", "beta")


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as up:
        yield up


@pytest.fixture(autouse=True)
def well_before_and_after(floor: floors.Floor) -> Iterator[None]:
    well(floor)
    yield
    well(floor)


def asked(floor: floors.Floor, socket: str, path: str) -> unix.Answer | None:
    """None: it does not answer."""
    with contextlib.suppress(FloorUnreachable):
        return unix.request(floor.run_dir() / socket, "GET", path, timeout_s=1.0)
    return None


def told(floor: floors.Floor, host: str) -> dict[str, Any] | None:
    """The status by this host's agent."""
    answer = asked(floor, f"{host}.agent.sock", "/v1/site/status")
    if answer is None or answer.status != 200:
        return None
    found: dict[str, Any] = json.loads(answer.body)
    assert found["healthy"] is not bool(found["reasons"])
    return found


def controller(floor: floors.Floor, path: str = "/health") -> tuple[int, str]:
    """(0, "") while it does not answer."""
    answer = asked(floor, "controld.sock", path)
    return (answer.status, answer.body.decode()) if answer else (0, "")


def well(floor: floors.Floor) -> None:
    def all_say_so() -> bool:
        found = [told(floor, host) for host in HOSTS]
        return all(each and each["healthy"] for each in found) and controller(floor) == (200, "OK")

    floors.wait_for("healthy by both agents and the controller", all_say_so)


def verdict(floor: floors.Floor, host: str, path: str) -> int:
    """Status code by this host's agent; 0 while it does not answer."""
    answer = asked(floor, f"{host}.agent.sock", path)
    return answer.status if answer else 0


def unhealthy_for(
    floor: floors.Floor, reason: str, *, by: tuple[str, ...] = HOSTS, controls: bool = True, late_s: float = 0
) -> str:
    """Wait until these hosts' agents, and the controller, say that the site is not healthy for this reason,
    within TOLD_S (and `late_s` for what has to happen first); the first agent's words.
    """

    def words(host: str) -> str:
        found = told(floor, host) or {"reasons": []}
        return next((each for each in found["reasons"] if reason in each), "")

    def all_say_so() -> list[str] | None:
        said = [words(host) for host in by]
        if controls:
            code, body = controller(floor)
            said.append(body if code == 503 and reason in body else "")
            assert controller(floor, "/live") == (200, "OK")
            assert controller(floor, "/ready") == (200, "OK")
        return said if all(said) else None

    return str(
        floors.wait_for(f"unhealthy: {reason}", all_say_so, seconds=TOLD_S + late_s, pause_s=LOOK_S)[0]
    )


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def in_events(floor: floors.Floor, *words: str) -> None:
    """It has an event for its beginning and one for its end, with the text."""

    def both() -> bool:
        answer = asked(floor, "alpha.agent.sock", "/v1/site/events?limit=1000")
        found = [
            (event["kind"], str(event["fields"].get("text", "")))
            for event in (json.loads(answer.body) if answer and answer.status == 200 else [])
            if all(word in f"{event['fields']}" for word in words)
        ]
        began = [text for kind, text in found if kind.endswith(".raised")]
        over = [text for kind, text in found if kind.endswith(".cleared")]
        return bool(began) and bool(over) and all(began) and all(over)

    floors.wait_for(f"events of {words}", both, pause_s=0.5)


def only(floor: floors.Floor, service: str) -> dict[str, Any]:
    (row,) = floor.service(service)["instances"]
    return dict(row)


def test_a_quiet_floor_is_healthy_all_the_time(floor: floors.Floor) -> None:
    end_mono_s, looks = time.monotonic() + QUIET_S, 0
    while time.monotonic() < end_mono_s:
        for host in HOSTS:
            found = told(floor, host)
            assert found is not None and found["reasons"] == []
        assert controller(floor) == (200, "OK")
        looks += 1
        time.sleep(LOOK_S)
    assert looks > QUIET_S


def test_a_controller_that_hangs_is_a_reason(floor: floors.Floor) -> None:
    late_s = SESSION_S if floor.parent()["store"]["kind"] == "consul" else 0
    with stopped(floor.parent()["processes"]["controld"]["pid"]):
        unhealthy_for(floor, "no controller is elected", controls=False, late_s=late_s)
    well(floor)
    in_events(floor, "no controller is elected")


def test_a_parent_that_hangs_is_a_reason_until_it_goes_on(floor: floors.Floor) -> None:
    before, pid = floor.pids(), floor.parent()["floord"]["pid"]
    with stopped(pid):
        assert f"kill -CONT {pid}" in unhealthy_for(floor, "hft-floord")
        for host in HOSTS:
            floors.wait_for(f"/health of {host}", lambda host=host: verdict(floor, host, "/health") == 503)
            assert verdict(floor, host, "/live") == verdict(floor, host, "/ready") == 200
    well(floor)
    assert floor.parent()["floord"]["pid"] == pid and floor.pids() == before
    in_events(floor, "floord.hung")


def test_a_parent_that_died_is_a_reason_until_up_brings_another(floor: floors.Floor) -> None:
    before = floor.pids()
    floor.kill(floor.parent()["floord"]["pid"])
    assert "hftctl up" in unhealthy_for(floor, "hft-floord has died")
    done = floor.run("up", "--detach")
    assert done.returncode == 0, done.stderr
    well(floor)
    assert floor.pids() == before, "it adopted everything"
    in_events(floor, "floord.dead")


def test_a_standby_whose_keeper_hangs_cannot_take_over_and_is_a_reason(floor: floors.Floor) -> None:
    leader = floor.service("omsd")["leader"]
    host = "beta" if leader == "omsd-alpha-1" else "alpha"
    with stopped(floor.holder(host, "keeper")):
        unhealthy_for(floor, f"agent-{host}: the keeper")
    well(floor)
    in_events(floor, "keeper.down")


def test_an_agent_that_hangs_is_one_reason(floor: floors.Floor) -> None:
    with stopped(floor.holder("beta", "agent")):
        unhealthy_for(floor, "agent of beta silent for", by=("alpha",))
        found = told(floor, "alpha")
        assert found is not None and len(found["reasons"]) == 1, "and not one for each of its instances"
        floors.wait_for("an event of it", lambda: "agent of beta silent" in floor.run("events").stdout)
    well(floor)
    in_events(floor, "agent of beta")


def test_a_standby_that_hangs_is_a_reason_and_neither_ready_nor_live(floor: floors.Floor) -> None:
    service = floor.service("omsd")
    (standby,) = [each for each in service["instances"] if each["id"] != service["leader"]]
    with stopped(standby["pid"]):
        unhealthy_for(floor, f"{standby['id']}: running, critical: no status for")
        for path in ("health", "ready", "standby"):
            assert verdict(floor, standby["host"], f"/v1/instances/{standby['id']}/{path}") == 503, path
        time.sleep(1)  # more than a moment, so that it has an event
    well(floor)
    for path in ("health", "ready", "standby"):
        assert verdict(floor, standby["host"], f"/v1/instances/{standby['id']}/{path}") == 200, path
    in_events(floor, standby["id"], "no status for")


def test_a_market_data_daemon_that_hangs_is_a_reason_and_its_rate_is_not_known(floor: floors.Floor) -> None:
    row = only(floor, "marketd")
    assert floors.wait_for("a rate", lambda: floor.status()["flow"]["messages_per_s"]) > 0
    with stopped(row["pid"]):
        unhealthy_for(floor, row["id"])
        unhealthy_for(floor, "nothing of its market stream has come")
        floors.wait_for("no rate", lambda: floor.status()["flow"]["messages_per_s"] is None)
        assert floor.status()["flow"]["messages"] > 0, "a total stays"
        floors.wait_for("people see it", lambda: "(?/s)" in floor.run("status").stdout)
    well(floor)
    in_events(floor, "market_silent")


def test_a_venue_that_hangs_has_a_silent_feed(floor: floors.Floor) -> None:
    row = only(floor, "simd")
    with stopped(row["pid"]):
        unhealthy_for(floor, "its feed is silent")
        assert only(floor, "marketd")["ready"], "no restart of marketd helps"
    well(floor)
    in_events(floor, "feed_silent")


def test_a_feed_that_a_hung_reader_holds_back_is_not_silent(floor: floors.Floor) -> None:
    row = only(floor, "bookd")
    with stopped(row["pid"]):
        unhealthy_for(floor, row["id"])
        time.sleep(TOLD_S)
        found = told(floor, "alpha")
        assert found is not None and not any("silent" in each for each in found["reasons"])


def test_an_audit_that_lags_is_a_reason_until_it_has_caught_up(floor: floors.Floor) -> None:
    row = only(floor, "auditd")
    with stopped(row["pid"]):
        unhealthy_for(floor, row["id"])
        unhealthy_for(floor, "lacks", late_s=floors.WAIT_S)
    well(floor)
    in_events(floor, "audit_behind")


def test_restarts_are_all_and_crashes_those_that_nobody_asked_for(floor: floors.Floor) -> None:
    before = only(floor, "positiond")
    floor.kill(before["pid"])

    def counted() -> bool:
        now = only(floor, "positiond")
        return (now["restarts"], now["crashes"]) == (before["restarts"] + 1, before["crashes"] + 1)

    floors.wait_for("both are counted", counted)
