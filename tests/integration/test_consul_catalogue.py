"""Registrations in the catalogue of a real Consul: what `consul`, DNS and other processes see of them, what a
watch shows and how soon, and what becomes of them when the agent of Consul is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from controlplane import model, registry, store
from controlplane.host.system_clock import SystemClock
from controlplane.model import Process
from controlplane.model.records import MaintenanceRecord, Registration
from controlplane.registry import maintenance
from controlplane.registry.consul import ConsulRegistry, definition, rows
from controlplane.registry.consul.local_agent import LocalAgent
from controlplane.settings import StoreSettings
from controlplane.store.consul import ConsulStore
from tests.support import checks, consul_servers, dns

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
SOON_S = 30.0
PATIENT = StoreSettings(try_s=5.0)
"""What a test itself asks is not to fail for a busy machine."""
CHECK_S = 0.5
numbers = itertools.count(1)
DNS_PORT, CHECK_PORT = checks.free_ports(2)


@pytest.fixture(scope="module")
def consul() -> Iterator[consul_servers.Server]:
    with consul_servers.running(consul_servers.consul(), ports={"dns": DNS_PORT}) as server:
        yield server


class Site:
    """A site of its own in the Consul: registries, one watch, and what the watch shows."""

    def __init__(self, server: consul_servers.Server) -> None:
        self.server = server
        self.keys = store.Keys(f"catalogue{next(numbers)}")
        self.client = self.connect()
        self.reports: list[tuple[str, Mapping[str, object]]] = []
        self.shown: dict[str, Registration] = {}
        self.changes = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._registries: list[registry.Registry] = []

    def connect(self) -> ConsulStore:
        made = store.connect(f"consul://{self.server.endpoint}", PATIENT)
        assert isinstance(made, ConsulStore)
        return made

    def registry(self) -> ConsulRegistry:
        made = registry.of(
            self.client,
            self.keys,
            SystemClock(),
            keep_s=0.3,
            check_s=CHECK_S,
            report=lambda kind, fields: self.reports.append((kind, fields)),
        )
        assert isinstance(made, ConsulRegistry)
        self._registries.append(made)
        self._tasks.append(asyncio.create_task(made.run()))
        return made

    def follow(self) -> None:
        self._tasks.append(asyncio.create_task(self._follow()))

    async def _follow(self) -> None:
        async for snapshot in registry.watch(self.client, self.keys):
            self.shown = {each.instance: each for each in registry.decode(snapshot.entries.values())}
            self.changes.set()

    async def until(self, good: Callable[[], object], what: str) -> None:
        end = time.monotonic() + SOON_S
        while not good():
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {SOON_S} s; shown {self.shown}, {self.reports}")
            self.changes.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changes.wait(), 0.05)

    def health(self, instance: str) -> str:
        return self.shown[instance].health if instance in self.shown else ""

    async def aclose(self) -> None:
        for each in self._registries:
            await each.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for instance in await LocalAgent(self.client.agent).services(self.keys.site):
            await LocalAgent(self.client.agent).deregister(instance)
        await self.client.close()


@pytest.fixture
async def site(consul: consul_servers.Server) -> AsyncIterator[Site]:
    made = Site(consul)
    yield made
    await made.aclose()


def registration(site: Site, n: int = 1, service: str = "bookd", **changed: object) -> Registration:
    instance = f"{service}-{site.keys.site}-{n}"
    made = Registration(
        service,
        instance,
        "alpha",
        Process(instance, "boot", 10 + n, 100),
        {"market": f"ipc:///run/{instance}.market"},
        "127.0.0.1",
        CHECK_PORT,
        1,
        "0.1.0",
        zone="rack-7",
        weight=3,
        meta={"desk": "rates"},
    )
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


async def run(site: Site, *words: str) -> str:
    """The consul binary, asked of this server."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(site.server.binary), *words, f"-http-addr=http://{site.server.endpoint}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_consul_itself_and_its_dns_show_what_is_registered(site: Site) -> None:
    one = registration(site)
    async with checks.answered(CHECK_PORT):
        site.follow()
        site.registry().register(one)
        await site.until(lambda: site.shown.get(one.instance) == one, "shown with every field")
        assert "bookd" in (await run(site, "catalog", "services")).split()
        assert f"site-{site.keys.site}" in await run(site, "catalog", "services", "-tags")
        assert "one" in await run(site, "catalog", "nodes", "-service", "bookd")
        found = await asyncio.to_thread(dns.service, DNS_PORT, f"site-{site.keys.site}.bookd.service.consul")
        assert [(each.port, each.weight) for each in found] == [(CHECK_PORT, 3)]
        # A check that Consul makes itself, and nobody mirrors:
        answer = await site.client.calls.ask(
            "GET", "health/checks/bookd", {"filter": f'ServiceID == "{one.instance}"'}
        )
        assert b'"Type":"http"' in answer.body.replace(b" ", b"")


