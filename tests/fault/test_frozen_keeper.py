"""Fault rows 4 and 37: a keeper that is stopped, alone or together with its agent, woken at any stage, or
that cannot start. A real etcd, a real agent and keeper, a riskd that leads.

What is claimed each time: it is named while it lasts, the row never says `leader, passing`, exactly one
keeper is there afterwards, the same daemon leads, and epochs rise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from controlplane.host import locks
from controlplane.model import Mode
from hftd.shm import pages
from tests.support import agents, servers
from tests.support.agents import AgentProcess

pytestmark = pytest.mark.timeout(300)
RISKD = "riskd-alpha-1"


@pytest.fixture(scope="module")
def host() -> Iterator[AgentProcess]:
    """One host whose riskd leads; every test leaves it so."""
    with servers.running(servers.etcd()) as server:
        where = f"etcd://{server.endpoint}"
        agents.fill(where, agents.spec("riskd", mode=Mode.ACTIVE_STANDBY))
        with agents.agent_process(where) as agent:
            until("riskd leads", lambda: leads(agent))
            yield agent


def until(what: str, claim: Callable[[], Any]) -> Any:
    deadline_mono_s = time.monotonic() + 60
    while not (found := claim()):
        assert time.monotonic() < deadline_mono_s, what
        time.sleep(0.01)
    return found


def row(agent: AgentProcess) -> dict[str, Any]:
    found = agent.get("/v1/instances") or [{}]
    return next((each for each in found if each.get("id") == RISKD), {})


def in_force(agent: AgentProcess) -> bool:
    """By the lease page, which the daemon itself obeys."""
    try:
        with pages.LeasePage(agent.folder / "run" / f"{RISKD}.lease") as page:
            word = page.read()
    except FileNotFoundError:
        return False
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return word.wanted is pages.Wanted.LEAD and word.valid_until_ns > now_ns


def leads(agent: AgentProcess) -> bool:
    found = row(agent)
    return (found.get("role"), found.get("health")) == ("leader", "passing") and in_force(agent)


def keeper(agent: AgentProcess) -> int:
    path = agent.folder / "hosts" / agent.host / "keeper.lock"
    return int(until("a keeper", lambda: locks.holder(path, "keeper")).pid)


def keepers(agent: AgentProcess) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line and line[0].startswith("hft-keeperd") and f"--site-dir={agent.folder}" in line:
                found.append(process.pid)
    return found


def down(agent: AgentProcess) -> str:
    """What the alarm says; empty while there is none."""
    status = agent.get("/v1/site/status") or {"alarms": []}
    return next((each["text"] for each in status["alarms"] if each["id"] == "keeper.down"), "")


def healthy(agent: AgentProcess) -> bool:
    """But for the controller, which this site has not."""
    reasons = (agent.get("/v1/site/status") or {}).get("reasons", [""])
    return all("no controller is elected" in each for each in reasons)


def as_before(agent: AgentProcess, pid: int, epoch: int) -> None:
    until("it leads", lambda: leads(agent))
    until("it is healthy", lambda: healthy(agent))
    assert not down(agent) and len(keepers(agent)) == 1
    assert row(agent)["pid"] == pid and row(agent)["epoch"] >= epoch


def test_a_frozen_keeper_is_named_and_replaced(host: AgentProcess) -> None:
    before, old = row(host), keeper(host)
    os.kill(old, signal.SIGSTOP)
    said = until("it is said", lambda: down(host))
    assert f"pid {old}) says nothing" in said or "the keeper has ended" in said
    assert row(host)["health"] == "critical" or leads(host), "never leader and passing without a keeper"
    until("it was ended", lambda: old not in keepers(host))
    as_before(host, before["pid"], before["epoch"])
    events = host.get("/v1/site/events?limit=200")
    assert [each["fields"]["pid"] for each in events if each["kind"] == "keeper.killed"][-1:] == [old]


def test_while_it_is_frozen_nothing_is_called_healthy(host: AgentProcess) -> None:
    """As an outsider sees it: from the moment at which the word has run out until it stands again."""
    os.kill(keeper(host), signal.SIGSTOP)
    until("it is said", lambda: down(host))
    seen: list[tuple[bool, bool]] = []

    def over() -> bool:
        seen.append((in_force(host), healthy(host)))
        return not down(host) and leads(host)

    until("it leads again", over)
    unled_and_healthy = [each for each in seen[:-1] if each == (False, True)]
    assert not unled_and_healthy
    until("healthy", lambda: healthy(host))


@pytest.mark.parametrize("after_s", [0.1, 0.6, 0.9, 1.05, 1.2])
def test_one_that_is_woken_at_any_stage_leaves_one_keeper_and_the_same_leader(
    host: AgentProcess, after_s: float
) -> None:
    before, old = row(host), keeper(host)
    os.kill(old, signal.SIGSTOP)
    time.sleep(after_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(old, signal.SIGCONT)
    as_before(host, before["pid"], before["epoch"])


def test_a_keeper_that_was_stopped_with_its_agent_is_not_ended_for_it(host: AgentProcess) -> None:
    """Row 4: what the agent could not hear it does not hold against its keeper."""
    before, old = row(host), keeper(host)
    assert host.process is not None
    for pid in (host.process.pid, old):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    for pid in (old, host.process.pid):
        os.kill(pid, signal.SIGCONT)
    as_before(host, before["pid"], before["epoch"])
    assert keeper(host) == old


def test_a_frozen_keeper_that_a_new_agent_adopts_is_replaced(host: AgentProcess) -> None:
    before, old = row(host), keeper(host)
    host.kill()
    os.kill(old, signal.SIGSTOP)
    host.start()
    until("it was ended", lambda: old not in keepers(host))
    as_before(host, before["pid"], before["epoch"])


def test_a_keeper_that_cannot_start_is_not_healthy_and_says_why(host: AgentProcess) -> None:
    before, old = row(host), keeper(host)
    blocked = host.folder / "run" / f"{host.host}.keeper.sock"
    blocked.unlink()
    blocked.mkdir()
    os.kill(old, signal.SIGKILL)
    until("its last words are shown", lambda: "last line: " in down(host) and str(blocked) in down(host))
    assert not healthy(host)
    status = host.get("/v1/site/status")
    assert any("the keeper has ended" in reason for reason in status["reasons"])
    blocked.rmdir()
    as_before(host, before["pid"], before["epoch"])
