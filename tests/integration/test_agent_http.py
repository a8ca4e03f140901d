"""An agent with a real daemon over the memory store: health for checks, the site for hftctl, metrics,
failovers, shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest import mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.settings import AgentSettings
from controlplane import model
from controlplane import store as stores
from controlplane.errors import Retryable
from controlplane.model import Mode, Process, observed, records
from controlplane.model.specs import Tombstone
from controlplane.store import memory
from tests.support import http_get as client
from tests.support import servers
from tests.support.agents import KEYS, SOON_S, in_process, site_folder, site_in_process, spec
from tests.support.dropping import Dropping

AUDITD = spec("auditd")


def sync(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def ready(instances: Any) -> bool:
    return bool(instances) and all(instance["ready"] for instance in instances)


@sync
async def test_health_is_answered_for_the_daemon_as_a_check_wants_it() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        await agent.until("/v1/instances", ready)
        assert (await agent.get("/live"))[:2] == (200, "OK")
        assert (await agent.get("/ready"))[:2] == (200, "OK")
        assert (await agent.get("/health"))[:2] == (200, "OK")
        assert (await agent.get("/v1/instances/auditd-alpha-1/health"))[0] == 200
        assert (await agent.get("/v1/instances/auditd-alpha-1/ready"))[0] == 200
        assert (await agent.get("/v1/instances/auditd-alpha-1/leader"))[0] == 503
        assert (await agent.get("/v1/instances/auditd-alpha-1/standby"))[0] == 503
        assert (await agent.get("/v1/instances/nobody/health"))[0] == 404
        body = await agent.json("/v1/instances/auditd-alpha-1/leader")
        assert {"epoch", "lease_remaining_ms"} <= set(body)


@sync
async def test_a_daemon_that_is_stopped_turns_unhealthy_and_healthy_again() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        [instance] = await agent.until("/v1/instances", ready)
        os.kill(instance["pid"], signal.SIGSTOP)
        try:
            found = await agent.until("/v1/instances", lambda found: found[0]["health"] == "critical")
            assert found[0]["reason"].startswith("no status for")
            assert (await agent.get("/health"))[:2] == (503, "UNHEALTHY")
        finally:
            os.kill(instance["pid"], signal.SIGCONT)
        await agent.until("/v1/instances", lambda found: found[0]["health"] == "passing")


@sync
async def test_a_daemon_that_says_that_it_is_not_healthy_is_critical_until_it_says_otherwise() -> None:
    async with site_in_process() as ([agent], store):
        await store.put(KEYS.spec("auditd"), model.encode(AUDITD))
        [started] = await agent.until("/v1/instances", lambda found: found and found[0]["pid"])
        # The name that its one thread writes under (host/files.py), taken while it still imports.
        in_the_way = agent.folder / f".audit.head.{started['pid']}.{started['pid']}"
        in_the_way.mkdir()
        [found] = await agent.until("/v1/instances", lambda found: found[0]["health"] == "critical")
        assert (
            found["reason"].startswith("the audit log cannot be written (Is a directory")
            and not found["ready"]
        )
        in_the_way.rmdir()
        await agent.until(
            "/v1/instances", lambda found: found[0]["health"] == "passing" and found[0]["ready"]
        )


async def answered(port: int, path: str) -> tuple[int, str]:
    answer = await client.get(f"http://127.0.0.1:{port}{path}", timeout_s=SOON_S)
    return answer.status, answer.body.decode()


@sync
async def test_an_instance_has_its_health_answered_on_a_port_of_its_own() -> None:
    port, other = servers.free_ports(2)
    async with site_in_process(replace(AUDITD, health_port=port)) as ([agent], store):
        [before] = await agent.until("/v1/instances", ready)
        for path in ("/live", "/ready", "/health"):
            assert await answered(port, path) == (200, "OK")
        code, page = await answered(port, "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(page)}
        assert (
            code == 200 and families["hft_instance_ready"].samples[0].labels["instance"] == "auditd-alpha-1"
        )
        assert not any(name.startswith("hft_agent") for name in families)
        assert (await answered(port, "/v1/instances"))[0] == 404, "the instance's, not the agent's"

        os.kill(before["pid"], signal.SIGSTOP)
        try:
            await agent.until("/v1/instances", lambda found: found[0]["health"] == "critical")
            for path in ("/health", "/ready", "/live"):
                assert await answered(port, path) == (503, "UNHEALTHY"), "its loop does not turn"
        finally:
            os.kill(before["pid"], signal.SIGCONT)
        await until_async(lambda: answered(port, "/live"), (200, "OK"))
        await until_async(lambda: answered(port, "/ready"), (200, "OK"))

        await store.put(KEYS.spec("auditd"), model.encode(replace(AUDITD, health_port=other)))
        await until_async(lambda: answered(other, "/health"), (200, "OK"))
        with pytest.raises(Retryable):
            await answered(port, "/health")
        [now] = await agent.until("/v1/instances", ready)
        assert now["pid"] == before["pid"], "another port is no reason to restart it"


@sync
async def test_a_health_port_that_somebody_holds_is_an_alarm_and_tried_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with site_in_process(replace(AUDITD, health_port=port)) as ([agent], _):
            found = await agent.until("/v1/site/status", lambda found: found["alarms"])
            (alarm,) = found["alarms"]
            assert (
                alarm["id"] == f"health_port.{port}"
                and "auditd-alpha-1" in alarm["text"]
                and "Address already in use" in alarm["text"]
            )
            taken.close()
            await agent.until("/v1/site/status", lambda found: not found["alarms"])
            await agent.until("/v1/instances", ready)
            assert (await answered(port, "/live"))[1] == "OK"


async def until_async(ask: Callable[[], Coroutine[Any, Any, Any]], wanted: Any) -> None:
    """Asked again until the answer is the one wanted; a refused connection is none."""
    async with asyncio.timeout(SOON_S):
        while True:
            with contextlib.suppress(Retryable):
                if await ask() == wanted:
                    return
            await asyncio.sleep(0.02)


@sync
async def test_the_site_is_healthy_once_all_is_ready_and_says_so_as_hftctl_prints_it() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        found = await agent.until("/v1/site/status", lambda found: found["healthy"])
        assert found["services"][0]["instances"][0]["endpoints"]["events"].startswith("ipc://")
        assert found["hosts"][0]["state"] == "up"
        began = time.perf_counter()
        await agent.get("/v1/site/status")
        assert time.perf_counter() - began < 0.05


@sync
async def test_endpoints_are_what_discovery_has_also_of_what_is_not_ours() -> None:
    async with site_in_process(AUDITD) as ([agent], store):
        process = Process("redis-beta-1", "boot", 1, 1)
        redis = records.Registration("redis", process.instance, "beta", process, {}, "10.0.0.9", 6379, 1, "7")
        key = KEYS.registration("redis", process.instance)
        await store.put(key, model.encode(replace(redis, maintenance="new disk", health="warning")))
        [found] = await agent.until("/v1/site/endpoints/redis", lambda found: isinstance(found, list))
        assert (
            found["instance"],
            found["health"],
            found["maintenance"],
            found["address"],
            found["port"],
        ) == (
            "redis-beta-1",
            "warning",
            "new disk",
            "10.0.0.9",
            6379,
        )
        await store.put(key, model.encode(redis))
        await agent.until("/v1/site/endpoints/redis", lambda found: not found[0]["maintenance"])
        await store.delete(key)
        code, said = (await agent.get("/v1/site/endpoints/redis"))[:2]
        async with asyncio.timeout(SOON_S):
            while code != 404:
                await asyncio.sleep(0.02)
                code, said = (await agent.get("/v1/site/endpoints/redis"))[:2]
        assert "there are auditd" in said
        assert await agent.json("/v1/site/endpoints/auditd") == [], "without a keeper nobody registers it"


@sync
async def test_what_a_watch_has_dropped_is_mended_and_counted_in_metrics_and_events() -> None:
    dropped, watch = set[str](), memory.MemoryStore.watch

    def dropping(self: memory.MemoryStore, prefix: str) -> Any:
        return Dropping(watch(self, prefix), dropped)

    with site_folder() as folder, mock.patch.object(memory.MemoryStore, "watch", dropping):
        where = f"memory://dropping-{folder.name}"
        store = stores.connect(where)
        given = AgentSettings(
            "lab", "alpha", folder, folder / "run", where, keeper=False, compare_every_s=0.2
        )
        async with in_process(given) as agent:
            await agent.until("/v1/site/status", lambda found: found["hosts"])
            key = KEYS.spec("simd")  # of another host, so that nothing is started here
            dropped.add(key)
            await store.put(key, model.encode(spec("simd", "beta")))
            found = await agent.until(
                "/v1/events", lambda found: [e for e in found if e["kind"] == "cache.repaired"]
            )
            [event] = [each for each in found if each["kind"] == "cache.repaired"]
            assert event["fields"]["keys"] == key and event["fields"]["records"] == 1
            await agent.until("/v1/site/status", lambda found: found["services"][0]["name"] == "simd")
            page = (await agent.get("/metrics"))[1]
            assert 'hft_agent_cache_repaired_total{host="alpha",kind="specs"} 1.0' in page
            assert 'hft_agent_cache_repaired_total{host="alpha",kind="services"} 0.0' in page
            assert "hft_agent_cache_compared_total" in page


@sync
async def test_a_daemon_that_is_killed_comes_back_and_events_and_log_say_why() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        [before] = await agent.until("/v1/instances", ready)
        os.kill(before["pid"], signal.SIGKILL)
        [now] = await agent.until(
            "/v1/instances", lambda found: ready(found) and found[0]["pid"] != before["pid"]
        )
        assert now["restarts"] == 1
        kinds = ["instance.started", "instance.exited", "instance.started"]
        events = await agent.until(
            "/v1/site/events", lambda found: [e["kind"] for e in found if e["kind"] in kinds] == kinds
        )
        [exited] = [event for event in events if event["kind"] == "instance.exited"]
        assert exited["fields"]["reason"] == "killed by SIGKILL"
        later = await agent.json(f"/v1/site/events?after={exited['n']}")
        assert exited not in later and events[-1] in later
        code, text, headers = await agent.get("/v1/instances/auditd-alpha-1/log?lines=2")
        assert (code, len(text.splitlines())) == (200, 2)
        assert (await agent.get(f"/v1/instances/auditd-alpha-1/log?offset={headers['x-next-offset']}"))[
            1
        ] == ""
        assert (await agent.get("/v1/instances/..%2Fagent/log"))[0] == 404


@sync
async def test_any_agent_answers_for_the_whole_site() -> None:
    """Alpha runs auditd; beta passes the question on, and shows alpha's events among its own."""
    async with site_in_process(AUDITD, hosts=("alpha", "beta")) as ([alpha, beta], _):
        await alpha.until("/v1/instances", ready)
        await beta.until("/v1/site/status", lambda found: found["healthy"] and len(found["hosts"]) == 2)
        answer = await beta.json("/v1/site/ask/auditd/head")
        assert (answer["ok"], answer["instance"], answer["body"]["seq"]) == (True, "auditd-alpha-1", 0)
        nothing = await beta.json("/v1/site/ask/auditd/weather")
        assert not nothing["ok"]
        assert (await beta.get("/v1/site/ask/nobody/head"))[0] == 404
        events = await beta.until(
            "/v1/site/events", lambda found: {event["host"] for event in found} == {"alpha", "beta"}
        )
        assert [event["at"] for event in events] == sorted(event["at"] for event in events)
        for host in ("alpha", "beta"):
            numbers = [event["n"] for event in events if event["host"] == host]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@sync
