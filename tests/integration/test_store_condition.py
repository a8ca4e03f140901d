"""The store's own cluster as its servers tell it: members lost, no leader, a full database; and on a
floor."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from controlplane import store
from controlplane.errors import HftctlError
from controlplane.http import unix
from controlplane.site import store_troubles
from controlplane.store import Health
from controlplane.store.base import Condition
from tests.support import consul_servers, floors, servers
from tests.support.floors import wait_for
from tests.support.stores import SOON_S

Cluster = tuple[str, list[servers.Server | consul_servers.Server]]


@pytest.fixture(params=["etcd", "consul"])
def three(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with ExitStack() as stack:
        if request.param == "etcd":
            members: list[servers.Server | consul_servers.Server] = [
                *stack.enter_context(servers.cluster(servers.etcd()))
            ]
        else:
            members = [*stack.enter_context(consul_servers.cluster(consul_servers.consul()))]
        yield f"{request.param}://{','.join(member.endpoint for member in members)}", members


async def until(ask: Callable[[], Awaitable[Condition]], holds: Callable[[Condition], bool]) -> Condition:
    found: Condition | None = None
    async with asyncio.timeout(SOON_S * 3):
        while True:
            try:
                found = await ask()
                if holds(found):
                    return found
            except HftctlError:
                pass
            await asyncio.sleep(0.1)


def told(kind: str, condition: Condition) -> dict[str, str]:
    health = Health(kind, (), True, "", 1.0, "", condition)
    return {each.id: each.text for each in store_troubles.Judge().look(health, 0.0)}


@pytest.mark.anyio
@pytest.mark.usefixtures("one_loop")
async def test_lost_members_and_a_lost_leader_are_seen(
    three: Cluster,
) -> None:
    url, members = three
    kind = url.partition(":")[0]
    client = store.connect(url)
    try:
        well = await until(client.condition, lambda found: bool(found.leader) and found.answering == 3)
        assert well.size == 3 and well.term > 0 and told(kind, well) == {}
        members[0].kill()
        less = await until(client.condition, lambda found: found.answering == 2 and bool(found.leader))
        assert "1 of the 3 servers" in told(kind, less)["store.members"]
        members[1].kill()
        none = await until(client.condition, lambda found: not found.leader)
        assert "must agree on one" in told(kind, none)["store.no_leader"]
        members[2].kill()
        with pytest.raises(HftctlError):
            await client.condition()
    finally:
        await client.close()


def test_a_full_etcd_is_an_alarm_with_its_remedy_on_a_floor() -> None:
    with (
        servers.running(servers.etcd(), ["--quota-backend-bytes=1000000"]) as server,
        floors.floor(bring_up=False) as floor,
    ):
        words = ["--store-endpoints", f"etcd://{server.endpoint}"]
        assert floor.run("up", "--detach", *words, timeout_s=180).returncode == 0
        fill(server.endpoint)

        def full() -> list[str]:
            """By each host's agent for itself: no host record tells the other, as the store takes none."""
            found = []
            for host in ("alpha", "beta"):
                answer = unix.request(floor.run_dir() / f"{host}.agent.sock", "GET", "/v1/site/status")
                alarms = json.loads(answer.body)["alarms"]
                found += [each["text"] for each in alarms if each["id"] == "store.full"]
            return found

        wait_for("the alarm of both agents", lambda: len(full()) >= 2)
        assert all("etcdctl alarm disarm" in text for text in full())
        done = floor.run("status")
        assert done.returncode == 1 and "etcd takes no more writes" in done.stdout
        page = (
            urllib.request.urlopen(f"{floor.status()['hosts'][0]['url']}/metrics", timeout=10).read().decode()
        )
        for name in ("hft_store_size_bytes", "hft_store_members", "hft_store_leader_changes_total"):
            assert f"{name}{{" in page, name


def fill(endpoint: str) -> None:
    async def write() -> None:
        client = store.connect(f"etcd://{endpoint}")
        try:
            for n in range(200):
                await client.put(f"other/{n}", b"x" * 100_000)
        except HftctlError:
            pass  # full
        finally:
            await client.close()

    asyncio.run(write())


def test_the_state_of_the_store_is_in_status(tmp_path: Path) -> None:
    with floors.floor() as floor:
        found = wait_for("a leader", lambda: floor.status()["store"]["leader"] and floor.status()["store"])
        (member,) = found["members"]
        assert (
            member["answers"] and member["leads"] and found["leader_changes"] == 0 and found["reason"] == ""
        )