async def test_what_does_not_answer_begins_critical_and_passes_when_it_does(site: Site) -> None:
    one = registration(site)
    site.follow()
    site.registry().register(one)
    await site.until(lambda: site.health(one.instance) == "critical", "critical from the start")
    async with checks.answered(CHECK_PORT):
        await site.until(lambda: site.health(one.instance) == "passing", "passing")
        found = await asyncio.to_thread(dns.service, DNS_PORT, f"site-{site.keys.site}.bookd.service.consul")
        assert len(found) == 1
    await site.until(lambda: site.health(one.instance) == "critical", "critical after three failures")
    found = await asyncio.to_thread(dns.service, DNS_PORT, f"site-{site.keys.site}.bookd.service.consul")
    assert found == []


async def test_an_update_keeps_the_state_of_the_check(site: Site) -> None:
    one = registration(site)
    site.follow()
    kept = site.registry()
    kept.register(one)
    await site.until(lambda: site.health(one.instance) == "critical", "critical")
    kept.update(dataclasses.replace(one, version="0.2.0"))
    await site.until(lambda: site.shown[one.instance].version == "0.2.0", "updated")
    await asyncio.sleep(CHECK_S / 2)
    assert site.health(one.instance) == "critical"


async def test_a_change_is_shown_within_fifty_milliseconds(site: Site) -> None:
    one = registration(site)
    async with checks.answered(CHECK_PORT):
        site.follow()
        kept = site.registry()
        kept.register(one)
        await site.until(lambda: site.health(one.instance) == "passing", "shown")
        took_s = []
        for _ in range(20):
            site.changes.clear()
            why = "" if site.shown[one.instance].maintenance else "new bank"
            await LocalAgent(site.client.agent).maintain(one.instance, why)
            begun_s = time.monotonic()
            await site.until(lambda why=why: site.shown[one.instance].maintenance == why, "maintenance")  # type: ignore[misc]
            took_s.append(time.monotonic() - begun_s)
            await asyncio.sleep(0.02)
        assert sorted(took_s)[len(took_s) // 2] < 0.05, took_s


async def test_maintenance_outlives_the_process_and_its_registration(site: Site) -> None:
    one = registration(site)
    said = MaintenanceRecord("new bank", "ann", "op-1", 1)
    async with checks.answered(CHECK_PORT):
        site.follow()
        kept = site.registry()
        kept.register(one)
        await site.until(lambda: site.health(one.instance) == "passing", "shown")
        await maintenance.begin(site.client, site.keys, one.service, one.instance, said)
        await site.until(lambda: site.shown[one.instance].maintenance == "new bank", "shown in maintenance")
        await _until_maint(site, one, "hftctl: new bank")
        kept.deregister(one.service, one.instance, one.process)
        await site.until(lambda: one.instance not in site.shown, "gone")
        again = registration(site, process=Process(one.instance, "boot", 99, 200))
        kept.register(again)
        await _until_maint(site, one, "hftctl: new bank")
        await site.until(lambda: site.shown[one.instance].maintenance == "new bank", "still")
        await maintenance.end(site.client, site.keys, one.service, one.instance)
        await _until_maint(site, one, "")
        await site.until(lambda: site.shown[one.instance].maintenance == "", "over")


async def test_consul_maint_by_hand_is_shown_and_outlives_the_process(site: Site) -> None:
    one = registration(site)
    async with checks.answered(CHECK_PORT):
        site.follow()
        kept = site.registry()
        kept.register(one)
        await site.until(lambda: site.health(one.instance) == "passing", "shown")
        await run(site, "maint", "-enable", f"-service={one.instance}", "-reason=by hand")
        await site.until(lambda: site.shown[one.instance].maintenance == "by hand", "shown")
        kept.deregister(one.service, one.instance, one.process)
        await site.until(lambda: one.instance not in site.shown, "gone")
        kept.register(registration(site, process=Process(one.instance, "boot", 99, 200)))
        await site.until(
            lambda: one.instance in site.shown and site.shown[one.instance].maintenance == "by hand", "still"
        )
        await run(site, "maint", "-disable", f"-service={one.instance}")
        await site.until(lambda: site.shown[one.instance].maintenance == "", "over")


async def _until_maint(site: Site, one: Registration, notes: str) -> None:
    end = time.monotonic() + SOON_S
    while True:
        held = await LocalAgent(site.client.agent).checks(site.keys.site)
        found = held.get(definition.SERVICE_MAINTENANCE + one.instance)
        if (found.notes if found else "") == notes:
            return
        assert time.monotonic() < end, held
        await asyncio.sleep(0.05)


async def test_a_service_that_is_only_in_the_catalogue_is_shown(site: Site) -> None:
    theirs = registration(site, service="vendor", check=f"tcp://127.0.0.1:{CHECK_PORT}")
    async with checks.answered(CHECK_PORT):
        site.follow()
        await LocalAgent(site.client.agent).register(definition.service(theirs, site.keys.site), None)
        await site.until(lambda: site.shown.get(theirs.instance) == theirs, "shown")
        await LocalAgent(site.client.agent).deregister(theirs.instance)
        await site.until(lambda: theirs.instance not in site.shown, "gone")


async def test_services_of_other_sites_and_rows_of_no_registration_are_left_out(site: Site) -> None:
    one = registration(site)
    agent = LocalAgent(site.client.agent)
    other = definition.service(registration(site, 2), "elsewhere")
    bad = definition.service(registration(site, 3), site.keys.site)
    bad["Meta"]["hft-endpoint-0"] = "market=tcp://0.0.0.0:1"
    async with checks.answered(CHECK_PORT):
        for each in (other, bad):
            await agent.register(each, None)
        site.follow()
        site.registry().register(one)
        await site.until(lambda: site.health(one.instance) == "passing", "shown")
        assert list(site.shown) == [one.instance]
    for each in (other, bad):
        await agent.deregister(each["ID"])


async def test_more_services_than_connections_take_turns(site: Site) -> None:
    """Every one is seen, and a change of each, over no more connections than were granted."""
    agent = LocalAgent(site.client.agent)
    many = [registration(site, service=f"turn{n}") for n in range(12)]
    for each in many:
        await agent.register(definition.service(each, site.keys.site), None)
    seen: dict[str, Mapping[str, definition.Standing]] = {}
    listed = asyncio.Event()
    follower = rows.CatalogueRows(site.client, site.keys, seen.__setitem__, listed.set, connections_max=3)
    running = asyncio.create_task(follower.run())
    try:
        await asyncio.wait_for(listed.wait(), SOON_S)
        assert len(seen) == 12 and all(seen.values())
        assert "3 connections" in repr(follower)
        for each in many:
            await agent.maintain(each.instance, "turn")
        end = time.monotonic() + SOON_S
        while any(
            found.registration.maintenance != "turn" for each in seen.values() for found in each.values()
        ):
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.05)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_grants_fewer_connections_is_asked_over_those(
    consul: consul_servers.Server,
) -> None:
    """Consul answers 429 to what is more; every service is seen all the same, and a change of each."""
    limits = {"http_max_conns_per_client": 10, "txn_max_req_len": consul_servers.TRANSACTION_BYTES_MAX}
    with consul_servers.running(consul_servers.consul(), {"limits": limits}) as small:
        client = store.connect(f"consul://{small.endpoint}", PATIENT)
        assert isinstance(client, ConsulStore)
        site = Site(consul)
        agent = LocalAgent(client.agent)
        many = [registration(site, service=f"turn{n}") for n in range(20)]
        for each in many:
            await agent.register(definition.service(each, site.keys.site), None)
        seen: dict[str, Mapping[str, definition.Standing]] = {}
        listed = asyncio.Event()
        follower = rows.CatalogueRows(client, site.keys, seen.__setitem__, listed.set)
        running = asyncio.create_task(follower.run())
        try:
            await asyncio.wait_for(listed.wait(), 2 * SOON_S)
            assert len(seen) == 20 and all(seen.values()), follower
            assert follower._workers < 10, follower
            await agent.maintain(many[0].instance, "turn")
            end = time.monotonic() + 2 * SOON_S
            while not any(found.registration.maintenance for found in seen["turn0"].values()):
                assert time.monotonic() < end, follower
                await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await client.close()
            await site.aclose()