async def test_the_metrics_page_is_prometheus_text_with_the_daemons_labels() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        await agent.until("/v1/instances", ready)
        code, text, headers = await agent.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert code == 200
        assert headers["content-type"].startswith("text/plain")
        assert families["hft_instance_ready"].samples[0].labels == {
            "instance": "auditd-alpha-1",
            "service": "auditd",
            "host": "alpha",
        }
        assert families["hft_agent_store_reachable"].samples[0].value == 1.0


@sync
async def test_host_record_and_audit_head_reach_the_store() -> None:
    async with site_in_process(AUDITD) as ([agent], store):
        await agent.until("/v1/instances", ready)
        async with asyncio.timeout(10):
            while await store.get(KEYS.audit_head("auditd")) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        entry = await store.get(KEYS.host("alpha"))
        assert entry is not None
        record = model.decode(observed.HostRecord, entry.value)
        assert record.instances[0].id == "auditd-alpha-1"


@sync
async def test_a_changed_spec_restarts_the_instance_a_deleted_one_stops_nothing_and_a_tombstone_does() -> (
    None
):
    async with site_in_process(AUDITD) as ([agent], store):
        [before] = await agent.until("/v1/instances", ready)
        changed = replace(AUDITD, settings={**AUDITD.settings, "head_every_s": 0.5})
        await store.put(KEYS.spec("auditd"), model.encode(changed))
        [now] = await agent.until(
            "/v1/instances", lambda found: ready(found) and found[0]["pid"] != before["pid"]
        )
        assert now["spec_revision"] > before["spec_revision"]
        await store.delete(KEYS.spec("auditd"))
        found = await agent.until("/v1/site/status", lambda found: found["reasons"])
        assert found["reasons"][0].startswith("auditd: no spec of it is in the store")
        assert [i["pid"] for i in await agent.json("/v1/instances")] == [now["pid"]]
        tombstone = Tombstone("ann", "not needed", "2026-01-01T00:00:00.000Z", ("alpha",))
        await store.put(KEYS.spec("auditd"), model.encode(tombstone))
        await agent.until("/v1/instances", lambda found: found == [])


