"""A failover that cannot be done says what moment it is, and waits for a better one where it is asked to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane import model
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.operations import failover
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore

KEYS = Keys("lab")
SOON_S = 20.0
NOW_NS = 1_795_000_000_000_000_000
ALPHA, BETA = Process("omsd-alpha-1", "boot", 10, 100), Process("omsd-beta-1", "boot", 11, 200)
OMS = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))
RISK = ServiceSpec("riskd", "riskd", Mode.ACTIVE_STANDBY, ("alpha",))
BOOK = ServiceSpec("bookd", "bookd", Mode.SINGLETON, ("alpha",))


def seen(instance: str, state: str, ready: bool, reason: str = "") -> HostRecord:
    status = InstanceStatus(
        instance, "omsd", "omsd", "beta", 11, state, "standby", "standby", 0, "passing", reason, ready,
        NOW_NS, 1, (), "other", {}, "0.1", 1,
    )  # fmt: skip
    return HostRecord("beta", "127.0.0.1", "", "", "boot", NOW_NS, instances=(status,))


def view(leader: Process | None = ALPHA, *electable: Process, host: HostRecord | None = None) -> SiteView:
    row = records.HistoryRow(
        2, "omsd-beta-1", "omsd-alpha-1", "process_lost", "system", "it died", None, NOW_NS - 400_000_000
    )
    return SiteView(
        "lab",
        specs={spec.name: spec for spec in (OMS, RISK, BOOK)},
        leaders={
            "omsd": records.LeaderRecord(leader, 1, 2, None, "n"),
            "riskd": records.LeaderRecord(Process("riskd-alpha-1", "boot", 12, 1), 1, 1, None, "n"),
        },
        electable={"omsd": records.ElectableRecord(electable, 2)},
        history={"omsd": (row,)},
        hosts={"beta": host} if host else {},
    )


def judged(site: SiteView, service: str = "omsd", to: str | None = None) -> failover.WhyNot | None:
    return failover.judge(site, failover.FailoverRequest(service, "why", to), NOW_NS)


@pytest.mark.parametrize(
    ("site", "service", "to", "why"),
    [
        (view(), "bookd", None, "bookd is singleton: it has no leader to fail over"),
        (view(), "riskd", None, "riskd has no electable standby: riskd-alpha-1 is its only member"),
        (view(), "omsd", "riskd-alpha-1", "riskd-alpha-1 is not an instance of omsd"),
        (view(), "omsd", "omsd-alpha-1", "omsd-alpha-1 leads already"),
    ],
)
def test_what_no_waiting_changes_is_said_so(site: SiteView, service: str, to: str | None, why: str) -> None:
    found = judged(site, service, to)
    assert found is not None and found.reason.startswith(why)
    assert not found.passes and "--wait" not in found.reason


@pytest.mark.parametrize(
    ("host", "state"),
    [
        (None, "not seen yet"),
        (seen("omsd-beta-1", "starting", False), "starting"),
        (seen("omsd-beta-1", "backoff", False), "backoff"),
        (seen("omsd-beta-1", "running", False, "replaying"), "not ready: replaying"),
        (seen("omsd-beta-1", "running", True), "ready, and not yet known to be up to date"),
    ],
)
def test_a_moment_without_a_standby_is_told_with_who_is_waited_for(
    host: HostRecord | None, state: str
) -> None:
    moment = (
        f": omsd-alpha-1 was chosen 0.4 s ago (process_lost), omsd-beta-1 is {state} (--wait waits for it)"
    )
    found = judged(view(host=host))
    assert found == failover.WhyNot(f"omsd has no electable standby{moment}", passes=True)
    found = judged(view(host=host), to="omsd-beta-1")
    assert found == failover.WhyNot(f"omsd-beta-1 is not electable now{moment}", passes=True)


def test_a_moment_without_a_leader_passes() -> None:
    found = judged(view(None))
    assert found is not None and found.passes and found.reason.startswith("omsd has no leader now: ")
    assert judged(view(ALPHA, ALPHA, BETA)) is None


class Site:
    """A store with a led omsd, and what carries failovers out, as an agent has it."""

    def __init__(self) -> None:
        self.store = MemoryStore(Memory())
        self.follower = Follower(self.store, KEYS)
        self.failovers = failover.Failovers(self.store, KEYS, self.follower)

    async def put(self, key: str, record: Any) -> None:
        await self.store.put(key, model.encode(record))

    async def begin(self) -> None:
        await self.put(KEYS.spec("omsd"), OMS)
        await self.put(KEYS.leader("omsd"), records.LeaderRecord(ALPHA, 1, 2, None, "n"))

    async def act(self) -> None:
        """As the leader's keeper and the successor do."""
        while (entry := await self.store.get(KEYS.request("omsd"))) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        request = model.decode(records.RequestRecord, entry.value)
        row = records.HistoryRow(
            3, "omsd-alpha-1", "omsd-beta-1", "failover", "me", "why", request.operation, 1, 2, 3
        )
        await self.put(KEYS.history_row("omsd", 3), row)


def test_with_wait_it_is_done_once_a_standby_may_lead() -> None:
    async def case() -> None:
        site = Site()
        await site.begin()
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(site.follower.run())
            await site.follower.first_view()
            refused = await site.failovers.run(failover.FailoverRequest("omsd", "why"))
            assert refused["outcome"] == "refused" and "--wait waits for it" in refused["reason"]
            asked = failover.FailoverRequest("omsd", "why", timeout_s=SOON_S, wait=True)
            running = tasks.create_task(site.failovers.run(asked))
            acting = tasks.create_task(site.act())
            await asyncio.sleep(0.2)
            assert await site.store.get(KEYS.request("omsd")) is None, "nothing is asked for before"
            await site.put(KEYS.electable("omsd"), records.ElectableRecord((BETA,), 2))
            done = await running
            await acting
            following.cancel()
        assert (done["outcome"], done["to"], done["epoch"]) == ("succeeded", "omsd-beta-1", 3)

    asyncio.run(case())


def test_with_wait_the_timeout_bounds_the_waiting_and_nothing_was_written() -> None:
    async def case() -> None:
        site = Site()
        await site.begin()
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as tasks:
            following = tasks.create_task(site.follower.run())
            await site.follower.first_view()
            asked = failover.FailoverRequest("omsd", "why", timeout_s=0.2, wait=True)
            done = await site.failovers.run(asked)
            following.cancel()
        assert done["outcome"] == "refused" and done["reason"].endswith("(waited 0.2 s)")
        assert done["operation"] is None and await site.store.get(KEYS.request("omsd")) is None

    asyncio.run(case())
