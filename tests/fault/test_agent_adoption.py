"""Faults row 3: the agent is killed with -9, again and again; daemons, keeper and leadership go on, and the
next agent adopts them (I6).

Also: the keeper killed beside it, and a store that is away while the agent comes back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from controlplane import model, store
from controlplane.host import locks
from controlplane.model import Mode
from controlplane.store import Entry
from tests.support import agents, servers
from tests.support.agents import KEYS, AgentProcess

KILLS = 10
"""Of the fifty of the fault list; HFT_KILLS=50 runs them all."""
FLOOR = (agents.spec("auditd"), agents.spec("riskd", mode=Mode.ACTIVE_STANDBY))


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    with servers.running(servers.etcd()) as one:
        yield one


@pytest.fixture
def where(server: servers.Server) -> str:
    """The store with the floor's specs and nothing else."""

    async def fill() -> None:
        client = store.connect(f"etcd://{server.endpoint}")
        for key in (await client.range(KEYS.root)).entries:
            await client.delete(key)
        await client.put(KEYS.incarnation, b"1700000000000")
        for spec in FLOOR:
            await client.put(KEYS.spec(spec.name), model.encode(spec))
        await client.close()

    asyncio.run(fill())
    return f"etcd://{server.endpoint}"


def entries(where: str, prefix: str) -> dict[str, Entry]:
    async def read() -> dict[str, Entry]:
        client = store.connect(where)
        try:
            return (await client.range(prefix)).entries
        finally:
            await client.close()

    return asyncio.run(read())


def keeper_pid(agent: AgentProcess) -> int:
    """Of the keeper that holds its lock; one that was just started may not have it yet."""
    lock = agent.folder / "hosts" / agent.host / "keeper.lock"
    deadline_mono_s = time.monotonic() + agents.SOON_S
    while (holder := locks.held_by(lock)) is None:
        assert time.monotonic() < deadline_mono_s, f"nobody holds {lock}"
        time.sleep(0.02)
    return holder.pid


def reported(agent: AgentProcess) -> dict[str, int]:
    """Pids, once the agent has all of its daemons running."""
    found = agent.until(
        "/v1/instances",
        lambda found: len(found) == len(FLOOR) and all(i["state"] == "running" for i in found),
    )
    return {instance["id"]: instance["pid"] for instance in found}


def registered(where: str) -> dict[str, int]:
    """Registrations with the store's revision of each: the same revision means that it was never away."""
    return {key: entry.revision for key, entry in entries(where, KEYS.services).items()}


def led(where: str) -> bool:
    return KEYS.leader("riskd") in entries(where, KEYS.groups)


def test_an_agent_killed_again_and_again_restarts_no_daemon_and_moves_no_leader(where: str) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        agent.until("/v1/instances", lambda found: all(i["ready"] for i in found if i["service"] == "auditd"))
        servers_keeper = keeper_pid(agent)
        deadline_mono_s = time.monotonic() + agents.SOON_S
        while not (led(where) and registered(where)):
            assert time.monotonic() < deadline_mono_s, "riskd's first take"
            time.sleep(0.05)
        known, epoch = registered(where), entries(where, KEYS.epoch("riskd"))
        for _ in range(int(os.environ.get("HFT_KILLS", KILLS))):
            agent.kill()
            agent.start()
            assert reported(agent) == before
        assert keeper_pid(agent) == servers_keeper
        assert registered(where) == known, "nobody was taken out of discovery"
        assert entries(where, KEYS.epoch("riskd")) == epoch, "nobody took the lead anew"
        kinds = [event["kind"] for event in agent.until("/v1/site/events?limit=500", lambda found: found)]
        assert "instance.exited" not in kinds
        assert kinds.count("instance.started") == len(FLOOR)
        alarms = agent.until("/v1/site/status", lambda found: found["alarms"])["alarms"]
        assert "127.0.0.1" in next(a["text"] for a in alarms if a["id"] == "store.open"), (
            "a port in plain text"
        )


def test_an_adopted_instance_that_dies_is_restarted_by_the_new_agent(where: str) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        agent.kill()
        agent.start()
        reported(agent)
        os.kill(before["auditd-alpha-1"], signal.SIGKILL)
        now = agent.until(
            "/v1/instances",
            lambda found: (
                all(i["state"] == "running" for i in found) and pid(found) != before["auditd-alpha-1"]
            ),
        )
        assert next(i for i in now if i["id"] == "riskd-alpha-1")["pid"] == before["riskd-alpha-1"]


