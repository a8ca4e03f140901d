"""Rollouts of configuration on a simulated site: two hosts, three controllers, a store. Controllers die in
the middle of a write or are elected two at a time, answers are lost, links are cut, agents and canaries die.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field, replace

import pytest

from controlplane import model
from controlplane.clock import FakeClock
from controlplane.config import rollout, staged
from controlplane.errors import HftctlError, Refused, Unavailable
from controlplane.model import Mode, ServiceSpec, config, records
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.operations import config_rollout
from controlplane.operations import log as operation_log
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore

KEYS = Keys("lab")
STEP_S = 0.5
BASE, NEW = 3, 4
WATCH_S, TIMEOUT_S = 6.0, 20.0
LAG_S = 3.0
"""A crash is seen so late: the agent says it, the controller's view has it, the next look."""
OPERATION = "op-1"
SPEC = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("a", "b"))
MEMBERS = tuple(slot.instance for slot in SPEC.slots())


@dataclass
class Instance:
    status: InstanceStatus
    changes_at_s: float | None = None
    """It has been told another revision, and has it in force then."""
    up_at_s: float | None = None
    """It has crashed, and is up again then."""


@dataclass
class Wrong:
    """What the new revision does to an instance."""

    kind: str
    """refuses, crashes, unwell, metric; or nothing, and what an operator does meanwhile: cancels, applies."""
    instance: str
    after_s: float
    """Since it is in force."""


class Agent:
    """Obeys what is wanted, as it last saw it, and says how its instances are once a second."""

    def __init__(self, host: str, memory: Memory, chance: random.Random, wrong: Wrong) -> None:
        self.host, self.chance, self.wrong = host, chance, wrong
        self.client = MemoryStore(memory)
        self.alive, self.said_s, self.wanted = True, -1.0, dict.fromkeys(MEMBERS, BASE)
        self.instances = {name: Instance(_status(name)) for name in MEMBERS if f"-{host}-" in name}
        self.crashes: list[tuple[float, str, int]] = []
        """When, who, and with which revision."""
        self.in_force_s = dict.fromkeys(self.instances, 0.0)

    async def turn(self, now_s: float) -> None:
        if not self.alive:
            return
        with contextlib.suppress(Unavailable):
            view = nouns.view_of(KEYS, await self.client.range(KEYS.config))
            found = view.configs.get("omsd")
            if found is not None:
                for name in self.instances:
                    row = found.wanted(name)
                    self.wanted[name] = row.revision if row is not None else self.wanted[name]
        for name, one in self.instances.items():
            self._turn(name, one, now_s)
        if now_s - self.said_s >= 1:
            record = HostRecord(self.host, "", "", "", "boot", int(now_s * 1e9))
            record = replace(record, instances=tuple(each.status for each in self.instances.values()))
            with contextlib.suppress(Unavailable):
                await self.client.put(KEYS.host(self.host), model.encode(record))
                self.said_s = now_s

    def _turn(self, name: str, one: Instance, now_s: float) -> None:
        status, wanted = one.status, self.wanted[name]
        if one.up_at_s is not None:
            if now_s >= one.up_at_s:
                one.up_at_s = None
                one.status = replace(
                    status, state="running", ready=True, health="passing", config_revision=wanted
                )
                self.in_force_s[name] = now_s
            return
        if status.config_revision == wanted:
            one.changes_at_s = None
            one.status = status = replace(status, config_refused="")
        elif one.changes_at_s is None:
            one.changes_at_s = now_s + self.chance.choice((0.0, 1.0, 4.0))
        elif now_s >= one.changes_at_s:
            one.changes_at_s = None
            if wanted == NEW and self._goes_wrong("refuses", name):
                one.status = replace(status, config_refused="spread: found -1, wanted more than 0")
                return
            one.status = status = replace(status, config_revision=wanted, config_refused="")
            self.in_force_s[name] = now_s
        turned = status.config_revision == NEW and now_s - self.in_force_s[name] >= self.wrong.after_s
        if turned and self._goes_wrong("crashes", name):
            self.crash(name, now_s)
            return
        unwell = turned and self._goes_wrong("unwell", name)
        rates = {"rejects": 9.0 if turned and self._goes_wrong("metric", name) else 0.0}
        one.status = replace(
            one.status, ready=not unwell, health="warning" if unwell else "passing", rates=rates
        )

    def _goes_wrong(self, kind: str, name: str) -> bool:
        return (self.wrong.kind, self.wrong.instance) == (kind, name)

    def crash(self, name: str, now_s: float) -> None:
        one = self.instances[name]
        if one.up_at_s is None:
            one.up_at_s, one.changes_at_s = now_s + self.chance.choice((0.5, 1.5)), None
            self.crashes.append((now_s, name, one.status.config_revision))
            one.status = replace(
                one.status, state="backoff", ready=False, health="critical", crashes=one.status.crashes + 1
            )


