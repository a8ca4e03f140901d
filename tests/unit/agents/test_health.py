"""What a daemon says of its own health, and what its agent makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents import health, settings
from agents.bus import Reported
from agents.supervisor import supervisor
from agents.supervisor.runner import Running
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane.model import Phase, Process, Slot
from hftd.runtime.health import Health
from hftd.shm import pages
from hftd.wire import codec, control

PROCESS = Process("auditd-alpha-1", "boot", 7, 70)


def judged(ready: bool, reason: str, healthy: bool) -> tuple[str, str]:
    said = control.Status(
        codec.VERSION, 1, 0, PROCESS.instance, None, ready, reason, "", 0, {}, {}, {}, [], healthy
    )
    instance = Instance(Slot(PROCESS.instance, "auditd", "alpha"), state=State.RUNNING)
    return health.judge(instance, Reported(PROCESS, "auditd", "0.1.0", {}, b"", said, 100.0), 100.5, 0)


def test_not_healthy_is_critical_and_not_ready_a_warning() -> None:
    assert judged(True, "", True) == ("passing", "")
    assert judged(False, "starting", True) == ("warning", "starting")
    assert judged(False, "the disk is full", False) == ("critical", "the disk is full")


def looping(short_lives: int, ready_for_s: float | None) -> tuple[str, str]:
    """What is said of an instance that runs and says that all is well."""
    said = control.Status(codec.VERSION, 1, 0, PROCESS.instance, None, True, "", "", 0, {}, {}, {}, [], True)
    instance = Instance(
        Slot(PROCESS.instance, "auditd", "alpha"),
        state=State.RUNNING,
        short_lives=short_lives,
        last_death="exit status 1",
        ready_since_mono_s=None if ready_for_s is None else 100.0 - ready_for_s,
    )
    return health.judge(instance, Reported(PROCESS, "auditd", "0.1.0", {}, b"", said, 100.0), 100.0, 0)


def test_one_crash_or_two_are_healed_by_the_restart() -> None:
    assert looping(1, 0.1) == looping(2, 0.1) == looping(2, None) == ("passing", "")


def test_an_instance_in_a_crash_loop_is_critical_while_it_is_up_until_it_has_been_ready_long_enough() -> None:
    text = "crash loop: ended 3 times in a row before it had been ready for 20 s, last: exit status 1"
    assert looping(3, 0.1) == looping(3, None) == ("critical", text)
    assert looping(4, supervisor.STABLE_S - 0.1)[0] == "critical"
    assert looping(4, supervisor.STABLE_S) == ("passing", "")


def test_one_that_says_no_more_is_neither_ready_nor_live_and_its_rates_are_not_known() -> None:
    said = control.Status(
        codec.VERSION, 1, 0, PROCESS.instance, None, True, "", "", 0, {"messages": 9}, {}, {}, [], True
    )
    report = Reported(PROCESS, "auditd", "0.1.0", {}, b"", said, 100.0, {"messages": 3.0})
    instance = Instance(Slot(PROCESS.instance, "auditd", "alpha"), state=State.RUNNING)
    instance.running = Running(PROCESS, PROCESS, Path(), "", 1, 0, 1, (), -1)
    page = pages.Alive(PROCESS.pid, PROCESS.start_time, 1, Phase.STARTING, 0, 0, 0)
    for now_s, turns in ((100.5, True), (103.0, True), (103.1, False)):
        found = health.observe(instance, report, page, now_s, 0)
        assert (found.ready, health.turns(instance, report, now_s, 0)) == (turns, turns)
        assert found.rates == ({"messages": 3.0} if turns else {}), "a rate is of now"
        assert found.counters == {"messages": 9}, "a total stays"
        assert found.health == ("passing" if turns else "critical")


def test_one_that_has_not_spoken_is_live_for_as_long_as_its_start_may_take() -> None:
    instance = Instance(Slot(PROCESS.instance, "auditd", "alpha"), state=State.STARTING)
    assert not health.turns(instance, None, 0.0, 0), "nothing runs"
    instance.running = Running(PROCESS, PROCESS, Path(), "", 1, 0, 1, (), -1)
    assert health.turns(instance, None, 0.0, settings.START_PATIENCE_S)
    assert not health.turns(instance, None, 0.0, settings.START_PATIENCE_S + 1)


def test_a_change_is_told_once_and_the_reason_goes_with_the_trouble() -> None:
    changes: list[str] = []
    health = Health(lambda: changes.append(health.reason))
    for healthy, reason in (
        (True, ""),
        (False, "disk"),
        (False, "disk"),
        (False, "disk full"),
        (True, "fine"),
        (True, ""),
    ):
        health.set_healthy(healthy, reason)
    assert changes == ["disk", "disk full", ""]
    health.set_healthy(False)
    assert health.reason, "an operator reads something in any case"


def test_a_status_of_a_daemon_from_before_that_field_is_healthy() -> None:
    said = control.Status(codec.VERSION, 1, 0, PROCESS.instance, None, True, "", "", 0, {}, {}, {}, [])
    array = codec.encode(said)
    assert array[0] == 0xDC or array[0] & 0xF0 == 0x90, "a msgpack array"
    shorter = (
        bytes([array[0] - 1]) + array[1:-1]
        if array[0] & 0xF0 == 0x90
        else array[:2] + bytes([array[2] - 1]) + array[3:-1]
    )
    found = control.decode_from_daemon(shorter)
    assert isinstance(found, control.Status) and found.healthy


@pytest.mark.parametrize("healthy", [True, False])
def test_it_travels(healthy: bool) -> None:
    said = control.Status(
        codec.VERSION, 1, 0, PROCESS.instance, None, True, "", "", 0, {}, {}, {}, [], healthy
    )
    assert control.decode_from_daemon(codec.encode(said)) == said