async def test_a_watch_goes_on_after_consul_was_killed_and_started_again() -> None:
    with consul_servers.running(consul_servers.consul()) as server:
        site = Site(server)
        one, two = registration(site), registration(site, 2)
        try:
            async with checks.answered(CHECK_PORT):
                site.follow()
                kept = site.registry()
                kept.register(one)
                await site.until(lambda: site.health(one.instance) == "passing", "shown")
                server.kill()
                kept.register(two)
                await asyncio.sleep(1)
                assert list(site.shown) == [one.instance], "what was known last stays"
                await asyncio.to_thread(server.start)
                await site.until(lambda: site.health(two.instance) == "passing", "the new one is shown")
                await site.until(lambda: site.health(one.instance) == "passing", "and the old one")
        finally:
            await site.aclose()


async def test_an_agent_that_is_gone_is_said_once_and_everything_is_there_again_after(
    consul: consul_servers.Server,
) -> None:
    """The store answers all the time: only the host's own agent of Consul is another one, and dies."""
    with consul_servers.running(consul_servers.consul()) as near:
        site = Site(consul)
        site.client = store.connect(f"consul://{consul.endpoint}?agent={near.endpoint}")  # type: ignore[assignment]
        kept = site.registry()
        one = registration(site)
        kept.register(one)
        try:
            await site.until(lambda: one.instance in kept.held() and _registered(site), "registered")
            near.kill()
            kept.register(registration(site, 2))
            await site.until(lambda: kept.trouble, "in trouble")
            await site.until(lambda: len(kept.held()) == 2, "the KV has what leads and is fenced")
            assert "Consul's agent" in kept.trouble
            await asyncio.sleep(1.5)
            assert [kind for kind, _ in site.reports].count("registration.failed") == 1
            near.start()
            await site.until(lambda: not kept.trouble, "recovered")
            agent = LocalAgent(site.client.agent)
            await site.until(lambda: "registration.recovered" in dict(site.reports), "said")
            assert len(await agent.services(site.keys.site)) == 2
        finally:
            await site.aclose()


