"""What every back end of the Registry promises (controlplane/registry/base.py): one suite over leased keys in
memory, in a real etcd and in a real Consul, and over the services of a real Consul's catalogue. Another back
end joins with a `BackEnd` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import msgspec
import pytest

from controlplane import model, store
from controlplane.host.system_clock import SystemClock
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry import LeasedRegistry, Registry, decode
from controlplane.registry.consul import CheckTimes, ConsulRegistry, definition
from controlplane.registry.consul.local_agent import LocalAgent
from controlplane.store import memory
from controlplane.store.consul import ConsulStore
from tests.support import checks, consul_servers, servers

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

SOON_S = 20.0
"""More than anything here may take on a busy machine; nothing waits so long when it works."""

TTL_S = 2.0
KEEP_S = 0.2
"""Short, so that what was lost is back soon."""

BOOT = "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f"
CHECK_PORT = checks.free_ports(1)[0]
CHECK = f"http://127.0.0.1:{CHECK_PORT}/"
"""What Consul probes: of all owners here, as one agent answers for all instances of a host."""
numbers = itertools.count(1)
Server = servers.Server | consul_servers.Server


def registration(n: int = 1, pid: int = 10, **changed: object) -> Registration:
    instance = f"bookd-alpha-{n}"
    process = Process(instance, BOOT, pid, 100)
    endpoints = {"market": f"ipc:///run/{instance}.market"}
    made = Registration(
        "bookd", instance, "alpha", process, endpoints, "10.0.0.1", 9100, 1, "0.1.0", check=CHECK
    )
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


class BackEnd:
    """Leased keys in one store: registries of owners, what others see, and what may happen to it."""

    def __init__(self, where: str, server: Server | None) -> None:
        self.keys = store.Keys(f"registry{next(numbers)}")
        self._where, self._server = where, server
        self._others = store.connect(where)
        self._opened: list[store.Store] = [self._others]
        self._running: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()
        """An owner has noticed that the store does not answer."""

    def registry(self) -> Registry:
        """Of an owner with a client of its own; not running yet."""
        self._opened.append(store.connect(self._where))
        return LeasedRegistry(
            self._opened[-1], self.keys, SystemClock(), ttl_s=TTL_S, keep_s=KEEP_S, report=self._report
        )

    def _report(self, kind: str, fields: Mapping[str, object]) -> None:
        if kind == "registration.failed":
            self.failed.set()

    def start(self, registry: Registry) -> asyncio.Task[None]:
        self._running.append(asyncio.create_task(registry.run()))
        return self._running[-1]

    async def shown(self) -> dict[str, Registration]:
        """Who serves, as anybody but the owner sees it."""
        entries = (await self._others.range(self.keys.registrations("bookd"))).entries.values()
        return {each.instance: each for each in decode(entries)}

    async def until(self, good: Callable[[Mapping[str, Registration]], bool], what: str) -> None:
        found: object = "nothing yet"
        try:
            async with asyncio.timeout(SOON_S):
                while not good(found := await self.shown()):  # noqa: ASYNC110 - see until_held
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {SOON_S} s; shown: {found}") from None

    async def delete(self, gone: Registration) -> None:
        """Somebody deletes it."""
        await self._others.delete(self.keys.registration(gone.service, gone.instance))

    async def write(self, value: bytes, instance: str = "bookd-alpha-1") -> None:
        """Somebody writes it, under no lease of this owner."""
        await self._others.put(self.keys.registration("bookd", instance), value)

    async def away(self) -> None:
        if self._server is not None:
            self._server.pause()
        for each in self._opened:
            if isinstance(each, memory.MemoryStore):
                each.cut()

    async def back(self) -> None:
        if self._server is not None:
            self._server.resume()
        for each in self._opened:
            if isinstance(each, memory.MemoryStore):
                each.heal()

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for each in self._opened:
            await each.close()


class CatalogueBackEnd(BackEnd):
    """Services of Consul's catalogue. Each owner answers the checks of what it registers while it runs; who
    serves is asked of the catalogue alone.
    """

    def registry(self) -> Registry:
        client = store.connect(self._where)
        self._opened.append(client)
        assert isinstance(client, ConsulStore)
        return ConsulRegistry(
            client,
            self.keys,
            SystemClock(),
            ttl_s=TTL_S,
            keep_s=KEEP_S,
            times=CheckTimes(interval_s=0.5, timeout_s=0.5, failures_before_critical=3),
            report=self._report,
        )

    def start(self, registry: Registry) -> asyncio.Task[None]:
        """A process that is frozen answers no check either."""

        async def run() -> None:
            async with checks.answered(CHECK_PORT):
                await registry.run()

        self._running.append(asyncio.create_task(run()))
        return self._running[-1]

    async def shown(self) -> dict[str, Registration]:
        calls = self._consul.calls
        answer = await calls.ask("GET", "health/service/bookd")
        rows = definition.rows.decode(answer.body)
        found = [definition.standing(row, self.keys.site) for row in rows]
        return {
            each.registration.instance: each.registration
            for each in found
            if each is not None and each.registration.serves
        }

    async def delete(self, gone: Registration) -> None:
        await LocalAgent(self._consul.agent).deregister(gone.instance)

    async def write(self, value: bytes, instance: str = "bookd-alpha-1") -> None:
        """Somebody registers it at the agent: as ours, or as what no registration is."""
        try:
            theirs = definition.service(model.decode(Registration, value), self.keys.site)
        except msgspec.DecodeError:
            theirs = {"ID": instance, "Name": "bookd", "Meta": {"hft-process": "x"}}
        await LocalAgent(self._consul.agent).register(theirs, None)

    @property
    def _consul(self) -> ConsulStore:
        assert isinstance(self._others, ConsulStore)
        return self._others

    async def aclose(self) -> None:
        await super().aclose()
        client = store.connect(self._where)
        assert isinstance(client, ConsulStore)
        for instance in await LocalAgent(client.agent).services(self.keys.site):
            await LocalAgent(client.agent).deregister(instance)
        await client.close()


@pytest.fixture(scope="module", params=["memory", "etcd", "consul", "catalogue"])
def where(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server | None]]:
    if request.param == "memory":
        yield f"memory://registry{next(numbers)}", None
        return
    with contextlib.ExitStack() as stack:
        if request.param in ("consul", "catalogue"):
            consul = stack.enter_context(consul_servers.running(consul_servers.consul()))
            yield f"{request.param}://{consul.endpoint}", consul
            return
        try:
            server = stack.enter_context(servers.running(servers.etcd()))
        except servers.NoServer as exc:
            pytest.skip(str(exc))
        yield f"etcd://{server.endpoint}", server


@pytest.fixture
async def back_end(where: tuple[str, Server | None]) -> AsyncIterator[BackEnd]:
    url, server = where
    kind, _, endpoint = url.partition("://")
    made = CatalogueBackEnd(f"consul://{endpoint}", server) if kind == "catalogue" else BackEnd(url, server)
    yield made
    await made.aclose()


async def serving(back_end: BackEnd, *registrations: Registration) -> Registry:
    """A running registry, and others see all of these."""
    registry = back_end.registry()
    back_end.start(registry)
    for each in registrations:
        registry.register(each)
    wanted = {each.instance: each for each in registrations}
    await back_end.until(lambda shown: wanted.items() <= shown.items(), "registered")
    return registry


async def until_held(registry: Registry, wanted: Mapping[str, Registration]) -> None:
    async with asyncio.timeout(SOON_S):
        while registry.held() != wanted:  # noqa: ASYNC110 - what a port of several back ends does not announce
            await asyncio.sleep(0.005)


async def test_what_is_registered_is_seen_by_others_and_held(back_end: BackEnd) -> None:
    one, two = registration(1), registration(2)
    registry = await serving(back_end, two, one)
    await until_held(registry, {one.instance: one, two.instance: two})
    assert list(registry.held()) == [one.instance, two.instance], "in order"


async def test_what_was_said_before_it_runs_is_done_when_it_runs(back_end: BackEnd) -> None:
    registry = back_end.registry()
    registry.register(registration())
    assert registry.held() == {}
    back_end.start(registry)
    await back_end.until(lambda shown: bool(shown), "registered")


async def test_an_update_replaces_endpoints_and_metadata_of_the_same_process(back_end: BackEnd) -> None:
    one = registration()
    registry = await serving(back_end, one)
    changed = dataclasses.replace(
        one, endpoints={"market": "ipc:///run/hft/b.market"}, port=9200, version="0.2.0"
    )
    registry.update(changed)
    await back_end.until(lambda shown: shown.get(one.instance) == changed, "updated")
    await until_held(registry, {one.instance: changed})


async def test_an_update_of_a_process_that_is_not_registered_is_ignored(back_end: BackEnd) -> None:
    one, other = registration(1), registration(2)
    registry = await serving(back_end, one)
    registry.update(registration(1, pid=99, port=9200))
    registry.update(other)
    registry.register(dataclasses.replace(one, version="0.2.0"))  # what comes after it has been done
    await back_end.until(lambda shown: shown[one.instance].version == "0.2.0", "the next change is written")
    assert (await back_end.shown())[one.instance].process == one.process
    assert other.instance not in await back_end.shown()


async def test_a_new_process_of_the_instance_takes_the_place_of_the_old(back_end: BackEnd) -> None:
    old, new = registration(pid=10), registration(pid=11)
    registry = await serving(back_end, old)
    registry.register(new)
    await back_end.until(lambda shown: shown[old.instance].process == new.process, "the new process")
    registry.deregister(old.service, old.instance, old.process)  # its death is heard of late
    registry.register(registration(2))
    await back_end.until(lambda shown: "bookd-alpha-2" in shown, "the next registration")
    assert (await back_end.shown())[old.instance] == new


async def test_a_dead_instance_is_out_at_once_and_the_others_stay(back_end: BackEnd) -> None:
    one, two = registration(1), registration(2)
    registry = await serving(back_end, one, two)
    registry.deregister(one.service, one.instance, one.process)
    await back_end.until(lambda shown: list(shown) == [two.instance], "out of discovery")
    await until_held(registry, {two.instance: two})


async def test_what_an_owner_before_registered_is_taken_out(back_end: BackEnd) -> None:
    """An owner that died and was started anew is asked to take out an instance that it never registered."""
    one = registration()
    before = back_end.registry()
    died = back_end.start(before)
    before.register(one)
    await back_end.until(lambda shown: one.instance in shown, "registered")
    died.cancel()
    registry = await serving(back_end)
    registry.deregister(one.service, one.instance)
    started_s = asyncio.get_running_loop().time()
    await back_end.until(lambda shown: not shown, "out of discovery")
    assert asyncio.get_running_loop().time() - started_s < TTL_S / 2, "deleted, not left to its lease"


async def test_anothers_process_is_not_deregistered(back_end: BackEnd) -> None:
    theirs = registration(pid=99)
    await back_end.write(model.encode(theirs))
    registry = await serving(back_end)
    registry.deregister(theirs.service, theirs.instance, registration(pid=10).process)
    registry.register(registration(2))
    await back_end.until(lambda shown: "bookd-alpha-2" in shown, "what comes after it")
    assert (await back_end.shown())[theirs.instance] == theirs


async def test_a_registration_that_somebody_deletes_is_put_again(back_end: BackEnd) -> None:
    one = registration()
    await serving(back_end, one)
    await back_end.delete(one)
    await back_end.until(lambda shown: shown.get(one.instance) == one, "registered again")


@pytest.mark.parametrize("theirs", [model.encode(registration(pid=99)), b"\xffnot a registration"])
async def test_a_registration_that_somebody_overwrites_is_put_again(back_end: BackEnd, theirs: bytes) -> None:
    one = registration()
    await serving(back_end, one)
    await back_end.write(theirs)
    await back_end.until(lambda shown: shown.get(one.instance) == one, "registered again")


async def test_a_frozen_owner_leaves_discovery_and_comes_back_when_it_runs_again(back_end: BackEnd) -> None:
    """Its lease is lost; it takes a new one and puts everything again."""
    one, two = registration(1), registration(2)
    registry = back_end.registry()
    registry.register(one)
    registry.register(two)
    frozen = back_end.start(registry)
    await back_end.until(lambda shown: len(shown) == 2, "registered")
    frozen.cancel()
    await back_end.until(lambda shown: not shown, "out of discovery by itself")
    back_end.start(registry)
    await back_end.until(lambda shown: shown == {one.instance: one, two.instance: two}, "registered again")
    await until_held(registry, {one.instance: one, two.instance: two})


async def test_what_is_asked_while_the_store_is_away_is_done_when_it_is_back(back_end: BackEnd) -> None:
    one, two, three = registration(1), registration(2), registration(3)
    registry = await serving(back_end, one, two)
    await back_end.away()
    registry.deregister(one.service, one.instance, one.process)
    registry.update(dataclasses.replace(two, port=9200))
    registry.register(three)
    await asyncio.wait_for(back_end.failed.wait(), SOON_S)
    assert registry.held() == {one.instance: one, two.instance: two}, "nothing is acknowledged meanwhile"
    await back_end.back()
    wanted = {two.instance: dataclasses.replace(two, port=9200), three.instance: three}
    await back_end.until(lambda shown: shown == wanted, "as asked")
    await until_held(registry, wanted)


async def test_closing_takes_everything_back_at_once_and_for_good(back_end: BackEnd) -> None:
    one, two = registration(1), registration(2)
    registry = back_end.registry()
    running = back_end.start(registry)
    registry.register(one)
    registry.register(two)
    await back_end.until(lambda shown: len(shown) == 2, "registered")
    await registry.close()
    assert await back_end.shown() == {} and registry.held() == {}
    registry.register(one)
    await asyncio.wait_for(running, SOON_S)  # it ends by itself
    assert await back_end.shown() == {}


async def test_two_owners_hold_their_own(back_end: BackEnd) -> None:
    one, two = registration(1), registration(2)
    first, second = await serving(back_end, one), await serving(back_end, two)
    await until_held(first, {one.instance: one})
    await until_held(second, {two.instance: two})
    await first.close()
    assert await back_end.shown() == {two.instance: two}
