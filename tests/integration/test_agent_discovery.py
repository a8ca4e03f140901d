"""An agent's discovery: what its endpoints show, and what becomes of a view that differs from the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from agents.settings import AgentSettings
from controlplane import model
from controlplane import store as stores
from controlplane.model import Process, records
from controlplane.store import memory
from tests.support.agents import KEYS, SOON_S, in_process, site_folder, site_in_process, spec
from tests.support.dropping import Dropping

pytestmark = pytest.mark.anyio

AUDITD = spec("auditd")


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
