"""A wall clock that is set, by hand or by NTP, makes nothing blind, negative or unbelievable."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agents import health
from agents.alarms import Alarms
from agents.supervisor.runner import Running
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane import model
from controlplane.clock import FakeClock, restamped
from controlplane.errors import InvalidInput
from controlplane.host import identity, system_clock
from controlplane.leadership import group_records
from controlplane.model import Process, Slot, records
from controlplane.store import Entry
from hftd.runtime.context import Config, Context

DAY_NS = 86_400 * 10**9
NOON_NS = 1_795_000_000_000_000_000
S = 10**9


class SetClock(FakeClock):
    def __init__(self) -> None:
        super().__init__()
        self.ahead_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns


def test_a_stamp_is_kept_unless_the_clock_was_set_since() -> None:
    assert restamped(NOON_NS, 7 * S, NOON_NS + 7 * S) == NOON_NS
    assert restamped(NOON_NS, 7 * S, NOON_NS + 7 * S + S // 2) == NOON_NS, "slewed, or read a little later"
    assert restamped(NOON_NS, 7 * S, NOON_NS + 7 * S - DAY_NS) == NOON_NS - DAY_NS
    assert restamped(NOON_NS, 7 * S, NOON_NS + 7 * S + DAY_NS) == NOON_NS + DAY_NS
    assert restamped(NOON_NS, 7 * S, 0) == 0


def test_an_agent_s_alarm_stands_since_it_began_by_the_clock_as_it_is_now() -> None:
    clock = SetClock()
    right_ns = clock.wall_ns()
    clock.ahead_ns = DAY_NS
    alarms = Alarms("agent-alpha", lambda kind, **fields: None, clock)
    alarms.raise_("disk", "warning", "full")
    assert alarms.standing()[0].since_ns == right_ns + DAY_NS
    clock.advance_s(60)
    clock.ahead_ns = 0
    for _ in range(2):
        assert alarms.standing()[0].since_ns == right_ns
    clock.advance_s(60)
    alarms.raise_("disk", "warning", "fuller")
    assert (alarms.standing()[0].since_ns, alarms.standing()[0].text) == (right_ns, "fuller")
    alarms.clear("disk")
    alarms.raise_("disk", "warning", "again")
    assert alarms.standing()[0].since_ns == right_ns + 120 * S


def test_a_daemon_s_alarm_does_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = identity.myself("auditd-alpha-1")
    config = Config(1, "auditd", tmp_path, tmp_path, tmp_path / "data", tmp_path / "journal", {})
    context = Context(site="lab", host="alpha", service="auditd", process=me, config=config)
    ahead_ns, real_ns = DAY_NS, time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ahead_ns)
    context.alarm("disk", "warning", "full")
    assert context.standing_alarms()[0].since_ns > real_ns() + DAY_NS // 2
    ahead_ns = 0
    assert abs(context.standing_alarms()[0].since_ns - real_ns()) < DAY_NS // 2
    context.clear("disk")
    assert context.standing_alarms() == []


def test_a_daemon_that_never_says_hello_is_critical_although_it_was_started_tomorrow() -> None:
    me = identity.myself("auditd-alpha-1")
    running = Running(me, me, Path("x"), "", 1, 0, NOON_NS + DAY_NS, (), -1)
    instance = Instance(Slot(me.instance, "auditd", "alpha"), state=State.STARTING, running=running)
    seen = health.observe(instance, None, None, 100.0, NOON_NS, age_ns=30 * S)
    assert (seen.health, seen.reason) == ("critical", "no hello for 30 s")
    assert seen.started_ns == NOON_NS - 30 * S
    assert health.observe(instance, None, None, 100.0, NOON_NS, age_ns=S).health == "warning"


def test_the_age_of_a_process_counts_from_the_boot() -> None:
    me = identity.myself("me")
    before_ns = identity.age_ns(me)
    assert 0 < before_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert identity.age_ns(me) >= before_ns
    assert identity.age_ns(Process("x", "b", os.getpid(), 1 << 60)) == 0


def test_what_the_store_gave_out_is_believed_on_after_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = system_clock.latest_wall_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 30 * DAY_NS)
    given = records.EpochRecord(now_ns // 1_000_000, 7)
    assert group_records._decode(Entry("k", model.encode(given), 1), records.EpochRecord) == given
    future = model.encode(records.EpochRecord((now_ns + 2 * DAY_NS) // 1_000_000, 7))
    with pytest.raises(InvalidInput, match="in the future"):
        group_records._decode(Entry("k", future, 1), records.EpochRecord)
