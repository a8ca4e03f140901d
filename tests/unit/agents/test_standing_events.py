"""What went wrong stays in the events when it is over: raised and cleared once, whichever agent tells it."""

from __future__ import annotations

from typing import Any

from agents.alarm_events import AlarmEvents
from agents.events import Event
from agents.reason_events import SETTLE_S, ReasonEvents
from controlplane.model.observed import Alarm
from controlplane.site.reasons import Reason

LOST = Alarm("book:spot:BTCUSDT", "warning", "spot:BTCUSDT", "its book is not in step", 1)
GONE = Reason("controller", "controller", "no controller is elected")
HUNG = Reason("instance", "omsd-beta-1", "omsd-beta-1: running, critical: no status for 4 s", "beta")
BOTH = ("alpha", "beta")


class Told:
    """Events as an agent records them."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._read = 0

    def report(self, kind: str, **fields: Any) -> None:
        self.all.append(Event(len(self.all) + 1, "alpha", kind, fields))

    def new(self) -> list[tuple[str, str]]:
        """(kind, text) since the last call."""
        found, self._read = self.all[self._read :], len(self.all)
        return [(event.kind, event.fields["text"]) for event in found]


def test_an_alarm_of_a_daemon_is_told_when_it_begins_when_it_gets_worse_and_when_it_is_over() -> None:
    told = Told()
    alarms = AlarmEvents(told.report, ())
    for second in range(3):
        alarms.look("bookd-alpha-1", [LOST], second)
    assert told.new() == [("alarm.raised", LOST.text)]
    graver = Alarm(LOST.id, "critical", LOST.subject, LOST.text, 1)
    alarms.look("bookd-alpha-1", [graver], 3)
    assert told.new() == [("alarm.raised", LOST.text)] and told.all[-1].fields["severity"] == "critical"
    for second in range(4, 9):
        alarms.look("bookd-alpha-1", [], second)
    assert told.new() == [("alarm.cleared", LOST.text)]
    alarms.look("bookd-beta-1", [LOST], 9)
    alarms.ended("bookd-beta-1")
    assert told.new() == [("alarm.raised", LOST.text), ("alarm.cleared", LOST.text)]
    alarms.look("bookd-alpha-1", [Alarm("tape_end", "info", "tape", "the tape has ended", 1)], 9)
    assert told.new() == []


def test_an_alarm_that_comes_and_goes_is_told_once() -> None:
    told = Told()
    alarms = AlarmEvents(told.report, ())
    for second in range(100):
        alarms.look("marketd-alpha-1", [LOST] if second % 3 else [], second)
    assert told.new() == [("alarm.raised", LOST.text)]


def test_the_next_agent_tells_no_alarm_again_and_its_end() -> None:
    told = Told()
    AlarmEvents(told.report, ()).look("bookd-alpha-1", [LOST], 0)
    told.report("alarm.raised", id="store.silent", severity="critical", text="an agent's own")
    told.new()
    again = AlarmEvents(told.report, told.all)
    again.look("bookd-alpha-1", [LOST], 100)
    assert told.new() == []
    for second in range(101, 105):
        again.look("bookd-alpha-1", [], second)
    assert told.new() == [("alarm.cleared", LOST.text)]


def settled(told: Told, host: str = "alpha", before: tuple[Event, ...] = ()) -> ReasonEvents:
    """Of a floor that has been healthy."""
    events = ReasonEvents(host, told.report, before)
    events.look([], BOTH, 0.0, 0)
    return events


def test_a_reason_that_stands_is_told_once_and_its_end_with_how_long() -> None:
    told = Told()
    events = settled(told)
    for second in range(1, 6):
        events.look([GONE], BOTH, second, second * 10**9)
    assert told.new() == [("reason.raised", GONE.text)]
    events.look([], BOTH, 6.0, 6 * 10**9)
    assert told.new() == [("reason.cleared", GONE.text)]
    assert told.all[-1].fields["lasted_s"] == 5.0


def test_the_words_may_change_while_the_reason_is_the_same() -> None:
    told = Told()
    events = settled(told, "beta")
    for second in range(1, 9):
        events.look([Reason("instance", HUNG.subject, f"for {second} s", "beta")], BOTH, second, 0)
    assert len(told.new()) == 1


def test_while_a_floor_comes_up_nothing_is_told_unless_it_lasts() -> None:
    told = Told()
    events = ReasonEvents("alpha", told.report, ())
    for second in range(int(SETTLE_S)):
        events.look([GONE], BOTH, float(second), 0)
    assert told.new() == []
    events.look([GONE], BOTH, SETTLE_S, 0)
    assert told.new() == [("reason.raised", GONE.text)]


def test_each_reason_is_told_by_one_agent() -> None:
    alpha, beta = Told(), Told()
    on_alpha, on_beta = settled(alpha), settled(beta, "beta")
    alarm = Reason("alarm", "keeper.down of agent-beta", "its own agent tells it")
    for second in range(1, 4):
        for events in (on_alpha, on_beta):
            events.look([GONE, HUNG, alarm], BOTH, second, 0)
    assert (alpha.new(), beta.new()) == (
        [("reason.raised", GONE.text)],
        [("reason.raised", HUNG.text)],
    )


def test_of_a_silent_first_host_the_next_one_tells() -> None:
    told = Told()
    events = settled(told, "beta")
    silent = Reason("host", "alpha", "agent of alpha silent for 3 s")
    for second in range(1, 4):
        events.look([silent], ("beta",), second, 0)
    assert told.new() == [("reason.raised", silent.text)]
    events.look([silent, GONE], ("beta",), 4.0, 0)
    assert told.new() == [("reason.raised", GONE.text)]
    events.look([GONE], BOTH, 7.0, 0)
    assert told.new() == [("reason.cleared", silent.text)]


def test_the_next_agent_tells_no_reason_again_and_its_end() -> None:
    told = Told()
    events = settled(told)
    for second in range(1, 4):
        events.look([GONE], BOTH, second, 0)
    told.new()
    again = ReasonEvents("alpha", told.report, told.all)
    again.look([GONE], BOTH, 100.0, 0)
    assert told.new() == []
    again.look([], BOTH, 101.0, 0)
    assert told.new() == [("reason.cleared", GONE.text)]