@sync
async def test_a_second_agent_of_a_host_is_refused_with_the_pid_of_the_first() -> None:
    from agents import daemon
    from agents.settings import AgentSettings
    from controlplane.errors import InUse
    from controlplane.store import connect

    async with site_in_process(AUDITD) as ([agent], _):
        await agent.until("/v1/instances", ready)
        folder = agent.folder
        try:
            await daemon.serve(
                AgentSettings("lab", "alpha", folder, folder / "run", "memory://other"),
                connect("memory://other"),
            )
        except InUse as exc:
            assert f"pid {os.getpid()}" in str(exc)
        else:
            raise AssertionError("a second agent was let in")
        assert (await agent.get("/live"))[0] == 200


# --- failover, against records as a keeper would write them -------------------------------------------------

OMSD = spec("riskd", "alpha", "beta", mode=Mode.ACTIVE_STANDBY)
ALPHA, BETA = Process("riskd-alpha-1", "b", 1, 1), Process("riskd-beta-1", "b", 2, 1)
WISH = {"service": "riskd", "to": None, "reason": "drill", "actor": "ann", "timeout_s": 5}


async def lead(store: Any, *electable: Process) -> None:
    # The leader last: who sees its epoch then sees the standbys too, as both are read in one watch.
    await store.put(KEYS.electable("riskd"), model.encode(records.ElectableRecord(electable, 4)))
    await store.put(
        KEYS.leader("riskd"), model.encode(records.LeaderRecord(ALPHA, 1, 4, ALPHA.instance, "n"))
    )