def _registered(site: Site) -> bool:
    return any(kind == "registered" and "consul_agent" in fields for kind, fields in site.reports)


RIGHTS = """
key_prefix "hft/rights/" { policy = "write" }
key "hft/" { policy = "read" }
session_prefix "" { policy = "write" }
service_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
"""


async def test_a_token_with_the_rights_that_the_docs_name_is_enough(tmp_path: Path) -> None:
    management, token = str(uuid.uuid4()), str(uuid.uuid4())
    assert all(line in OPERATIONS.read_text() for line in RIGHTS.replace("rights", "SITE").split("\n"))
    tokens = {"initial_management": management, "agent": management}
    acl = {"acl": {"enabled": True, "default_policy": "deny", "tokens": tokens}}
    (tmp_path / "management").write_text(management)
    (tmp_path / "token").write_text(token)
    with consul_servers.running(consul_servers.consul(), acl, management) as server:
        admin = store.connect(f"consul://{server.endpoint}?token_file={tmp_path / 'management'}", None)
        assert isinstance(admin, ConsulStore)
        policy = json.dumps({"Name": "rights", "Rules": RIGHTS}).encode()
        await admin.calls.ask("PUT", "acl/policy", body=policy)
        made = json.dumps({"SecretID": token, "Policies": [{"Name": "rights"}]}).encode()
        await admin.calls.ask("PUT", "acl/token", body=made)
        await admin.close()
        site = Site(server)
        await site.client.close()
        site.keys = store.Keys("rights")
        limited = store.connect(f"consul://{server.endpoint}?token_file={tmp_path / 'token'}")
        assert isinstance(limited, ConsulStore)
        site.client = limited
        assert (await limited.health()).healthy
        one = registration(site)
        said = MaintenanceRecord("new bank", "ann", "op-1", 1)
        try:
            async with checks.answered(CHECK_PORT):
                site.follow()
                kept = site.registry()
                kept.register(one)
                await site.until(lambda: site.health(one.instance) == "passing", "shown")
                await site.until(lambda: kept.holds(one.instance), "at the agent, too")
                await maintenance.begin(site.client, site.keys, one.service, one.instance, said)
                await _until_maint(site, one, "hftctl: new bank")
                kept.deregister(one.service, one.instance, one.process)
                await site.until(lambda: one.instance not in site.shown, "gone")
            assert not [kind for kind, _ in site.reports if kind in registry.WARNINGS], site.reports
        finally:
            await site.aclose()


