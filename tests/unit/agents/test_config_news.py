"""Who is sent settings and plain keys, and what is made of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import health, restart_order
from agents.bus import Bus, Reported
from agents.config_news import ConfigNews
from agents.supervisor.program import Configuration, spec_hash
from agents.supervisor.runner import Running, ShimState
from agents.supervisor.states import State
from agents.supervisor.supervisor import Desired, Instance
from controlplane import model
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.config import ConfigRevision, CurrentConfig, RolloutRecord, ServiceConfig
from controlplane.model.observed import HostRecord
from controlplane.site.view import SiteView
from hftd.wire import codec, control
from tests.unit.controlplane.test_status import observed

PROCESS = Process("riskd-alpha-1", "boot", 10, 100)
NAME = PROCESS.instance
RISK = ServiceSpec(
    "riskd",
    "riskd",
    Mode.ACTIVE_STANDBY,
    ("alpha", "beta"),
    settings={"limit": 1, "omsd": "omsd"},
    restart=("omsd",),
)
FIRST = Configuration(1, RISK.settings)
LIVE = Configuration(2, {"limit": 2, "omsd": "omsd"})
RESTART = Configuration(3, {"limit": 2, "omsd": "other"})


class Host:
    def believes(self, process: Process) -> int | None:
        return 1

    def heard(self, report: Reported, message: control.FromDaemon) -> None:
        pass


def status(revision: int = 0, refused: str = "") -> control.Status:
    head = codec.VERSION, 1, 0, NAME, None
    return control.Status(
        *head, True, "", "", 0, {}, {}, {}, [], config_revision=revision, config_refused=refused
    )


class Story:
    def __init__(self, tmp_path: Path) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.bus = Bus(f"ipc://{tmp_path}/bus", "agent", Host())
        self.bus._send = self._send  # type: ignore[method-assign]
        self.report = Reported(PROCESS, "riskd", "1", {}, b"link")
        self.bus.adopt(self.report)
        self.instance = Instance(RISK.slots()[0], Desired(RISK, 7, FIRST), state=State.RUNNING)
        self.instance.running = Running(PROCESS, PROCESS, Path(), spec_hash(RISK), 7, 0, 1, (), -1)
        self.flags: dict[str, Any] | None = {}
        self.news = ConfigNews(self.bus, {NAME: self.instance}.get, lambda: self.flags)

    def _send(self, name: str, make: Any, *fields: Any) -> bool:
        self.sent.append((make.__name__, fields))
        return True

    def tell(self) -> list[tuple[str, Any]]:
        self.sent.clear()
        self.news.tell_all()
        return list(self.sent)


@pytest.fixture
def story(tmp_path: Path) -> Any:
    one = Story(tmp_path)
    yield one
    one.bus.close()


def test_a_daemon_hears_its_settings_at_hello_and_at_each_change_and_not_again(story: Story) -> None:
    assert story.tell() == [("Reload", (1, FIRST.settings))]
    assert story.tell() == []
    story.instance.desired = Desired(RISK, 7, LIVE)
    assert story.tell() == [("Reload", (2, LIVE.settings))]
    assert story.tell() == []


def test_one_that_is_to_be_restarted_for_a_setting_is_not_sent_it(story: Story) -> None:
    story.tell()
    story.instance.desired = Desired(RISK, 7, RESTART)
    assert story.tell() == []
    assert not story.instance.same


def test_before_the_store_has_answered_a_daemon_that_runs_keeps_what_it_has(story: Story) -> None:
    story.flags = None
    assert story.tell() == []


def test_plain_keys_are_told_at_each_change_and_at_hello_the_empty_ones_too(story: Story) -> None:
    story.report.status = status(1)
    assert story.tell() == [("Flags", ({},)), ("Reload", (1, FIRST.settings))], "it may know older ones"
    story.flags = {"kill_switch": True}
    assert story.tell() == [("Flags", ({"kill_switch": True},))]
    assert story.tell() == []
    story.flags = {}
    assert story.tell() == [("Flags", ({},))]


def test_a_daemon_of_an_earlier_release_is_not_told_that_there_are_no_plain_keys(story: Story) -> None:
    story.report.status = status(0)
    assert [kind for kind, _ in story.tell()] == ["Reload"]
    story.flags = {"kill_switch": True}
    assert story.tell() == [("Flags", ({"kill_switch": True},))]


def test_what_was_not_taken_by_the_link_is_sent_again(story: Story) -> None:
    story.bus._send = lambda name, make, *fields: False  # type: ignore[method-assign]
    story.flags = {"kill_switch": True}
    story.news.tell_all()
    story.bus._send = story._send  # type: ignore[method-assign]
    assert [kind for kind, _ in story.tell()] == ["Flags", "Reload"]


def test_an_acknowledgement_is_news_once(story: Story) -> None:
    assert not story.news.acknowledged(NAME)
    story.report.status = status(1)
    assert story.news.acknowledged(NAME) and not story.news.acknowledged(NAME)
    story.report.status = status(1, "limit: found -1, wanted 0 or more")
    assert story.news.acknowledged(NAME) and not story.news.acknowledged(NAME)


def test_all_have_answered_once_each_has_taken_or_refused_what_it_was_sent(story: Story) -> None:
    assert story.news.settled(), "nobody was sent anything"
    story.report.status = status(1)
    story.instance.desired = Desired(RISK, 7, LIVE, 2)
    story.tell()
    assert not story.news.settled()
    story.report.status = status(2)
    assert story.news.settled()
    story.report.status = status(1, "too small")
    assert story.news.settled()


def test_a_refusal_names_who_refused_what_and_why(story: Story) -> None:
    assert story.news.refused() == ""
    story.instance.desired = Desired(RISK, 7, LIVE, 2)
    story.report.status = status(1, "limit: found -1, wanted 0 or more")
    assert story.news.refused() == (
        "riskd-alpha-1 does not take revision 2 of its settings and goes on with 1: limit: found -1, wanted "
        "0 or more: `hftctl config rollback riskd` takes it back"
    )


# --- what is said of an instance ----------------------------------------------------------------------------


def test_the_revision_in_force_is_the_daemons_word_and_else_what_it_was_started_with(story: Story) -> None:
    instance = story.instance
    instance.desired = Desired(RISK, 8, LIVE, 2)
    assert health.revision_of(instance) == 8, "a spec that asks for no restart is as good as its newest"
    assert health.config_of(instance, None) == 1
    assert health.config_of(instance, status(2)) == 2
    instance.desired = Desired(RISK, 8, RESTART, 3)
    assert health.revision_of(instance) == 7


def test_of_a_daemon_that_says_nothing_the_same_settings_count_as_their_newest_revision(story: Story) -> None:
    spec = ServiceSpec("riskd", "riskd", Mode.SINGLETON, ("alpha",), settings={"limit": 1})
    instance = Instance(spec.slots()[0], Desired(spec, 7, Configuration(4, {"limit": 1}), 4))
    instance.running = Running(PROCESS, PROCESS, Path(), spec_hash(spec), 7, 0, 1, (), -1)
    assert health.config_of(instance, status(0)) == 4


def test_why_the_wanted_settings_are_not_in_force_is_the_daemons_word_or_the_agents(story: Story) -> None:
    story.instance.desired = Desired(RISK, 7, FIRST, 2, "the document of revision 2 is not in the store")
    assert health.refusal_of(story.instance, status(1)).startswith("the document of revision 2")
    assert health.refusal_of(story.instance, status(1, "too small")) == "too small"


def test_the_state_file_of_an_earlier_releases_shim_names_its_spec() -> None:
    pid = {"pid": 7, "start_time": 9}
    plain = {"instance": NAME, "service": "riskd", "host": "alpha", "spec_hash": "h", "restarts": 0}
    plain |= {"boot_id": "boot", "started_ns": 1, "shim": pid, "daemon": pid, "config_revision": 57}
    older = model.decode(ShimState, msgspec.json.encode(plain))
    assert older.revisions == (57, 1)
    newer = model.decode(ShimState, msgspec.json.encode({**plain, "spec_revision": 58, "config_revision": 4}))
    assert newer.revisions == (58, 4)


# --- who is restarted first ---------------------------------------------------------------------------------


def site(config: ServiceConfig, standby_revision: int, electable_pid: int = 8) -> SiteView:
    other = "riskd-beta-1"
    status_of = observed(
        other, pid=8, spec_revision=7, config_revision=standby_revision, role="standby", phase="standby"
    )
    return SiteView(
        "lab",
        hosts={"beta": HostRecord("beta", "", "", "", "boot", 1, instances=(status_of,))},
        leaders={"riskd": records.LeaderRecord(PROCESS, 1, 1, NAME, "n")},
        electable={"riskd": records.ElectableRecord((Process(other, "boot", electable_pid, 1),), 1)},
        configs={"riskd": config},
    )


def test_a_leader_waits_until_its_standby_has_the_settings_that_it_is_to_have(story: Story) -> None:
    rows = {n: ConfigRevision("riskd", n, {}, "set", "ann", "", 1) for n in (2, 3)}
    config = ServiceConfig(CurrentConfig("riskd", 3, "n"), None, rows)
    story.instance.desired = Desired(RISK, 7, RESTART, 3)
    assert not restart_order.may_restart(story.instance, site(config, 2))
    assert restart_order.may_restart(story.instance, site(config, 3))


def test_a_leader_waits_for_a_standby_of_which_only_the_process_before_may_take_over(story: Story) -> None:
    config = ServiceConfig(CurrentConfig("riskd", 3, "n"))
    story.instance.desired = Desired(RISK, 7, RESTART, 3)
    assert not restart_order.may_restart(story.instance, site(config, 3, electable_pid=7))
    assert restart_order.may_restart(story.instance, site(config, 3))


def test_in_a_rollout_a_leader_waits_for_no_standby_that_it_has_not_reached(story: Story) -> None:
    rows = {n: ConfigRevision("riskd", n, {}, "set", "ann", "", 1) for n in (2, 3)}
    begun = RolloutRecord("riskd", 3, 2, "op-1", "ann", "", 1, (NAME,))
    config = ServiceConfig(CurrentConfig("riskd", 2, "n"), begun, rows)
    story.instance.desired = Desired(RISK, 7, RESTART, 3)
    assert restart_order.may_restart(story.instance, site(config, 2))
