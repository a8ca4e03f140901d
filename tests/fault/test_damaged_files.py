"""Every file of a host's folders cut to nothing, cut short or filled with garbage under a running host; then
what reads it is killed and starts again.

What is claimed each time: the daemons are the same processes, the leader leads (or the alarm says which
command heals it), and an event or alarm names the file. A real etcd, a real agent and keeper.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import store
from controlplane.host import files, locks
from controlplane.model import Mode
from hftd.shm import pages
from tests.support import agents, servers
from tests.support.agents import KEYS, AgentProcess

pytestmark = pytest.mark.timeout(300)
FLOOR = (agents.spec("auditd"), agents.spec("riskd", mode=Mode.ACTIVE_STANDBY))
GARBAGE = b"\xff\x00{[" * 40


@pytest.fixture(scope="module")
def host() -> Iterator[AgentProcess]:
    """One host whose riskd leads; every test leaves it so."""
    with servers.running(servers.etcd()) as server:
        where = f"etcd://{server.endpoint}"
        agents.fill(where, *FLOOR)
        with agents.agent_process(where) as agent:
            until("riskd leads", lambda: led(agent))
            yield agent


def until(what: str, claim: Callable[[], Any]) -> Any:
    deadline_mono_s = time.monotonic() + 60
    while not (found := claim()):
        assert time.monotonic() < deadline_mono_s, what
        time.sleep(0.05)
    return found


def running(agent: AgentProcess) -> dict[str, int]:
    found = agent.get("/v1/instances") or []
    if len(found) != len(FLOOR) or any(each["state"] != "running" for each in found):
        return {}
    return {each["id"]: each["pid"] for each in found}


def led(agent: AgentProcess) -> bool:
    found = agent.get("/v1/instances") or []
    return any(each["role"] == "leader" and each["health"] == "passing" for each in found)


def keeper(agent: AgentProcess) -> int:
    path = agent.folder / "hosts" / agent.host / "keeper.lock"
    return int(until("a keeper", lambda: locks.holder(path, "keeper")).pid)


def events(agent: AgentProcess, kind: str) -> list[str]:
    found = agent.get("/v1/site/events?limit=500") or []
    return [str(each["fields"]) for each in found if each["kind"] == kind]


def named(agent: AgentProcess, *words: str) -> bool:
    """Events are served once they are some tenths of a second old."""
    return any(all(word in text for word in words) for text in events(agent, "state.damaged"))


def alarms(agent: AgentProcess) -> dict[str, str]:
    found = agent.get("/v1/site/status") or {"alarms": []}
    return {each["id"]: each["text"] for each in found["alarms"]}


def contents(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    return [b"", whole[:1], whole[: len(whole) // 2], GARBAGE]


def read(path: Path) -> dict[str, Any]:
    return files.read_json(path) or {}


def restart_agent(agent: AgentProcess, meanwhile: Callable[[], object]) -> None:
    agent.kill()
    meanwhile()
    agent.start()
    until("running again", lambda: running(agent))


AGENT_FILES = ("agent.lock", "agent.port", "events.jsonl", "specs.json", "config.json", "keeper.lock")


@pytest.mark.parametrize("name", AGENT_FILES)
def test_no_file_of_the_agent_that_is_damaged_keeps_it_from_adopting_what_runs(
    host: AgentProcess, name: str
) -> None:
    path = host.folder / "hosts" / host.host / name
    before, keeper_before = until("all running", lambda: running(host)), keeper(host)
    for content in contents(path):
        restart_agent(host, lambda content=content: path.write_bytes(content))
        assert running(host) == before and keeper(host) == keeper_before
        until("riskd leads", lambda: led(host))
        if name in ("specs.json", "config.json") or (name == "events.jsonl" and content):
            until("an event names it", lambda: named(host, str(path)))
        until("adopted", lambda: events(host, "keeper.adopted"))
    if name == "specs.json":
        until("written again", lambda: read(path).keys() == {"auditd", "riskd"})
    if name == "config.json":
        until("written again", lambda: read(path).get("configs", {}).keys() == before.keys())
    if name in ("specs.json", "config.json"):
        assert len(list(path.parent.glob(f"{name}.damaged-*"))) == 4


@pytest.mark.parametrize("instance", ["auditd-alpha-1", "riskd-alpha-1"])
@pytest.mark.parametrize("kind", ["shim.json", "hello.json"])
def test_a_daemon_whose_state_file_is_damaged_is_found_and_not_started_a_second_time(
    host: AgentProcess, instance: str, kind: str
) -> None:
    path = host.folder / "run" / f"{instance}.{kind}"
    before = running(host)
    whole = path.read_bytes()
    for content in [*contents(path), whole.replace(b'"pid": ', b'"pid": 1' + b"0" * 30)]:
        restart_agent(host, lambda content=content: path.write_bytes(content))
        assert running(host) == before, "the same processes"
        if kind == "shim.json":
            until("an event names both", lambda: named(host, str(path), f"pid {before[instance]}"))
            assert json.loads(path.read_bytes())["daemon"]["pid"] == before[instance]
    if kind == "shim.json":
        restart_agent(host, path.unlink)
        assert running(host) == before, "also when it is gone"
    until("riskd leads", lambda: led(host))


def kill_keeper(agent: AgentProcess) -> int:
    old = keeper(agent)
    os.kill(old, signal.SIGKILL)
    return int(until("another keeper", lambda: pid if (pid := keeper(agent)) != old else None))


def test_a_keeper_whose_lock_or_tokens_are_damaged_starts_and_leads_on(host: AgentProcess) -> None:
    """Its lease page is the witness: no lead is lost, and an alarm says what was done."""
    folder = host.folder / "hosts" / host.host
    before = running(host)
    for name in ("keeper.lock", "keeper.json"):
        path = folder / name
        until("written", path.exists)
        for content in contents(path):
            path.write_bytes(content)
            kill_keeper(host)
            until("riskd leads", lambda: led(host))
            assert running(host) == before
            if name == "keeper.json":
                text = until("the alarm", lambda: alarms(host).get("keeper.tokens_rebuilt"))
                assert str(path) in text and "seen of riskd" in text and "no lead" not in text
                until("written again", lambda path=path: read(path).get("floors", {}).get("riskd"))
    assert 1 <= len(list(folder.glob("keeper.json.damaged-*"))) <= 5
    kill_keeper(host)
    until("no alarm with the next", lambda: led(host) and "keeper.tokens_rebuilt" not in alarms(host))


def test_a_keeper_with_no_witness_gives_no_lead_and_names_the_command(host: AgentProcess) -> None:
    """Last here: what heals it is a floor's `down` and `up`."""
    host.kill()
    folder = host.folder / "hosts" / host.host
    os.kill(keeper(host), signal.SIGKILL)
    with (host.folder / "run" / "riskd-alpha-1.lease").open("r+b") as page:
        page.write(pages.LEASE_MAGIC + bytes(pages.PAGE_BYTES - 8))  # the same file: its daemon reads nobody
    (folder / "keeper.json").write_bytes(b"")
    host.start()
    text = until(
        "the alarm", lambda: "riskd" in alarms(host).get("keeper.tokens_rebuilt", "") and alarms(host)
    )
    assert "no lead of these on this host until `hftctl down`" in text["keeper.tokens_rebuilt"]
    until("which gives no lead", lambda: not led(host))
    client_raises(host)
    until("riskd leads again", lambda: led(host))


def client_raises(agent: AgentProcess) -> None:
    """As hft-floord does at `up`."""

    async def put() -> None:
        client = store.connect(agent.command[agent.command.index("--store") + 1])
        await client.put(KEYS.incarnation, b"1750000000000")
        await client.close()

    asyncio.run(put())
