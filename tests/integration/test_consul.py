"""The Consul client against servers that are killed, frozen, guarded by tokens, and crowded.

Safety first in each: nothing lost, nothing twice, nothing called unapplied that was applied; the time it
takes second.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from controlplane import store
from controlplane.errors import Denied, LeaseLost, Unavailable
from controlplane.settings import StoreSettings
from controlplane.store import Committed, Compare, Lost, Put, consul
from tests.support import consul_servers
from tests.support.stores import SOON_S, put_until_done, seen, until, values

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

MASTER = str(uuid.uuid4())
GUARDED: dict[str, Any] = {
    "acl": {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": MASTER}}
}


@pytest.fixture(scope="module")
def binary() -> Path:
    return consul_servers.consul()


@pytest.fixture
def server(binary: Path) -> Iterator[consul_servers.Server]:
    with consul_servers.running(binary) as one:
        yield one


@pytest.fixture(scope="module")
def guarded(binary: Path) -> Iterator[consul_servers.Server]:
    with consul_servers.running(binary, GUARDED, token=MASTER) as one:
        yield one


async def test_no_acknowledged_write_is_lost_and_a_watch_misses_none_over_kills_of_the_server(
    server: consul_servers.Server,
) -> None:
    client, reader = (store.connect(f"consul://{server.endpoint}") for _ in range(2))
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                await client.put(f"hft/n/{n:06d}", b"x")
                acknowledged.append(f"hft/n/{n:06d}")
            except Unavailable:
                await asyncio.sleep(0.01)

    async with aclosing(reader.watch("hft/n/")) as watch:
        writing = asyncio.create_task(write())
        snapshot = await anext(watch)
        for _ in range(2):
            before = len(snapshot.entries)
            while len(snapshot.entries) < before + 50:  # it goes on after each restart
                async with asyncio.timeout(SOON_S):
                    latest = await anext(watch)
                assert set(snapshot.entries) <= set(latest.entries)
                snapshot = latest
            server.kill()
            await asyncio.to_thread(server.start)
        stop.set()
        await writing
        await put_until_done(client, "hft/n/end", b"x")
        snapshot = await until(watch, "hft/n/end", b"x")
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(snapshot.entries)
    assert snapshot.entries == (await client.range("hft/n/")).entries
    await client.close()
    await reader.close()


async def test_a_frozen_server_makes_a_write_ambiguous_within_its_deadline_and_a_read_not(
    server: consul_servers.Server,
) -> None:
    client = store.connect(f"consul://{server.endpoint}")
    await client.put("hft/a", b"1")
    server.pause()
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer in 0\.3") as caught:
        await client.put("hft/a", b"2")
    assert caught.value.ambiguous and time.monotonic() - started_s < 5
    with pytest.raises(Unavailable) as caught:
        await client.get("hft/a")
    assert not caught.value.ambiguous
    server.resume()
    found: store.Entry | None = None
    async with asyncio.timeout(SOON_S):
        while found is None:
            try:
                found = await client.get("hft/a")
            except Unavailable:
                await asyncio.sleep(0.05)
    assert found.value in (b"1", b"2")  # applied or not, as was said
    await client.close()


async def test_a_server_that_is_not_there_is_never_ambiguous_and_found_again(
    server: consul_servers.Server,
) -> None:
    client = store.connect(f"consul://{server.endpoint}")
    server.kill()
    with pytest.raises(Unavailable, match="Connect") as caught:
        await client.put("hft/a", b"1")
    assert not caught.value.ambiguous
    health = await client.health()
    assert not health.healthy and "Connect" in health.reason
    await asyncio.to_thread(server.start)
    await put_until_done(client, "hft/a", b"1")
    assert (await client.health()).version
    await client.close()


async def test_of_three_servers_one_may_hang_or_die_and_without_a_quorum_nobody_waits_for_long(
    binary: Path,
) -> None:
    with consul_servers.cluster(binary) as members:
        client = consul.ConsulStore([member.endpoint for member in members])
        async with aclosing(client.watch("hft/")) as watch:
            await put_until_done(client, "hft/a", b"1")
            await until(watch, "hft/a", b"1")
            members[0].pause()
            await put_until_done(client, "hft/a", b"2")
            await until(watch, "hft/a", b"2")
            members[0].resume()
            members[1].kill()
            await put_until_done(client, "hft/a", b"3")
            await until(watch, "hft/a", b"3")
            members[2].kill()  # one of three: no quorum
            began_s = time.monotonic()
            with pytest.raises(Unavailable):
                await client.put("hft/a", b"4")
            with pytest.raises(Unavailable):
                await client.get("hft/a")
            assert time.monotonic() - began_s < 10
            assert not (await client.health()).healthy
        await client.close()


# --- tokens -------------------------------------------------------------------------------------------------


def token_file(folder: Path, token: str) -> StoreSettings:
    file = folder / "token"
    file.write_text(f"{token}\n")
    return StoreSettings(token_file=file)


def admin(server: consul_servers.Server, method: str, path: str, body: object = None, token: str = "") -> Any:
    """As an operator asks it, by another client than ours."""
    request = urllib.request.Request(
        f"http://{server.endpoint}/v1/{path}",
        data=json.dumps(body).encode() if body is not None else None,
        headers={"X-Consul-Token": token} if token else {},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def made(server: consul_servers.Server, rules: str) -> str:
    """A token with these rights."""
    name = f"policy-{uuid.uuid4()}"
    admin(server, "PUT", "acl/policy", {"Name": name, "Rules": rules}, MASTER)
    return str(admin(server, "PUT", "acl/token", {"Policies": [{"Name": name}]}, MASTER)["SecretID"])


async def test_without_a_token_or_with_a_wrong_one_every_call_is_denied_in_one_line(
    guarded: consul_servers.Server, tmp_path: Path
) -> None:
    for settings in (StoreSettings(), token_file(tmp_path, str(uuid.uuid4()))):
        client = store.connect(f"consul://{guarded.endpoint}", settings)
        for call in (
            lambda client: client.put("hft/a", b"1"),
            lambda client: client.txn([Compare("hft/a", 0)], [Put("hft/a", b"1")]),
            lambda client: client.lease(5.0),
        ):
            with pytest.raises(Denied) as caught:
                await call(client)
            assert "\n" not in str(caught.value) and str(caught.value).startswith("store consul")
        await client.close()


async def test_a_right_that_is_missing_is_never_taken_for_a_lost_compare(
    guarded: consul_servers.Server, tmp_path: Path
) -> None:
    """Consul answers both with 409."""
    reader = made(guarded, 'key_prefix "hft/" { policy = "read" }')
    client = store.connect(f"consul://{guarded.endpoint}", token_file(tmp_path, reader))
    for compares in ([], [Compare("hft/a", 0)], [Compare("hft/a", 12345)]):
        with pytest.raises(Denied, match=r"[Pp]ermission denied"):
            await client.txn(compares, [Put("hft/a", b"1")])
    assert (await client.range("hft/")).entries == {}
    blind = store.connect(
        f"consul://{guarded.endpoint}",
        StoreSettings(token_file=_file(tmp_path / "blind", made(guarded, 'key "other" { policy = "read" }'))),
    )
    master = store.connect(
        f"consul://{guarded.endpoint}", StoreSettings(token_file=_file(tmp_path / "master", MASTER))
    )
    assert await master.txn([Compare("hft/b", 12345)], [Put("hft/b", b"1")]) == Lost()
    await master.put("hft/b", b"1")
    with pytest.raises(Denied, match="may not read all"):  # Consul's own answer is an empty list
        await blind.range("hft/")
    await blind.close()
    await client.close()
    await master.close()


def _file(path: Path, token: str) -> Path:
    path.write_text(token)
    return path


async def test_a_token_that_is_rotated_under_way_is_read_again(
    guarded: consul_servers.Server, tmp_path: Path
) -> None:
    rules = 'key_prefix "hft/" { policy = "write" } session_prefix "" { policy = "write" }'
    first, second = made(guarded, rules), made(guarded, rules)
    settings = token_file(tmp_path, first)
    client = store.connect(f"consul://{guarded.endpoint}", settings)
    async with aclosing(client.watch("hft/rotated/")) as watch:
        await client.put("hft/rotated/a", b"1")
        await until(watch, "hft/rotated/a", b"1")
        accessor = (await asyncio.to_thread(admin, guarded, "GET", "acl/token/self", None, first))[
            "AccessorID"
        ]
        await asyncio.to_thread(admin, guarded, "DELETE", f"acl/token/{accessor}", None, MASTER)
        with pytest.raises(Denied):
            async with asyncio.timeout(SOON_S):
                while True:  # the server may hold the old one in its cache for a moment
                    await client.put("hft/rotated/a", b"2")
                    await asyncio.sleep(0.05)
        assert settings.token_file is not None
        settings.token_file.write_text(second)
        assert isinstance(await client.put("hft/rotated/a", b"3"), Committed)
        await until(watch, "hft/rotated/a", b"3")
    await client.close()


# --- sessions and limits ------------------------------------------------------------------------------------


async def test_a_session_that_an_admin_destroys_is_lost_and_its_keys_are_seen_to_go(
    server: consul_servers.Server,
) -> None:
    client = store.connect(f"consul://{server.endpoint}")
    lease = await client.lease(30.0)
    async with aclosing(client.watch("hft/")) as watch:
        await client.put("hft/mine", b"1", lease=lease)
        await until(watch, "hft/mine", b"1")
        await asyncio.to_thread(admin, server, "PUT", f"session/destroy/{lease.id}")
        await seen(watch, lambda snapshot: not values(snapshot))
    with pytest.raises(LeaseLost):
        await lease.keep_alive()
    await client.close()


async def test_a_server_grants_no_session_below_its_least_ttl_and_says_what_it_granted(binary: Path) -> None:
    with consul_servers.running(binary, {"session_ttl_min": "10s"}) as server:
        client = store.connect(f"consul://{server.endpoint}")
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        lease = await client.lease(1.0)
        assert lease.ttl_s == 10.0 and lease.deadline_boot_ns - before_ns >= 10e9
        await lease.keep_alive()
        assert lease.ttl_s == 10.0
        await lease.revoke()
        await client.close()


async def test_more_connections_than_the_server_takes_are_refused_and_hang_nobody(binary: Path) -> None:
    """Consul's own limit is 200 an address."""
    limits = {"http_max_conns_per_client": 4, "txn_max_req_len": consul_servers.TRANSACTION_BYTES_MAX}
    with consul_servers.running(binary, {"limits": limits}) as server:
        crowd = [store.connect(f"consul://{server.endpoint}") for _ in range(8)]
        watches = [one.watch("hft/") for one in crowd]
        reading = [asyncio.create_task(anext(watch)) for watch in watches]
        await asyncio.sleep(1)
        assert sum(task.done() for task in reading) in range(1, 6)
        outcomes = await asyncio.gather(
            *(one.put(f"hft/{n}", b"1") for n, one in enumerate(crowd)), return_exceptions=True
        )
        assert all(isinstance(outcome, Committed | Unavailable) for outcome in outcomes)
        for watch in watches[1:]:
            await watch.aclose()
        await asyncio.gather(*reading[1:], return_exceptions=True)
        await put_until_done(crowd[0], "hft/end", b"1")
        for one in crowd:
            await one.close()
