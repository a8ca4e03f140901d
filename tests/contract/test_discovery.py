"""Discovery over every store: what is registered is found, changes are heard, the last answer stands while
the store is away, and what was missed is seen when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from controlplane import model, registry, store
from controlplane.errors import Unavailable
from controlplane.model import Mode, Process, ServiceSpec
from controlplane.model.records import LeaderRecord, Registration
from controlplane.registry import discovery
from controlplane.store import memory
from tests.support import consul_servers, servers

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

SOON_S = 20.0
"""More than anything here may take on a busy machine; nothing waits so long when it works."""
numbers = itertools.count(1)
Server = servers.Server | consul_servers.Server


def registration(n: int = 1, service: str = "bookd", host: str = "alpha", port: int = 1) -> Registration:
    process = Process(f"{service}-{host}-{n}", "boot", 10, 100)
    return Registration(service, process.instance, host, process, {"x": "ipc://x"}, "10.0.0.1", port, 1, "1")


class Site:
    """One site in the store, written by others."""

    def __init__(self, where: str, server: Server | None) -> None:
        self.name, self.where, self.server = f"discovery{next(numbers)}", where, server
        self.keys = store.Keys(self.name)
        self.writer = store.connect(where)

    async def put(self, *registrations: Registration) -> None:
        for each in registrations:
            await self.writer.put(self.keys.registration(each.service, each.instance), model.encode(each))

    def discovering(self) -> contextlib.AbstractAsyncContextManager[registry.Discovery]:
        return registry.discovering(self.where, site=self.name, first_s=SOON_S)


async def until(good: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not good():
        assert time.monotonic() < deadline_s, f"{what}: not within {SOON_S} s"
        await asyncio.sleep(0.005)


@pytest.fixture(scope="module", params=["memory", "etcd", "consul"])
def where(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server | None]]:
    if request.param == "memory":
        yield f"memory://discovery{next(numbers)}", None
        return
    with contextlib.ExitStack() as stack:
        if request.param == "consul":
            consul = stack.enter_context(consul_servers.running(consul_servers.consul()))
            yield f"consul://{consul.endpoint}", consul
            return
        try:
            server = stack.enter_context(servers.running(servers.etcd()))
        except servers.NoServer as exc:
            pytest.skip(str(exc))
        yield f"etcd://{server.endpoint}", server


SERVERS = pytest.mark.parametrize("where", ["etcd", "consul"], indirect=True)
"""A store in memory is always there, and of one event loop."""


@pytest.fixture
async def site(where: tuple[str, Server | None]) -> AsyncIterator[Site]:
    made = Site(*where)
    yield made
    await made.writer.close()


async def test_what_is_registered_before_and_after_is_found_and_what_leaves_is_not(site: Site) -> None:
    await site.put(registration(1))
    async with site.discovering() as found:
        assert [each.instance for each in found.serving("bookd")] == ["bookd-alpha-1"]
        await site.put(registration(2), registration(1, "riskd"))
        both = await found.wait_for("bookd", timeout_s=SOON_S, count=2)
        assert [each.instance for each in both] == ["bookd-alpha-1", "bookd-alpha-2"]
        assert {found.resolve("bookd") for _ in range(2)} == set(both)  # type: ignore[arg-type]
        await site.writer.delete(site.keys.registration("bookd", "bookd-alpha-1"))
        await until(lambda: len(found.serving("bookd")) == 1, "it has left")
        assert found.age_s() < SOON_S


async def test_roles_come_from_spec_and_leader_and_a_renewal_is_no_change(site: Site) -> None:
    one, two = registration(1, "omsd"), registration(2, "omsd")
    await site.put(one, two)
    spec = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha",), 2)
    await site.writer.put(site.keys.spec("omsd"), model.encode(spec))
    leader = LeaderRecord(one.process, 1_700_000_000_000, 1, one.instance, "n0")
    await site.writer.put(site.keys.leader("omsd"), model.encode(leader))
    async with site.discovering() as found:
        heard = list[list[str]]()
        found.on_change(lambda service, all: heard.append([each.role for each in all]), "omsd")
        assert [each.role for each in found.serving("omsd")] == ["leader", "standby"]
        for n in range(20):
            leader = LeaderRecord(one.process, 1_700_000_000_000, 1, one.instance, f"n{n}")
            await site.writer.put(site.keys.leader("omsd"), model.encode(leader))
        leader = LeaderRecord(two.process, 1_700_000_000_000, 2, two.instance, "m")
        await site.writer.put(site.keys.leader("omsd"), model.encode(leader))
        await until(lambda: bool(heard), "another leads")
        assert heard == [["standby", "leader"]]


async def test_after_a_thousand_changes_the_last_of_each_is_what_is_found(site: Site) -> None:
    """Each is seen, or one after it: changes may be joined, and the last one is never lost."""
    async with site.discovering() as found:
        heard = list[int]()
        found.on_change(lambda service, all: heard.append(len(all)), "bookd")
        for n in range(1000):
            await site.put(registration(n % 10, port=n + 1))
        ports = {f"bookd-alpha-{n % 10}": n + 1 for n in range(990, 1000)}
        await until(
            lambda: {each.instance: each.registration.port for each in found.serving("bookd")} == ports,
            "the last of each",
        )
        assert 1 <= len(heard) <= 1000 and heard == sorted(heard)


async def test_while_the_store_is_away_the_last_answer_stands_and_then_the_missed_is_seen(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[store.Store]()
    connect = store.connect

    def remembered(where: str, settings: object = None) -> store.Store:
        opened.append(connect(where))
        return opened[-1]

    monkeypatch.setattr(store, "connect", remembered)
    await site.put(registration(1))
    async with site.discovering() as found:
        assert found.resolve("bookd") is not None
        if site.server is not None:
            site.server.pause()
        else:
            assert isinstance(opened[0], memory.MemoryStore)
            opened[0].cut()
        try:
            await until(lambda: found.age_s() > 1.5, "the answer grows old")
            assert [found.resolve("bookd").instance for _ in range(3)] == ["bookd-alpha-1"] * 3  # type: ignore[union-attr]
            with pytest.raises(Unavailable, match=r"last heard [1-9]"):
                await found.wait_for("riskd", timeout_s=0.05)
        finally:
            if site.server is not None:
                site.server.resume()
            else:
                await site.put(registration(2))
                opened[0].heal()  # type: ignore[attr-defined]
        await site.put(registration(2))
        await found.wait_for("bookd", timeout_s=SOON_S, count=2)
        await until(lambda: found.age_s() < 1.5, "the answer is fresh again")


async def test_rubbish_under_a_service_is_left_out(site: Site) -> None:
    for n, value in enumerate((b"", b"\xff", b"{}", b"[" * 5000, model.encode(registration(77))), 10):
        await site.writer.put(site.keys.registration("bookd", f"bookd-alpha-{n}"), value)
    await site.put(registration(1))
    async with site.discovering() as found:
        assert [each.instance for each in found.serving("bookd")] == ["bookd-alpha-1"]


@SERVERS
async def test_a_program_without_an_event_loop_uses_it_from_its_threads(site: Site) -> None:
    await site.put(registration(1), registration(2, host="beta"))

    def program() -> None:
        with discovery.blocking(site.where, site=site.name, first_s=SOON_S) as found:
            near = found.by(discovery.SameHostFirst("beta"))
            chosen = list[object]()
            threads = [
                threading.Thread(target=lambda: chosen.append(near.resolve("bookd"))) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert {each.instance for each in chosen} == {"bookd-beta-2"}  # type: ignore[attr-defined]
            assert len(found.wait_for("bookd", timeout_s=SOON_S, count=2)) == 2 and found.age_s() < SOON_S
            with pytest.raises(Unavailable, match='"nosuch": not found within'):
                found.wait_for("nosuch", timeout_s=0.05)
            assert found.resolve("nosuch") is None

    await asyncio.to_thread(program)


@SERVERS
async def test_a_store_that_does_not_answer_is_refused_at_the_door(site: Site) -> None:
    [port] = servers.free_ports(1)
    nowhere = f"{site.where.partition('://')[0]}://127.0.0.1:{port}"
    with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
        async with registry.discovering(nowhere, site="lab", first_s=0.2):
            raise AssertionError("it is not entered")
    async with registry.discovering(nowhere, site="lab", first_s=None) as found:
        assert found.resolve("bookd") is None
