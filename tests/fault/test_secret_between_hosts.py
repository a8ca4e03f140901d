"""Two hosts with site folders of their own: they agree on a secret through the store, and a damaged or
foreign one costs pings and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.keeper.ping_key import PURPOSE
from controlplane import model, store
from controlplane.errors import FloorUnreachable
from controlplane.host import locks, secret
from controlplane.http import unix
from controlplane.model import Mode
from tests.support import agents, servers
from tests.support.agents import KEYS, AgentProcess

pytestmark = pytest.mark.timeout(180)
SPEC = agents.spec("riskd", "alpha", mode=Mode.ACTIVE_STANDBY)
MEANS = "a hand-over names no successor, and the standbys race"


@pytest.fixture(scope="module")
def etcd() -> Iterator[str]:
    with servers.running(servers.etcd()) as one:
        yield f"etcd://{one.endpoint}"


async def _fill(where: str) -> None:
    client = store.connect(where)
    for key in (await client.range(KEYS.root)).entries:
        await client.delete(key)
    await client.put(KEYS.incarnation, b"1700000000000")
    await client.put(KEYS.spec(SPEC.name), model.encode(SPEC))
    await client.close()


async def _stored(where: str) -> bytes | None:
    client = store.connect(where)
    try:
        entry = await client.get(KEYS.secret)
        return entry.value if entry else None
    finally:
        await client.close()


@contextlib.contextmanager
def hosts(where: str, *names: str) -> Iterator[list[AgentProcess]]:
    """Agents with a folder each; none is started yet."""
    asyncio.run(_fill(where))
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            folder = stack.enter_context(agents.site_folder())
            found.append(AgentProcess(folder, name, where))
            stack.callback(agents.end_what_is_left, folder)
            stack.callback(found[-1].shut_down)
        yield found


def until(what: str, claim: Callable[[], Any]) -> Any:
    deadline_mono_s = time.monotonic() + 2 * agents.SOON_S
    while not (found := claim()):
        assert time.monotonic() < deadline_mono_s, what
        time.sleep(0.05)
    return found


def refused(agent: AgentProcess) -> dict[str, float]:
    """Pings that the host's keeper did not believe, by why; empty until it has said so."""
    try:
        body = unix.request(agent.socket, "GET", "/metrics", timeout_s=5).body.decode()
    except FloorUnreachable:
        return {}
    lines = [line for line in body.splitlines() if line.startswith("hft_agent_keeper_unauthenticated_total{")]
    return {line.split('kind="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def alarms(agent: AgentProcess) -> dict[str, str]:
    """Of the agent itself."""
    found = agent.get("/v1/site/status") or {"alarms": []}
    return {each["id"]: each["text"] for each in found["alarms"] if each["subject"] == f"agent-{agent.host}"}


def led(agent: AgentProcess) -> bool:
    found = agent.get("/v1/instances") or []
    return any(each["role"] == "leader" for each in found)


def said(agent: AgentProcess) -> str:
    """All that an operator could read of this host."""
    logs = [*(agent.folder / "logs").glob("*"), agent.folder / f"agent-{agent.host}.log"]
    logs += (agent.folder / "hosts").glob("*/events.jsonl")
    return str(agent.get("/v1/site/status")) + "".join(path.read_text(errors="replace") for path in logs)


def keeper_pid(agent: AgentProcess) -> int:
    holder = until(
        "a keeper",
        lambda: locks.held_by(agent.folder / "hosts" / agent.host / "keeper.lock"),
    )
    return int(holder.pid)


def test_hosts_with_folders_of_their_own_agree_and_believe_each_other_s_pings(etcd: str) -> None:
    with hosts(etcd, "alpha", "beta") as both:
        alpha, beta = both
        foreign = secret.read_or_make(beta.folder)
        for agent in both:
            agent.start()
            until("the keeper reports", lambda agent=agent: refused(agent))
        kept = secret.read_or_make(alpha.folder)
        assert secret.read_or_make(beta.folder) == kept == asyncio.run(_stored(etcd))
        until("alpha leads", lambda: led(alpha))
        for agent in both:
            assert not {"keeper.pings", "keeper.pings_forged", "site.secret"} & alarms(agent).keys()
            assert refused(agent)["forged"] == 0, "every ping of the other carried the agreed key"
        for agent in both:
            text = said(agent)
            for one in (kept, foreign, secret.derived(kept, PURPOSE)):
                assert one.hex() not in text and repr(one)[2:-1] not in text
        # The opposite, to be sure that they ping: another secret is put on beta, and its keeper takes it.
        secret.put(beta.folder, b"s" * 32)
        text = until("alpha's alarm", lambda: alarms(alpha).get("keeper.pings_forged"))
        assert "another site.key" in text and refused(alpha)["forged"] > 0
        secret.put(beta.folder, kept)
        until("the alarm ends", lambda: "keeper.pings_forged" not in alarms(alpha))
        assert led(alpha), "nothing of this moved the lead"


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def test_a_damaged_secret_at_the_start_is_named_and_its_removal_heals_all(etcd: str) -> None:
    """Nobody made it whole: the store has none yet. Pings are off, and riskd, which signs with it, does not
    start. The alarm says what to do; afterwards all goes on without a restart of agent or keeper.
    """
    with hosts(etcd, "alpha") as (alpha,):
        damage(alpha.folder / secret.NAME, b"")
        alpha.start()
        until("both alarms", lambda: {"keeper.pings", "site.secret"} <= alarms(alpha).keys())
        found = alarms(alpha)
        assert "site.key: found no file of exactly 32" in found["keeper.pings"]
        assert MEANS in found["keeper.pings"] and "remove the file" in found["site.secret"]
        pid = keeper_pid(alpha)
        (alpha.folder / secret.NAME).unlink()
        until("no alarm", lambda: not {"keeper.pings", "site.secret"} & alarms(alpha).keys())
        assert asyncio.run(_stored(etcd)) == secret.read_or_make(alpha.folder)
        until("riskd leads", lambda: led(alpha))
        assert keeper_pid(alpha) == pid


def test_a_secret_damaged_later_leaves_the_key_in_force_and_is_healed_from_the_store(etcd: str) -> None:
    with hosts(etcd, "alpha") as (alpha,):
        alpha.start()
        until("alpha leads", lambda: led(alpha))
        kept = until("agreed", lambda: asyncio.run(_stored(etcd)))
        damage(alpha.folder / secret.NAME, kept[:7])
        text = until("the alarm", lambda: alarms(alpha).get("keeper.pings"))
        assert "the key that was read before stays in force" in text
        until("healed", lambda: (alpha.folder / secret.NAME).read_bytes() == kept)
        until("no alarm", lambda: led(alpha) and "keeper.pings" not in alarms(alpha))