def _status(name: str) -> InstanceStatus:
    host = name.split("-")[1]
    running = 7, "running", "standby", "active", 1, "passing", "", True, 0, 0
    return InstanceStatus(name, "omsd", "omsd", host, *running, (), "other", {}, "1", BASE)


class Controller:
    """A ConfigRollouts with a view of its own, which is as old as its link is cut."""

    def __init__(self, memory: Memory, clock: FakeClock) -> None:
        self.client, self.clock = MemoryStore(memory), clock
        self.elected = False
        self.view: SiteView | None = None
        self.viewed_ns = 0
        self.heard_ns: dict[str, tuple[HostRecord, int]] = {}
        self.begin()

    def begin(self) -> None:
        """As a new process."""
        self.rollouts = config_rollout.ConfigRollouts(
            self.client,
            KEYS,
            self.clock,
            view=lambda: self.view,
            age_s=lambda: (self.clock.boot_ns() - self.viewed_ns) / 1e9,
            silent_ms=lambda: {
                host: (self.clock.boot_ns() - at_ns) // 1_000_000
                for host, (_, at_ns) in self.heard_ns.items()
            },
        )

    async def look(self) -> None:
        try:
            self.view = nouns.view_of(KEYS, await self.client.range(KEYS.root))
        except Unavailable:
            return
        self.viewed_ns = self.clock.boot_ns()
        for host, record in self.view.hosts.items():
            if self.heard_ns.get(host, (None, 0))[0] != record:
                self.heard_ns[host] = record, self.viewed_ns

    async def turn(self, chance: random.Random, *, faults: bool) -> None:
        if not faults or chance.random() < 0.8:
            await self.look()
        if not self.elected:
            self.rollouts._forget()
            return
        if faults and chance.random() < 0.1:
            self.client.lose_next_answer()
        task = asyncio.ensure_future(self.rollouts.once())
        if faults and chance.random() < 0.05:  # it dies after some of its calls, and a new one begins
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            self.begin()
        else:
            await task


@dataclass
class Truth:
    """What the store went through, commit by commit."""

    ends: list[str] = field(default_factory=list)
    stages: list[tuple[float, config.RolloutRecord | None]] = field(default_factory=list)
    current: list[tuple[float, int]] = field(default_factory=list)


