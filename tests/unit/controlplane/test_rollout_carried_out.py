"""What the elected controller does with a rollout of configuration that is asked for, end by end: its
records, its operation, its alarm. What it decides: test_rollout_decisions.py; under faults:
test_rollout_simulated.py.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest

from controlplane import model
from controlplane.clock import FakeClock
from controlplane.config import revisions, staged
from controlplane.errors import InvalidInput, Refused, Unavailable
from controlplane.model.config import CurrentConfig, RolloutRecord
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.model.records import OperationRecord
from controlplane.operations import config_change, config_rollout
from controlplane.operations import log as operation_log
from controlplane.store import Keys
from controlplane.store.memory import MemoryStore
from tests.support import configured
from tests.support.configured import asked

pytestmark = pytest.mark.anyio
KEYS = Keys("lab")
LEADS, STANDS_BY = "riskd-alpha-1", "riskd-beta-1"
WISH = config_change.RolloutWish(canary=(STANDS_BY,), watch_s=5.0, timeout_s=20.0)


class Site:
    """riskd on two hosts, and the controller. Its daemons take what they shall have by `obey`."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.found = {name: status(name) for name in (LEADS, STANDS_BY)}
        self.view = configured.SiteView("lab")
        self.age_s = 0.0
        self.silent_ms: dict[str, int] = {}
        self.rollouts = self.controller()

    def controller(self) -> config_rollout.ConfigRollouts:
        return config_rollout.ConfigRollouts(
            self.store,
            KEYS,
            self.clock,
            view=lambda: self.view,
            age_s=lambda: self.age_s,
            silent_ms=lambda: self.silent_ms,
        )

    async def look(self, *, obey: bool = True) -> None:
        self.clock.advance_s(0.5)
        self.view = await configured.view(self.store, KEYS)
        config = self.view.configs.get("riskd")
        for name, each in self.found.items() if config is not None and obey else ():
            assert config is not None
            row = config.wanted(name)
            assert row is not None
            self.found[name] = dataclasses.replace(each, config_revision=row.revision)
        for host in ("alpha", "beta"):
            here = tuple(each for each in self.found.values() if each.host == host)
            await self.store.put(
                KEYS.host(host), model.encode(HostRecord(host, "", "", "", "boot", 0, instances=here))
            )
        self.view = await configured.view(self.store, KEYS)
        await self.rollouts.once()

    async def look_for(self, seconds: float, *, obey: bool = True) -> None:
        for _ in range(round(seconds * 2)):
            await self.look(obey=obey)

    def set(self, name: str, **more: Any) -> None:
        self.found[name] = dataclasses.replace(self.found[name], **more)

    async def ask(self, **given: Any) -> dict[str, Any]:
        return await (await configured.change(self.store, KEYS)).run(asked(**given))

    async def operation(self, id: str) -> OperationRecord:
        found = await operation_log.find(self.store, KEYS, id)
        assert found is not None
        return found

    async def wanted(self) -> int:
        return (await revisions.read(self.store, KEYS, "riskd")).revision

    async def under_way(self) -> bool:
        return await self.store.get(KEYS.config_rollout("riskd")) is not None


def status(name: str) -> InstanceStatus:
    running = 7, "running", "standby", "active", 1, "passing", "", True, 0, 0
    return InstanceStatus(name, "riskd", "riskd", name.split("-")[1], *running, (), "other", {}, "1", 1)


@pytest.fixture
async def site() -> Site:
    one = Site()
    await configured.put_spec(one.store, KEYS)
    await one.look()
    return one


def told(record: OperationRecord) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in record.steps]