def pid(found: list[dict[str, object]], instance: str = "auditd-alpha-1") -> object:
    return next(i for i in found if i["id"] == instance)["pid"]


def test_what_died_while_no_agent_was_there_is_started_by_the_next(where: str) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        agent.kill()
        os.kill(before["auditd-alpha-1"], signal.SIGKILL)
        agent.start()
        now = reported(agent)
        assert now["auditd-alpha-1"] != before["auditd-alpha-1"]
        assert now["riskd-alpha-1"] == before["riskd-alpha-1"]


def test_a_keeper_that_is_killed_is_restarted_at_once_and_no_daemon_notices(where: str) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        old = keeper_pid(agent)
        os.kill(old, signal.SIGKILL)
        deadline_mono_s = time.monotonic() + agents.SOON_S
        while True:
            assert time.monotonic() < deadline_mono_s
            try:
                if keeper_pid(agent) != old:
                    break
            except ValueError:
                pass  # between truncation and writing
            time.sleep(0.01)
        assert reported(agent) == before


def test_an_agent_that_comes_back_while_the_store_is_away_leaves_everything_running(
    where: str, server: servers.Server
) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        server.pause()
        try:
            agent.kill()
            agent.start()
            found = agent.until(
                "/v1/instances",
                lambda found: len(found) == len(FLOOR) and all(i["state"] == "running" for i in found),
            )
            assert {i["id"]: i["pid"] for i in found} == before
            assert agent.get("/v1/site/status") is None, (
                "an agent that has not seen the site says so instead of guessing"
            )
        finally:
            server.resume()
        agent.until("/v1/site/status", lambda found: found["site"] == "lab")
        assert reported(agent) == before


def test_an_agent_that_restarts_while_the_store_is_away_runs_what_its_disk_says(
    where: str, server: servers.Server
) -> None:
    """What lives is adopted, what died is started again; the store has nothing to correct afterwards."""
    with agents.agent_process(where) as agent:
        before = reported(agent)
        server.pause()
        try:
            agent.kill()
            os.kill(before["auditd-alpha-1"], signal.SIGKILL)
            agent.start()
            now = reported(agent)
            assert now["auditd-alpha-1"] != before["auditd-alpha-1"]
            assert now["riskd-alpha-1"] == before["riskd-alpha-1"]
            os.kill(now["auditd-alpha-1"], signal.SIGKILL)
            agent.until("/v1/instances", lambda found: pid(found) not in (None, now["auditd-alpha-1"]))
            again = reported(agent)
        finally:
            server.resume()
        agent.until("/v1/site/status", lambda found: found["site"] == "lab")
        assert reported(agent) == again


def test_a_spec_that_does_not_decode_stops_nothing_and_an_alarm_says_what_is_in_force(where: str) -> None:
    async def put(value: bytes) -> None:
        client = store.connect(where)
        await client.put(KEYS.spec("auditd"), value)
        await client.close()

    with agents.agent_process(where) as agent:
        before = reported(agent)
        asyncio.run(put(b"{"))
        alarm = agent.until(
            "/v1/site/status",
            lambda found: next(each for each in found["alarms"] if each["id"] == "store.undecodable"),
        )
        found = agent.until("/v1/site/status", lambda found: found["alarms"])
        (text,) = [each["text"] for each in found["alarms"] if each["id"] == "store.undecodable"]
        assert (
            alarm
            and "specs/auditd" in text
            and "auditd: its spec does not decode: Input data was truncated, its last good" in text
        )
        agent.kill()
        os.kill(before["auditd-alpha-1"], signal.SIGKILL)
        agent.start()
        now = reported(agent)
        assert now["auditd-alpha-1"] != before["auditd-alpha-1"], "started again, by the last good spec"
        assert now["riskd-alpha-1"] == before["riskd-alpha-1"]
        asyncio.run(put(model.encode(agents.spec("auditd"))))
        agent.until(
            "/v1/site/status",
            lambda found: all(each["id"] != "store.undecodable" for each in found["alarms"]),
        )
        assert reported(agent) == now


def test_shutdown_leaves_no_process(where: str) -> None:
    with agents.agent_process(where) as agent:
        before = reported(agent)
        keeper = keeper_pid(agent)
        agent.shut_down()
        for one in (*before.values(), keeper):
            with pytest.raises(ProcessLookupError):
                os.kill(one, 0)
        assert KEYS.host("alpha") not in entries(where, KEYS.hosts)
