"""What a rollout of configuration does next, of every case."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from controlplane.config import rollout
from controlplane.model import Mode, ServiceSpec, config, records
from controlplane.model.observed import HostRecord
from controlplane.site.view import SiteView
from tests.support.rollouts import BASE, LEADER, NEW, OMSD, STANDBY, lead, status

S = 10**9


def record(**more: Any) -> config.RolloutRecord:
    known: dict[str, Any] = {"instances": (STANDBY,), "crashes": {STANDBY: 0}, "watch_s": 10.0}
    return config.RolloutRecord("omsd", NEW, BASE, "op-1", "ann", "why", 0, **(known | more))


REST = record(stage="rest", instances=(LEADER, STANDBY), crashes={LEADER: 0, STANDBY: 0})


class Site:
    """A site whose parts a test changes, and the rollout that is decided on again and again."""

    def __init__(self, wanted: config.RolloutRecord, spec: ServiceSpec = OMSD) -> None:
        self.record, self.spec = wanted, spec
        self.spec_revision, self.current = 1, BASE
        self.documents = {BASE, NEW}
        self.found = {slot.instance: status(slot.instance, spec.name) for slot in spec.slots()}
        self.now = rollout.Now(100 * S)
        self.seen: rollout.Seen | None = None
        self.faults: Mapping[str, str] = {}
        self.specs: Mapping[str, ServiceSpec] | None = None

    def set(self, *names: str, **more: Any) -> None:
        for name in names or self.found:
            self.found[name] = dataclasses.replace(self.found[name], **more)

    def view(self) -> SiteView:
        hosts = {each.host for each in self.found.values()}
        rows = {
            n: config.ConfigRevision(self.spec.name, n, {}, "set", "ann", "why", 0) for n in self.documents
        }
        return SiteView(
            "lab",
            specs={self.spec.name: self.spec} if self.specs is None else self.specs,
            spec_revisions={self.spec.name: self.spec_revision},
            spec_faults=self.faults,
            leaders={"omsd": lead(LEADER)},
            hosts={
                host: HostRecord(
                    host,
                    "",
                    "",
                    "",
                    "boot",
                    0,
                    instances=tuple(each for each in self.found.values() if each.host == host),
                )
                for host in hosts
            },
            configs={
                self.spec.name: config.ServiceConfig(
                    config.CurrentConfig(self.spec.name, self.current, "n"), self.record, rows
                )
            },
        )

    def look(self, after_s: float = 0.2, **now: Any) -> rollout.Decision:
        self.now = rollout.Now(self.now.boot_ns + int(after_s * S), **now)
        decision = rollout.decide(self.record, self.view(), self.seen, self.now)
        self.seen = decision.seen
        return decision

    def look_for(self, seconds: float, **now: Any) -> rollout.Decision:
        """Each 0.2 s, until it does something, or the time is over."""
        for _ in range(round(seconds / 0.2)):
            decision = self.look(**now)
            if not isinstance(decision.action, rollout.Wait):
                break
        return decision

    def watched(self) -> None:
        """In force, and watched for a moment."""
        self.set(*self.record.instances, config_revision=NEW)
        assert self.look_for(1.0).action == rollout.Wait() and self.seen and self.seen.in_force_ns


def changed(decision: rollout.Decision) -> config.RolloutRecord:
    assert isinstance(decision.action, rollout.Change), decision
    return decision.action.record


def why(decision: rollout.Decision) -> str:
    found = changed(decision)
    assert found.stage == "revert" and decision.step == rollout.REVERTED
    return found.why


# --- forward ------------------------------------------------------------------------------------------------


def test_a_canary_in_force_is_watched_and_then_all_shall_run_it() -> None:
    site = Site(record())
    decision = site.look_for(20)
    assert (decision.action, decision.step) == (rollout.Wait(), "canary in force")
    assert "waits for omsd-b-1" in decision.says
    site.set(STANDBY, config_revision=NEW)
    decision = site.look()
    assert (decision.action, decision.step) == (rollout.Wait(), "canary good")
    assert site.look_for(9.6).action == rollout.Wait()
    site.set(LEADER, crashes=3)
    found = changed(site.look_for(1))
    assert (found.stage, found.instances) == ("rest", (LEADER, STANDBY))
    assert found.crashes == {LEADER: 3, STANDBY: 0}, "what crashed before is not the rollout's"


def test_the_rest_in_force_and_good_is_promoted() -> None:
    site = Site(REST)
    site.set(STANDBY, config_revision=NEW)
    assert site.look_for(20).step == "rest in force"
    site.set(LEADER, config_revision=NEW)
    assert site.look_for(9.8).step == "rest good"
    decision = site.look_for(1)
    assert (decision.action, decision.step) == (rollout.Promote(), "promoted")


def test_a_singleton_is_canary_and_all() -> None:
    one = ServiceSpec("omsd", "omsd", Mode.SINGLETON, ("a",))
    site = Site(record(instances=(LEADER,), crashes={LEADER: 0}), one)
    site.set(config_revision=NEW)
    assert site.look_for(20).action == rollout.Promote()


def test_crashes_are_counted_from_the_first_look_where_the_record_has_none() -> None:
    site = Site(record(crashes={}))
    site.set(STANDBY, crashes=2)
    assert changed(site.look()) == dataclasses.replace(site.record, crashes={STANDBY: 2})
    del site.found[STANDBY]
    assert site.look().action == rollout.Wait(), "of one that is not heard of there is nothing to count"


def test_who_is_not_in_the_stage_is_not_judged() -> None:
    site = Site(record())
    site.watched()
    site.set(LEADER, crashes=9, ready=False, health="critical", state="backoff")
    assert changed(site.look_for(20)).stage == "rest"


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", ["another controller", "a stopped controller", "a stale view", "a spec"])
def test_a_stage_is_counted_anew_by(gap: str) -> None:
    site = Site(record())
    site.watched()
    assert site.look_for(8).action == rollout.Wait()
    if gap == "another controller":
        site.seen = None
    elif gap == "a stopped controller":
        assert site.look(after_s=60).action == rollout.Wait()
    elif gap == "a stale view":
        decision = site.look(fresh=False, silent=frozenset("ab"))
        assert (decision.action, decision.seen) == (rollout.Wait(), None)
    else:
        site.spec_revision = 2
    assert site.look_for(9.6).action == rollout.Wait()
    assert changed(site.look_for(2)).stage == "rest"


def test_the_time_to_come_in_force_is_counted_anew_too() -> None:
    site = Site(record())
    assert site.look_for(59).action == rollout.Wait()
    assert site.look(after_s=30).action == rollout.Wait()
    assert site.look_for(59).action == rollout.Wait()
    assert "not in force within 60 s: omsd-b-1 has revision 3" in why(site.look_for(2))


# --- back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ready": False, "reason": "no feed"}, "omsd-b-1 is not ready (no feed)"),
        ({"state": "backoff", "reason": "exit 1"}, "omsd-b-1 is backoff (exit 1)"),
        ({"health": "critical", "reason": "no order out"}, "omsd-b-1 is critical (no order out)"),
        ({"health": "warning"}, "omsd-b-1 is warning"),
        ({"config_revision": BASE}, "omsd-b-1 has revision 3"),
        ({"config_revision": BASE, "config_refused": "spread: -1"}, "omsd-b-1 refuses it: spread: -1"),
        ({"config_refused": "spread: -1"}, "omsd-b-1 refuses it: spread: -1"),
    ],
)
def test_what_is_not_good_for_two_seconds_is_taken_back(more: Mapping[str, Any], says: str) -> None:
    site = Site(record())
    site.watched()
    good = site.found[STANDBY]
    site.set(STANDBY, **more)
    assert site.look_for(1.8).action == rollout.Wait()
    site.found[STANDBY] = good
    assert site.look_for(3).action == rollout.Wait(), "a hand-over takes a moment"
    site.set(STANDBY, **more)
    assert site.look_for(1.8).action == rollout.Wait()
    assert says in why(site.look_for(1))


def test_nothing_goes_on_while_something_is_not_good() -> None:
    site = Site(record(watch_s=1.0))
    site.watched()
    site.set(STANDBY, ready=False)
    assert site.look_for(1.8).action == rollout.Wait()


def test_a_crash_is_taken_back_at_once_before_and_after_it_is_in_force() -> None:
    for in_force in (False, True):
        site = Site(record(crashes={STANDBY: 4}))
        site.set(STANDBY, crashes=4)
        if in_force:
            site.watched()
        assert site.look().action == rollout.Wait()
        site.set(STANDBY, crashes=5, state="backoff", reason="exit 1")
        assert why(site.look()) == "omsd-b-1 crashed (exit 1)"
        site.set(STANDBY, state="starting", reason="starting")
        assert why(site.look()) == "omsd-b-1 crashed"


def test_a_crash_that_no_controller_saw_is_taken_back_by_the_next_one() -> None:
    site = Site(record())
    site.set(STANDBY, config_revision=NEW, crashes=1)
    assert "crashed" in why(site.look())


def test_a_canary_that_refuses_is_not_waited_for() -> None:
    site = Site(record())
    site.set(STANDBY, config_refused="spread: found -1, wanted more than 0")
    assert site.look_for(1.8).action == rollout.Wait(), "it may be of the revision before"
    assert "omsd-b-1 refuses it: spread: found -1" in why(site.look_for(1))


def test_a_silent_host_is_not_good_and_not_in_force() -> None:
    site = Site(record(timeout_s=5.0))
    site.set(STANDBY, config_revision=NEW)
    assert site.look_for(4.8, silent=frozenset("b")).step == "canary in force"
    assert "the agent of b is silent" in why(site.look_for(1, silent=frozenset("b")))
    site = Site(record())
    site.watched()
    assert site.look_for(1.8, silent=frozenset("b")).action == rollout.Wait()
    assert "the agent of b is silent" in why(site.look_for(1, silent=frozenset("b")))


def test_a_host_that_has_no_record_any_more_is_not_good() -> None:
    site = Site(record())
    site.watched()
    del site.found[STANDBY]
    assert site.look_for(1.8).action == rollout.Wait(), "a new agent writes it within a moment"
    assert "omsd-b-1 is not heard of" in why(site.look_for(1))


def test_a_metric_that_turns_is_taken_back_at_once() -> None:
    site = Site(record(metric="rejects > 5"))
    site.set(LEADER, rates={"rejects": 50.0})
    site.watched()
    site.set(STANDBY, rates={"rejects": 5.0})
    assert site.look().action == rollout.Wait()
    site.set(STANDBY, rates={"rejects": 5.5})
    assert why(site.look()).startswith("the metric has turned: rejects of omsd-b-1 is 5.5/s")


def test_a_metric_that_is_none_is_taken_back_and_not_waited_for() -> None:
    """Another client wrote the record: a request with it is refused."""
    site = Site(record(metric="rubbish"))
    site.set(STANDBY, config_revision=NEW)
    assert 'metric "rubbish": wanted NAME > VALUE' in why(site.look_for(1.0))


def test_a_metric_is_not_asked_before_the_revision_is_in_force() -> None:
    site = Site(record(metric="orders < 1"))
    site.set(rates={"orders": 0.0})
    assert site.look_for(10).action == rollout.Wait()


def test_a_metric_that_nobody_reports_any_more_promotes_nothing() -> None:
    site = Site(dataclasses.replace(REST, metric="orders < 1"))
    site.watched()
    assert "nobody reports the metric" in why(site.look_for(20))
    site = Site(dataclasses.replace(REST, metric="orders < 1"))
    site.set(LEADER, rates={"orders": 9.0})
    site.watched()
    assert site.look_for(20).action == rollout.Promote()


# --- what happens meanwhile ---------------------------------------------------------------------------------


def test_another_revision_that_became_the_wanted_one_takes_it_back() -> None:
    site = Site(REST)
    site.watched()
    site.current = 5
    assert "revision 5 became the wanted one meanwhile" in why(site.look())


def test_a_document_that_is_gone_takes_it_back() -> None:
    site = Site(record())
    site.documents = {BASE}
    assert "the document of revision 4" in why(site.look())


def test_an_instance_that_left_the_spec_is_not_waited_for() -> None:
    three = dataclasses.replace(OMSD, hosts=("a", "b", "c"))
    site = Site(record(instances=(STANDBY, "omsd-c-1"), crashes={STANDBY: 0, "omsd-c-1": 1}), three)
    site.set("omsd-c-1", crashes=1)
    site.watched()
    site.spec, site.spec_revision = OMSD, 2
    site.record = changed(site.look())
    assert (site.record.stage, site.record.instances, site.record.crashes) == (
        "canary",
        (STANDBY,),
        {STANDBY: 0},
    )
    assert changed(site.look_for(20)).stage == "rest"


def test_without_any_canary_left_it_is_taken_back() -> None:
    site = Site(record())
    site.spec = dataclasses.replace(OMSD, hosts=("a",))
    assert "no canary is left" in why(site.look())


def test_an_instance_that_is_new_in_the_spec_runs_it_with_the_rest() -> None:
    site = Site(REST)
    site.watched()
    site.spec, site.spec_revision = dataclasses.replace(OMSD, hosts=("a", "b", "c")), 2
    site.found["omsd-c-1"] = status("omsd-c-1", crashes=2)
    site.record = changed(site.look())
    assert site.record.instances == (LEADER, STANDBY, "omsd-c-1")
    assert site.record.crashes == {LEADER: 0, STANDBY: 0, "omsd-c-1": 2}
    assert site.look_for(30).step == "rest in force"


def test_a_removed_service_ends_it_and_one_whose_spec_is_damaged_does_not() -> None:
    site = Site(record())
    site.specs, site.faults = {}, {"omsd": "rubbish"}
    assert site.look().action == rollout.Wait()
    site.faults = {}
    assert site.look().action == rollout.End("omsd was removed from the site", removed=True)


def test_a_hand_over_of_the_lead_changes_nothing() -> None:
    site = Site(record())
    site.watched()
    site.set(STANDBY, ready=False, health="warning", phase="fencing", role="leader")
    assert site.look_for(1).action == rollout.Wait()
    site.set(STANDBY, ready=True, health="passing", phase="active")
    assert changed(site.look_for(20)).stage == "rest"


# --- the end of a revert ------------------------------------------------------------------------------------


def test_taken_back_it_ends_when_all_are_back() -> None:
    site = Site(dataclasses.replace(REST, stage="revert", why="omsd-b-1 crashed"))
    site.set(STANDBY, config_revision=NEW)
    decision = site.look_for(10)
    assert (decision.action, decision.step) == (rollout.Wait(), "reverted")
    site.set(STANDBY, config_revision=BASE, ready=False)
    assert site.look_for(10).action == rollout.Wait()
    site.set(STANDBY, ready=True)
    assert site.look().action == rollout.End("omsd-b-1 crashed; revision 3 is in force on every instance")


def test_taken_back_it_ends_in_time_though_somebody_is_away() -> None:
    site = Site(record(stage="revert", why="it crashed"))
    site.set(STANDBY, state="backoff", reason="exit 1")
    assert site.look_for(59.8).action == rollout.Wait()
    decision = site.look_for(1)
    assert isinstance(decision.action, rollout.End)
    assert "it crashed; revision 3 is wanted, and after 60 s not in force: omsd-b-1 is backoff (exit 1)" in (
        decision.action.outcome
    )


def test_taken_back_it_goes_to_what_is_wanted_now() -> None:
    site = Site(record(stage="revert", why="so"))
    site.current = 5
    site.set(config_revision=5)
    assert site.look().action == rollout.End("so; revision 5 is in force on every instance")


# --- the steps ----------------------------------------------------------------------------------------------


def told(steps: tuple[records.OperationStep, ...]) -> list[tuple[str, str, int | None]]:
    return [(each.name, each.state, each.finished_ns) for each in steps]


def test_steps_follow_and_keep_when_they_began() -> None:
    found: tuple[records.OperationStep, ...] = ()
    for at, step in enumerate(rollout.ORDER[:4], 1):
        found = rollout.steps(found, step, at)
        found = rollout.steps(found, step, at)
    assert told(found) == [
        ("canary in force", "succeeded", 2),
        ("canary good", "succeeded", 3),
        ("rest in force", "succeeded", 4),
        ("rest good", "running", None),
    ]
    assert told(rollout.steps(found, "promoted", 9, state="succeeded"))[3:] == [
        ("rest good", "succeeded", 9),
        ("promoted", "succeeded", 9),
    ]
    back = rollout.steps(found, "reverted", 7)
    assert told(back)[2:] == [
        ("rest in force", "succeeded", 4),
        ("rest good", "failed", 7),
        ("reverted", "running", None),
    ]
    ended = rollout.steps(back, "reverted", 8, state="succeeded", detail="it crashed")
    assert told(ended)[3:] == [("rest good", "failed", 7), ("reverted", "succeeded", 8)]
    assert ended[-1].started_ns == 7 and ended[-1].detail == "it crashed"


def test_a_step_that_took_no_look_is_there_and_a_single_instance_has_no_rest() -> None:
    found = rollout.steps((), "canary good", 2)
    assert told(found) == [("canary in force", "succeeded", 2), ("canary good", "running", None)]
    assert [each.name for each in rollout.steps(found, "promoted", 3, state="succeeded")] == [
        "canary in force",
        "canary good",
        "promoted",
    ]
    assert [each.name for each in rollout.steps(found, "rest good", 3)] == list(rollout.ORDER[:4])


def test_a_stage_that_is_counted_anew_is_at_its_step_again() -> None:
    found = rollout.steps((), "canary in force", 1)
    found = rollout.steps(found, "canary good", 2)
    assert told(rollout.steps(found, "canary in force", 3)) == [("canary in force", "running", None)]