async def test_a_rollout_that_stays_good_is_promoted_and_its_operation_has_every_step(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    assert (done["outcome"], done["from"], done["to"]) == ("running", 1, 2)
    await site.look_for(6)
    assert await site.wanted() == 1, "the rest has it first"
    await site.look_for(14)
    assert await site.wanted() == 2 and not await site.under_way()
    record = await site.operation(done["operation"])
    assert (record.state, record.outcome) == ("succeeded", "")
    steps = ("canary in force", "canary good", "rest in force", "rest good", "promoted")
    assert told(record) == [(step, "succeeded") for step in steps]
    assert all(step.finished_ns is not None and step.finished_ns >= step.started_ns for step in record.steps)
    assert site.rollouts.alarms == ()


async def test_one_that_turns_is_taken_back_and_the_operation_and_an_alarm_say_why(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(3)
    assert site.found[STANDS_BY].config_revision == 2 and site.found[LEADS].config_revision == 1
    site.set(STANDS_BY, crashes=1, state="backoff", reason="exit 1")
    await site.look(obey=False)
    record = await site.operation(done["operation"])
    assert record.state == "running", "until all are back"
    await site.look_for(2, obey=False)
    assert (await site.operation(done["operation"])).state == "running"
    site.set(STANDS_BY, state="running")
    await site.look_for(2)
    assert await site.wanted() == 1 and not await site.under_way()
    assert {each.config_revision for each in site.found.values()} == {1}
    record = await site.operation(done["operation"])
    assert record.state == "failed"
    assert record.outcome == f"{STANDS_BY} crashed (exit 1); revision 1 is in force on every instance"
    assert told(record) == [
        ("canary in force", "succeeded"),
        ("canary good", "failed"),
        ("reverted", "succeeded"),
    ]
    await site.look()
    [alarm] = site.rollouts.alarms
    assert (alarm.id, alarm.severity, alarm.subject) == ("config.reverted.riskd", "warning", "riskd")
    assert f"{STANDS_BY} crashed (exit 1)" in alarm.text and done["operation"] in alarm.text
    await site.ask(set={"burst": 950})
    await site.look()
    assert site.rollouts.alarms == (), "the next change answers it"


async def test_the_alarm_of_one_that_was_taken_back_does_not_stand_for_ever(site: Site) -> None:
    await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(3)
    site.set(STANDS_BY, crashes=1)
    await site.look_for(5)
    assert site.rollouts.alarms
    site.clock.advance_s(config_rollout.ALARM_S)
    await site.look()
    assert site.rollouts.alarms == ()


async def test_a_second_rollout_and_a_change_meanwhile_are_refused_and_name_the_first(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    for given in ({"set": {"burst": 950}, "rollout": WISH}, {"set": {"burst": 950}}):
        with pytest.raises(Refused, match=f"{done['operation']}.* `hftctl config rollback riskd 1`"):
            await site.ask(**given)
    await site.look_for(20)
    assert await site.wanted() == 2


async def test_an_operator_takes_a_rollout_back_by_a_rollback_to_its_base(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    tried = await site.ask(to=1, base=1, dry_run=True)
    assert (tried["outcome"], tried["from"], tried["to"]) == ("dry_run", 2, 1)
    back = await site.ask(to=1, base=1, reason="not now", actor="bob")
    assert (back["operation"], back["outcome"], back["from"], back["to"]) == (
        done["operation"],
        "succeeded",
        2,
        1,
    )
    assert [(change["path"], change["old"], change["new"]) for change in back["changes"]] == [
        ("burst", 900, 400)
    ]
    again = await site.ask(to=1, base=1)
    assert again["operation"] == done["operation"], "it is being taken back already"
    await site.look_for(2)
    assert not await site.under_way() and site.found[STANDS_BY].config_revision == 1
    record = await site.operation(done["operation"])
    assert record.state == "cancelled"
    assert record.outcome.startswith("taken back by bob: not now; revision 1 is")
    await site.look()
    assert site.rollouts.alarms == (), "who took it back knows"
    with pytest.raises(Refused, match="no rollout"):
        await staged.abort(site.store, KEYS, "riskd", "why", "bob")


async def test_an_abort_whose_answer_is_lost_is_found_written(site: Site) -> None:
    await site.ask(set={"burst": 900}, rollout=WISH)
    site.store.lose_next_answer()
    assert (await staged.abort(site.store, KEYS, "riskd", "why", "bob")).stage == "revert"


async def test_a_metric_that_nobody_reports_is_refused_and_nothing_is_written(site: Site) -> None:
    site.set(LEADS, rates={"orders": 3.0})
    await site.look()
    wish = dataclass_of(WISH, metric="fills > 3")
    with pytest.raises(InvalidInput, match=r"no instance of riskd reports it \(there are orders\)"):
        await site.ask(set={"burst": 900}, rollout=wish)
    assert not await site.under_way()
    await site.ask(set={"burst": 900}, rollout=dataclass_of(WISH, metric="orders > 3"))
    assert await site.under_way()


def dataclass_of(wish: config_change.RolloutWish, **more: Any) -> config_change.RolloutWish:
    return config_change.RolloutWish(wish.canary, wish.watch_s, wish.timeout_s, **more)


async def test_crashes_count_from_the_moment_of_the_request(site: Site) -> None:
    site.set(STANDS_BY, crashes=2)
    await site.look()
    await site.ask(set={"burst": 900}, rollout=WISH)
    site.set(STANDS_BY, crashes=3)
    await site.look_for(3)
    assert not await site.under_way() and await site.wanted() == 1


async def test_another_controller_goes_on_with_the_same_operation(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    for _ in range(12):  # none lives as long as a stage has to be watched
        await site.look_for(3)
        site.rollouts = site.controller()
    assert await site.under_way(), "each counts anew"
    await site.look_for(20)
    record = await site.operation(done["operation"])
    assert record.state == "succeeded" and await site.wanted() == 2
    assert record.steps[0].name == "canary in force"
    assert record.steps[0].started_ns < record.steps[-1].started_ns - 35 * 10**9, "as the first one told it"


async def test_a_service_that_is_removed_ends_its_rollout(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    for key in (KEYS.spec("riskd"), KEYS.config_current("riskd"), KEYS.config_rollout("riskd")):
        await site.store.delete(key)
    await site.look(obey=False)
    record = await site.operation(done["operation"])
    assert record.state == "failed" and "riskd was removed" in record.outcome
    assert site.rollouts.alarms == (), "there is nothing to put right"


async def test_a_service_that_is_removed_with_its_rollout_left_behind_ends_it_too(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    before = site.view
    await site.store.delete(KEYS.spec("riskd"))
    await site.look(obey=False)
    assert "riskd was removed" in (await site.operation(done["operation"])).outcome
    assert not await site.under_way() and before.configs["riskd"].rollout is not None


async def test_a_view_that_has_no_spec_yet_removes_nothing(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    site.view = dataclasses.replace(await configured.view(site.store, KEYS), specs={})
    await site.rollouts.once()
    assert await site.under_way() and (await site.operation(done["operation"])).state == "running"


async def test_a_rollout_whose_record_was_deleted_by_hand_ends(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    await site.store.delete(KEYS.config_rollout("riskd"))
    await site.look_for(1)
    record = await site.operation(done["operation"])
    assert record.state == "failed" and "its record was deleted" in record.outcome
    assert site.found[STANDS_BY].config_revision == 1


async def test_an_operation_that_is_begun_and_has_no_record_yet_is_let_be(site: Site) -> None:
    record = OperationRecord("op-new", "config-rollout", "riskd", "running", "ann", "why", 0)
    await operation_log.begin(site.store, KEYS, record)
    await site.look_for(2)
    assert (await site.operation("op-new")).state == "running"


async def test_another_revision_that_is_written_past_it_takes_it_back(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    row = dataclasses.replace(site.view.configs["riskd"].revisions[2], revision=3, operation="by hand")
    await site.store.put(KEYS.config_revision("riskd", 3), model.encode(row))
    await site.store.put(KEYS.config_current("riskd"), model.encode(CurrentConfig("riskd", 3, "n")))
    await site.look_for(3)
    record = await site.operation(done["operation"])
    assert record.outcome.startswith("revision 3 became the wanted one meanwhile (it began at 1)")
    assert {each.config_revision for each in site.found.values()} == {3} and await site.wanted() == 3


async def test_a_rollout_without_a_record_of_its_operation_ends_all_the_same(site: Site) -> None:
    for crashes, wanted in ((0, 2), (1, 2)):
        done = await site.ask(set={"burst": 900 + crashes}, rollout=WISH)
        await site.store.delete(KEYS.operation(done["operation"]))
        site.set(STANDS_BY, crashes=crashes)
        await site.look_for(20)
        assert not await site.under_way() and await site.wanted() == wanted


async def test_a_record_that_does_not_decode_is_let_be_and_its_operation_goes_on(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(2)
    await site.store.put(KEYS.config_rollout("riskd"), b"rubbish")
    await site.look_for(10, obey=False)
    assert (await site.operation(done["operation"])).state == "running"
    assert (await site.store.get(KEYS.config_rollout("riskd"))).value == b"rubbish"  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["watch_s", "timeout_s"])
async def test_a_time_that_cannot_be_counted_with_is_a_record_that_does_not_decode(
    site: Site, field: str
) -> None:
    """As one that is turned into nanoseconds would end the controller, and the next one after it."""
    await site.ask(set={"burst": 900}, rollout=WISH)
    key = KEYS.config_rollout("riskd")
    entry = await site.store.get(key)
    assert entry is not None
    for odd in (1e308, -1, 0):
        await site.store.put(key, json.dumps(json.loads(entry.value) | {field: odd}).encode())
        await site.look_for(10, obey=False)
        with pytest.raises(msgspec.DecodeError):
            model.decode(RolloutRecord, (await site.store.get(key)).value)  # type: ignore[union-attr]


async def test_a_store_that_is_away_costs_the_look_and_nothing_else(site: Site) -> None:
    await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(5)
    site.store.cut()
    for _ in range(20):
        await site.rollouts.once()
    site.store.heal()
    await site.look_for(20)
    assert await site.wanted() == 2


async def test_a_host_whose_agent_is_silent_takes_it_back(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(1)
    site.silent_ms = {"beta": 2999}
    await site.look_for(3)
    assert (await site.operation(done["operation"])).steps[-1].name == "canary good"
    site.silent_ms = {"beta": 3000}
    await site.look_for(3)
    site.silent_ms = {}
    await site.look_for(1)
    assert "the agent of beta is silent" in (await site.operation(done["operation"])).outcome


async def test_a_controller_that_does_not_see_the_store_calls_no_host_silent_and_nothing_good(
    site: Site,
) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(3)
    for silent_ms, age_s in ((4000, 2.0), (9000, 6.5)):
        site.silent_ms, site.age_s = {"alpha": silent_ms, "beta": silent_ms}, age_s
        await site.look_for(6, obey=False)
    site.silent_ms, site.age_s = {}, 0.0
    await site.look_for(4)
    assert await site.wanted() == 1 and (await site.operation(done["operation"])).state == "running"
    await site.look_for(20)
    assert await site.wanted() == 2


async def test_a_controller_whose_view_is_behind_changes_nothing_of_what_stands(site: Site) -> None:
    await site.ask(set={"burst": 900}, rollout=WISH)
    await site.look_for(3)
    await staged.abort(site.store, KEYS, "riskd", "not now", "bob")
    before = await staged.find(site.store, KEYS, "riskd")
    for _ in range(30):
        site.clock.advance_s(0.5)
        await site.rollouts.once()
    assert await staged.find(site.store, KEYS, "riskd") == before


async def test_a_promotion_whose_answer_is_lost_is_one_promotion(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    real = site.store.txn

    async def lost(compares: Any, then: Any) -> Any:
        outcome = await real(compares, then)
        if len(then) == 3:
            raise Unavailable("the answer was lost", ambiguous=True)
        return outcome

    site.store.txn = lost  # type: ignore[method-assign]
    await site.look_for(20)
    assert await site.wanted() == 2 and not await site.under_way()
    record = await site.operation(done["operation"])
    assert record.state == "succeeded" and told(record)[-1] == ("promoted", "succeeded")


async def test_of_two_controllers_that_both_think_they_are_elected_one_write_stands(site: Site) -> None:
    done = await site.ask(set={"burst": 900}, rollout=WISH)
    other = site.controller()
    for _ in range(30):
        await site.look()
        await other.once()
    assert await site.wanted() == 2
    assert (await site.operation(done["operation"])).state == "succeeded"