@sync
async def test_a_failover_that_cannot_be_is_refused_and_writes_nothing() -> None:
    async with site_in_process(AUDITD, replace(OMSD, hosts=("gamma", "delta")), hosts=("alpha",)) as (
        [agent],
        store,
    ):
        await agent.until("/v1/instances", ready)
        cases = [
            ({**WISH, "service": "auditd"}, 409, "singleton"),
            (WISH, 409, "no leader"),
        ]
        for wish, code, why in cases:
            found = await agent.post("/v1/site/failover", wish)
            assert (found[0], found[1]["outcome"]) == (code, "refused")
            assert why in found[1]["reason"]
        await lead(store)
        await until_seen(agent, 4)
        assert "no electable standby" in (await agent.post("/v1/site/failover", WISH))[1]["reason"]
        assert (
            "is not an instance" in (await agent.post("/v1/site/failover", {**WISH, "to": "x"}))[1]["reason"]
        )
        assert (await agent.post("/v1/site/failover", {**WISH, "service": "nobody"}))[0] == 404
        assert (await agent.post("/v1/site/failover", {**WISH, "reason": " "}))[0] == 400
        assert await store.get(KEYS.request("riskd")) is None


async def until_seen(agent: Any, epoch: int) -> None:
    await agent.until(
        "/v1/site/status",
        lambda found: next(s for s in found["services"] if s["name"] == "riskd")["epoch"] == epoch,
    )


