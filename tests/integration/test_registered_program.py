"""A program of one's own in the registry, without an agent: with an event loop and without, on each store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from controlplane import registry, store
from controlplane.errors import InvalidInput, Unavailable
from controlplane.model.records import Registration
from controlplane.store.consul import ConsulStore
from tests.support import checks, consul_servers, servers

SOON_S = 30.0
PORT = checks.free_ports(1)[0]
PROGRAM = """
import sys, time
from controlplane import registry
with registry.registered_in_thread(sys.argv[1], "quoter", address="127.0.0.1", port=int(sys.argv[2]), ttl_s=2,
                                   keep_s=0.5, check_s=0.5):
    print("registered", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", params=["etcd", "consul"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        if request.param == "etcd":
            server = stack.enter_context(servers.running(servers.etcd()))
        else:
            server = stack.enter_context(consul_servers.running(consul_servers.consul()))
        yield f"{request.param}://{server.endpoint}"


def shown(where: str) -> dict[str, Registration]:
    async def read() -> dict[str, Registration]:
        client = store.connect(where)
        watch = registry.watch(client, store.Keys("lab"))
        try:
            entries = (await anext(watch)).entries.values()
            return {each.service: each for each in registry.decode(entries)}
        finally:
            await watch.aclose()
            await client.close()

    return asyncio.run(read())


def serves(where: str) -> bool:
    found = shown(where).get("quoter")
    return found is not None and found.serves


def in_catalogue(where: str) -> bool:
    async def read() -> bool:
        client = store.connect(where)
        assert isinstance(client, ConsulStore)
        answer = await client.calls.ask("GET", "health/service/quoter", {"passing": ""})
        await client.close()
        return answer.body.strip() != b"[]"

    return asyncio.run(read())


def until(claim: object, what: str) -> None:
    end_s = time.monotonic() + SOON_S
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


def test_a_block_of_a_program_is_registered_while_it_runs(where: str) -> None:
    async def program() -> None:
        async with (
            checks.answered(PORT),
            registry.registered(
                where, "quoter", address="127.0.0.1", port=PORT, zone="rack-7", tags=["fix"], meta={"a": "b"}
            ) as made,
        ):
            found = (await asyncio.to_thread(shown, where))["quoter"]
            assert found == made and found.health == "passing" and found.process.pid == os.getpid()
            if where.startswith("consul"):
                assert await asyncio.to_thread(in_catalogue, where)

    asyncio.run(program())
    assert "quoter" not in shown(where)
    if where.startswith("consul"):
        assert not in_catalogue(where)


def test_a_program_without_an_event_loop_leaves_when_it_is_killed(where: str) -> None:
    """Its port is closed with it: Consul's own check says so; on etcd its lease ends."""
    listening = subprocess.Popen([sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1"])
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, where, str(PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        line = program.stdout.readline()
        while line and "registered" not in line.split():
            line = program.stdout.readline()
        assert shown(where)["quoter"].process.pid == program.pid
        program.send_signal(signal.SIGKILL)
        listening.kill()
        until(lambda: not serves(where), "it is out of service")
        if where.startswith("consul"):
            until(lambda: not in_catalogue(where), "and critical in Consul")
    finally:
        for each in (program, listening):
            each.kill()
            each.wait(10)


def test_what_cannot_be_registered_is_said_at_once(where: str) -> None:
    with (
        pytest.raises(InvalidInput, match="port"),
        registry.registered_in_thread(where, "quoter", address="127.0.0.1", port=70_000),
    ):
        raise AssertionError("entered")


def test_a_store_that_is_away_is_said_in_time() -> None:
    nobody = servers.free_ports(1)[0]
    with (
        pytest.raises(Unavailable, match=r"not within 0\.5 s"),
        registry.registered_in_thread(
            f"etcd://127.0.0.1:{nobody}", "quoter", address="127.0.0.1", port=1, within_s=0.5
        ),
    ):
        raise AssertionError("entered")
