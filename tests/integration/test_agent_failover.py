"""A failover asked of an agent over the memory store, against records as a keeper would write them."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any

from controlplane import model
from controlplane.model import Mode, Process, records
from tests.support.agents import KEYS, site_in_process, spec

AUDITD = spec("auditd")
OMSD = spec("riskd", "alpha", "beta", mode=Mode.ACTIVE_STANDBY)
ALPHA, BETA = Process("riskd-alpha-1", "b", 1, 1), Process("riskd-beta-1", "b", 2, 1)
WISH = {"service": "riskd", "to": None, "reason": "drill", "actor": "ann", "timeout_s": 5}


def sync(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def ready(instances: Any) -> bool:
    return bool(instances) and all(instance["ready"] for instance in instances)


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