@sync
async def test_a_failover_answers_when_the_new_leader_is_active_and_records_the_operation() -> None:
    async with site_in_process(replace(OMSD, hosts=("gamma", "delta")), hosts=("alpha",)) as ([agent], store):
        alpha = Process("riskd-gamma-1", "b", 1, 1)
        beta = Process("riskd-delta-1", "b", 2, 1)
        await store.put(KEYS.electable("riskd"), model.encode(records.ElectableRecord((beta,), 4)))
        await store.put(
            KEYS.leader("riskd"), model.encode(records.LeaderRecord(alpha, 1, 4, alpha.instance, "n"))
        )
        await until_seen(agent, 4)
        asked = asyncio.ensure_future(agent.post("/v1/site/failover", WISH))
        async with asyncio.timeout(10):
            while (entry := await store.get(KEYS.request("riskd"))) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        request = model.decode(records.RequestRecord, entry.value)
        assert request.actor == pwd.getpwuid(os.geteuid()).pw_name, "the peer's, not the body's"
        again = await agent.post("/v1/site/failover", WISH)
        assert "is under way" in again[1]["reason"]
        row = records.HistoryRow(
            5,
            alpha.instance,
            beta.instance,
            "failover",
            "ann",
            "drill",
            request.operation,
            request.created_ns,
            request.created_ns + 9_000_000,
        )
        await store.put(KEYS.request("riskd"), model.encode(replace(request, state="succeeded")))
        await store.put(KEYS.history_row("riskd", 5), model.encode(row))
        await asyncio.sleep(0.05)
        assert not asked.done(), "succeeded means active, not only taken"
        await store.put(
            KEYS.history_row("riskd", 5),
            model.encode(replace(row, active_ns=request.created_ns + 31_000_000)),
        )
        assert await asked == (
            200,
            {
                "operation": request.operation,
                "service": "riskd",
                "from": alpha.instance,
                "to": beta.instance,
                "epoch": 5,
                "took_ms": 31.0,
                "outcome": "succeeded",
                "reason": "drill",
            },
        )
        entry = await store.get(KEYS.operation(request.operation))
        assert entry is not None
        assert model.decode(records.OperationRecord, entry.value).state == "succeeded"
        assert [found["epoch"] for found in await agent.json("/v1/site/history/riskd")] == [5]


@sync
async def test_a_failover_that_nobody_settles_is_unknown_with_its_operation() -> None:
    async with site_in_process(replace(OMSD, hosts=("gamma", "delta")), hosts=("alpha",)) as ([agent], store):
        await store.put(
            KEYS.electable("riskd"),
            model.encode(records.ElectableRecord((Process("riskd-delta-1", "b", 2, 1),), 4)),
        )
        await store.put(
            KEYS.leader("riskd"),
            model.encode(records.LeaderRecord(Process("riskd-gamma-1", "b", 1, 1), 1, 4, None, "n")),
        )
        await until_seen(agent, 4)
        code, found = await agent.post("/v1/site/failover", {**WISH, "timeout_s": 0.3})
        assert (code, found["outcome"]) == (200, "unknown")
        assert found["operation"] in found["reason"]
        entry = await store.get(KEYS.request("riskd"))
        assert entry is not None


# --- who may ask what, where --------------------------------------------------------------------------------


@sync
async def test_over_tcp_checks_are_answered_and_nothing_else_and_to_no_foreign_name() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        await agent.until("/v1/instances", ready)
        found = await agent.until("/v1/site/status", lambda found: found["hosts"])
        port = int(found["hosts"][0]["url"].rpartition(":")[2])
        for target in ("/v1/shutdown", "/v1/site/failover"):
            head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"
            assert (await said(port, head)).startswith("HTTP/1.1 405 ")
        for target in (
            "/v1/site/status",
            "/v1/site/events",
            "/v1/site/ask/omsd/orders",
            "/v1/site/history/omsd",
            "/v1/events",
            "/v1/instances/auditd-alpha-1/log",
            "/v1/instances/auditd-alpha-1/ask/head",
        ):
            assert (await answered(port, target))[0] == 403, target
        for target in ("/live", "/health", "/metrics", "/v1/instances", "/v1/instances/auditd-alpha-1"):
            assert (await answered(port, target))[0] == 200, target
        assert (await said(port, "GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n")).startswith(
            "HTTP/1.1 421 "
        )
        assert (await said(port, "GET /live HTTP/1.1\r\nHost: alpha\r\nConnection: close\r\n\r\n")).endswith(
            "OK"
        )
        assert (await agent.get("/live"))[0] == 200, "it has not been shut down"


async def said(port: int, sent: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode())
    answer = await asyncio.wait_for(reader.read(), SOON_S)
    writer.close()
    return answer.decode()