async def test_an_agent_that_lost_its_data_is_given_everything_again(site: Site) -> None:
    one = registration(site)
    async with checks.answered(CHECK_PORT):
        kept = site.registry()
        kept.register(one)
        await site.until(lambda: _registered(site), "registered")
        agent = LocalAgent(site.client.agent)
        await agent.deregister(one.instance)
        await site.until(lambda: "registration.lost" in dict(site.reports), "noticed")
        end = time.monotonic() + SOON_S
        while one.instance not in await agent.services(site.keys.site):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert definition.check_id(one.instance) in await agent.checks(site.keys.site)


async def test_maintenance_and_a_script_s_registration_are_shown_without_a_catalogue() -> None:
    """On every other store: the value of a script holds address, port and timestamp, and the key the rest."""
    client = store.connect(f"memory://catalogue{next(numbers)}")
    keys = store.Keys("lab")
    await client.put(
        keys.registration("vendor", "v1"), b'{"address": "10.0.0.9", "port": 80, "timestamp": 5}'
    )
    await maintenance.begin(client, keys, "vendor", "v1", MaintenanceRecord("down", "ann", "op", 1))
    watch = registry.watch(client, keys)
    (found,) = registry.decode((await anext(watch)).entries.values())
    assert (found.service, found.instance, found.address, found.port) == ("vendor", "v1", "10.0.0.9", 80)
    assert found.timestamp_ns == 5_000_000_000 and found.maintenance == "down" and not found.serves
    await maintenance.end(client, keys, "vendor", "v1")
    snapshot = await anext(watch)
    assert snapshot.changed == {keys.registration("vendor", "v1")}
    assert registry.decode(snapshot.entries.values())[0].serves
    await watch.aclose()
    await client.close()


async def test_ours_says_a_timestamp_to_scripts_too() -> None:
    said = model.records.encode_registration(
        Registration("a", "a-1", "h", Process("a-1", "b", 1, 1), {}, "10.0.0.1", 1, 2_500_000_000, "1")
    )
    assert b'"timestamp":2.5' in said
    assert model.records.decode_registration(said, "a", "a-1").timestamp_ns == 2_500_000_000