class Site:
    def __init__(self, seed: int, kind: str) -> None:
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.memory = Memory(self.clock)
        self.now_s = 0.0
        self.wrong = Wrong(kind, self.chance.choice(MEMBERS), self.chance.choice((0.0, 2.0, 5.0)))
        self.agents = [Agent(host, self.memory, self.chance, self.wrong) for host in SPEC.hosts]
        self.controllers = [Controller(self.memory, self.clock) for _ in range(3)]
        self.truth = Truth()
        self.operator = MemoryStore(self.memory)
        self.operator_at_s = self.chance.uniform(0, 60)
        self.cancelled = False
        self._watch_commits()

    def _watch_commits(self) -> None:
        commit = self.memory.commit

        def watched(compares, then):  # type: ignore[no-untyped-def]
            outcome = commit(compares, then)
            self._note()
            return outcome

        self.memory.commit = watched  # type: ignore[method-assign]

    def _note(self) -> None:
        view = nouns.view_of(KEYS, self.memory.snapshot(KEYS.root))
        found = view.configs.get("omsd", config.ServiceConfig())
        truth = self.truth
        if not truth.stages or truth.stages[-1][1] != found.rollout:
            truth.stages.append((self.now_s, found.rollout))
        if found.current is not None and (
            not truth.current or truth.current[-1][1] != found.current.revision
        ):
            truth.current.append((self.now_s, found.current.revision))
        for operation in view.operations:
            said = f"{operation.state}: {operation.outcome}"
            if operation.state != "running" and truth.ends[-1:] != [said]:
                truth.ends.append(said)

    async def begin(self) -> None:
        store = MemoryStore(self.memory)
        await store.put(KEYS.spec("omsd"), model.encode(SPEC))
        for number in (BASE, NEW):
            row = config.ConfigRevision(
                "omsd", number, {}, "set", "ann", "why", 0, OPERATION if number == NEW else ""
            )
            await store.put(KEYS.config_revision("omsd", number), model.encode(row))
        await store.put(KEYS.config_current("omsd"), model.encode(config.CurrentConfig("omsd", BASE, "n")))
        await operation_log.begin(
            store, KEYS, records.OperationRecord(OPERATION, rollout.KIND, "omsd", "running", "ann", "why", 0)
        )
        record = config.RolloutRecord(
            "omsd", NEW, BASE, OPERATION, "ann", "why", 0, MEMBERS[1:], watch_s=WATCH_S, timeout_s=TIMEOUT_S,
            metric="rejects > 5",
        )  # fmt: skip
        await store.put(KEYS.config_rollout("omsd"), model.encode(record))

    async def act(self) -> None:
        """What the operator does, once."""
        if self.now_s < self.operator_at_s or self.cancelled:
            return
        self.operator_at_s = float("inf")
        if self.chance.random() < 0.5:
            self.operator.lose_next_answer()
        with contextlib.suppress(Refused, Unavailable):
            if self.wrong.kind == "cancels":
                await staged.abort(self.operator, KEYS, "omsd", "not now", "bob")
                self.cancelled = True
            elif self.wrong.kind == "applies":
                await self.operator.put(KEYS.spec("omsd"), model.encode(replace(SPEC, cpus=(1,))))

    async def step(self, *, faults: bool) -> None:
        self.clock.advance_s(STEP_S)
        self.now_s += STEP_S
        chance = self.chance
        for one in self.controllers:
            one.elected = one is self.controllers[0] if not faults else one.elected
        if faults:
            if chance.random() < 0.05:
                for one in self.controllers:
                    one.elected = chance.random() < 0.4
            for each in [*self.controllers, *self.agents]:
                if chance.random() < 0.01:
                    each.client.cut()
                elif chance.random() < 0.2:
                    each.client.heal()
            for agent in self.agents:
                agent.alive = chance.random() > 0.01 if agent.alive else chance.random() < 0.5
                if self.wrong.kind in NO_FAULT and chance.random() < 0.002:
                    agent.crash(chance.choice(list(agent.instances)), self.now_s)
        else:
            for each in [*self.controllers, *self.agents]:
                each.client.heal()
            for agent in self.agents:
                agent.alive = True
        await asyncio.gather(
            *(agent.turn(self.now_s) for agent in self.agents),
            *(one.turn(chance, faults=faults) for one in self.controllers),
            self.act(),
        )
        self._check()

    def _check(self) -> None:
        for agent in self.agents:
            for one in agent.instances.values():
                assert one.status.config_revision in (BASE, NEW)
        assert len(self.truth.ends) <= 1, "an operation ends once"
        assert [revision for _, revision in self.truth.current] in ([BASE], [BASE, NEW])

    def over(self) -> bool:
        return self.memory.entry(KEYS.config_rollout("omsd")) is None

    def check_end(self) -> None:
        truth, promoted = self.truth, [at for at, revision in self.truth.current if revision == NEW]
        [end] = truth.ends
        assert end.startswith("succeeded" if promoted else ("failed", "cancelled")), (end, promoted)
        assert not (promoted and self.cancelled), "what is taken back is not promoted"
        wanted = NEW if promoted else BASE
        for agent in self.agents:
            for name, one in agent.instances.items():
                assert one.status.config_revision == wanted, f"{name} ends with what is wanted"
        crashes = [each for agent in self.agents for each in agent.crashes]
        if promoted:
            stages = [(at, record) for at, record in truth.stages if record is not None]
            assert {record.stage for _, record in stages} == {"canary", "rest"}, "each stage was passed"
            rest_s = next(at for at, record in stages if record.stage == "rest")
            assert promoted[0] - rest_s >= WATCH_S
            for agent in self.agents:
                for name, at in agent.in_force_s.items():
                    assert at <= promoted[0] - WATCH_S + LAG_S or at > promoted[0], f"{name} was watched"
            for at, name, _ in crashes:
                counted_s = 2.0 if name in MEMBERS[1:] else rest_s
                assert not counted_s < at < promoted[0] - LAG_S, (
                    f"{name} crashed at {at}, and it was promoted"
                )
            assert self.wrong.kind in NO_FAULT


async def play(seed: int, kind: str) -> Site:
    site = Site(seed, kind)
    await site.begin()
    site.controllers[0].elected = True
    for _ in range(site.chance.choice((20, 60, 200))):
        await site.step(faults=True)
    for _ in range(400):
        if site.over():
            break
        await site.step(faults=False)
    for _ in range(20):  # a controller that died after the last write; agents that obey
        await site.step(faults=False)
    assert site.over()
    site.check_end()
    return site


NO_FAULT = ("nothing", "cancels", "applies")
KINDS = (*NO_FAULT, "refuses", "crashes", "unwell", "metric")
SEEDS = range(15)


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_dies_it_ends_once_and_everybody_runs_what_is_wanted(kind: str) -> None:
    for seed in SEEDS:
        try:
            site = await play(seed, kind)
        except (AssertionError, HftctlError) as exc:
            raise AssertionError(f"seed {seed}, {kind}: {exc}") from exc
        if kind not in NO_FAULT:
            assert site.truth.ends[0].startswith("failed"), f"seed {seed}"


async def test_among_them_are_rollouts_that_are_promoted_and_such_that_are_not() -> None:
    """Else the test above would say nothing."""
    ends = [(await play(seed, "nothing")).truth.ends[0].partition(":")[0] for seed in SEEDS]
    assert set(ends) == {"succeeded", "failed"}


pytestmark = pytest.mark.anyio
