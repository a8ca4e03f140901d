"""`hftctl breaker`, from the operator's word to the daemon that obeys and the status that says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane import model
from controlplane.model.records import BreakerOverride
from tests.support.agents import KEYS, SOON_S, Client, site_in_process, spec

NAME = "strategyd.riskd"


def rows(status: Any) -> list[Any]:
    return [row for row in status["breakers"] if row["name"] == NAME]


async def state(client: Client, wanted: str) -> Any:
    found = await client.until("/v1/site/status", lambda status: rows(status)[0]["state"] == wanted)
    return rows(found)[0]


@pytest.mark.anyio
async def test_an_override_is_obeyed_on_every_host_and_taken_back() -> None:
    hosts = ("alpha", "beta")
    specs = [spec("strategyd", "alpha"), spec("riskd", "beta")]
    async with site_in_process(*specs, hosts=hosts) as (clients, store):
        alpha, beta = clients
        assert (await state(alpha, "closed"))["host"] == "alpha"
        await state(beta, "closed")
        target = f"/v1/site/breakers/{NAME}"
        code, said = await beta.post(target, {"wanted": "open", "reason": "venue asked"})
        assert (code, said["outcome"]) == (200, "succeeded")
        row = await state(alpha, "forced_open")
        assert (row["forced"], row["reason"], row["until"]) == (True, "venue asked", None)
        assert rows(await beta.json("/v1/site/status"))[0]["name"] == NAME
        told = {"breaker.override", "breaker.forced_open"}
        await alpha.until("/v1/site/events", lambda events: told <= {event["kind"] for event in events})
        code, _ = await beta.post(target, {"wanted": "auto", "reason": "it is back"})
        assert code == 200
        assert not (await state(alpha, "closed"))["forced"]
        assert await store.get(KEYS.breaker_override(NAME)) is None


@pytest.mark.anyio
async def test_an_override_with_an_expiry_ends_and_leaves_the_store() -> None:
    async with site_in_process(spec("strategyd")) as ((alpha,), store):
        await state(alpha, "closed")
        body = {"wanted": "close", "reason": "too nervous", "for_s": 1.0}
        code, _ = await alpha.post(f"/v1/site/breakers/{NAME}", body)
        assert code == 200
        row = await state(alpha, "metrics_only")
        assert row["until"] is not None
        entry = await store.get(KEYS.breaker_override(NAME))
        assert entry is not None
        assert model.decode(BreakerOverride, entry.value).for_s == 1.0
        await state(alpha, "closed")
        watch = store.watch(KEYS.breakers)
        async with asyncio.timeout(SOON_S):
            async for snapshot in watch:
                if not snapshot.entries:
                    break
        await watch.aclose()


@pytest.mark.anyio
async def test_what_makes_no_sense_is_refused_and_changes_nothing() -> None:
    async with site_in_process(spec("strategyd")) as ((alpha,), store):
        await state(alpha, "closed")
        code, said = await alpha.post("/v1/site/breakers/nosuch", {"wanted": "open", "reason": "x"})
        assert (code, NAME in said["error"]) == (404, True)
        for body in (
            {"wanted": "half_open", "reason": "x"},
            {"wanted": "open", "reason": " "},
            {"wanted": "open"},
            {"wanted": "open", "reason": "x", "for_s": 0},
            {"wanted": "open", "reason": "x", "for_s": 1e9},
            {"wanted": "auto", "reason": "x", "for_s": 5},
        ):
            code, _ = await alpha.post(f"/v1/site/breakers/{NAME}", body)
            assert code == 400, body
        assert (await store.range(KEYS.breakers)).entries == {}


@pytest.mark.anyio
async def test_a_record_that_is_rubbish_forces_nothing_and_is_named() -> None:
    async with site_in_process(spec("strategyd")) as ((alpha,), store):
        await state(alpha, "closed")
        await store.put(KEYS.breaker_override(NAME), b'{"name": "x", "state": "ajar"}')
        found = await alpha.until(
            "/v1/site/status",
            lambda status: [each for each in status["alarms"] if each["id"] == "store.undecodable"],
        )
        assert rows(found)[0]["state"] == "closed"
