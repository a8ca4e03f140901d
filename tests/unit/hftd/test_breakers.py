"""A daemon tells of its breakers, and an operator's override reaches them."""

from __future__ import annotations

from typing import Any

from controlplane.resilience.breaker import Settings, State
from controlplane.resilience.outcome import Outcome
from hftd.runtime.breakers import Breakers
from hftd.wire.control import OverrideOnWire

S = 1_000_000_000


class Daemon:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.counters: dict[str, int] = {}
        self.gauges: dict[str, float] = {}
        self.alarms: list[tuple[str, bool]] = []
        self.breakers = Breakers(
            lambda kind, **fields: self.events.append((kind, fields)),
            lambda id, text: self.alarms.append((id, bool(text))),
            self.counters,
            self.gauges,
        )
        self.one = self.breakers.add("omsd.execd", Settings())


def override(until_boot_ns: int = 0, state: str = "forced_open", name: str = "omsd.execd") -> OverrideOnWire:
    return OverrideOnWire(name, state, "venue asked", until_boot_ns)


def test_a_change_of_state_is_an_event_and_counts() -> None:
    daemon = Daemon()
    for _ in range(5):
        permit = daemon.one.permit(S)
        assert permit is not None
        daemon.one.record(permit, Outcome.FAIL, S)
    daemon.one.permit(S)
    daemon.breakers.each_second(S)
    assert daemon.events == [
        ("breaker.open", {"breaker": "omsd.execd", "was": "closed", "reason": "5 failures in a row"})
    ]
    assert daemon.counters['breaker_transitions{breaker="omsd.execd",to="open"}'] == 1
    assert daemon.counters['breaker_calls{breaker="omsd.execd",kind="failed"}'] == 5
    assert daemon.counters['breaker_calls{breaker="omsd.execd",kind="refused"}'] == 1
    assert daemon.gauges == {'breaker_state{breaker="omsd.execd"}': 1}
    (row,) = daemon.breakers.rows(S, 1000 * S)
    assert (row.state, row.forced, row.calls, row.failures, row.refused) == ("open", False, 5, 5, 1)
    assert row.until_ns == 1030 * S


def test_an_override_is_obeyed_until_it_is_taken_back() -> None:
    daemon = Daemon()
    daemon.breakers.override([override(), override(name="execd.simd")], S, 500 * S)
    (row,) = daemon.breakers.rows(S, S)
    assert (row.state, row.forced, row.reason, row.until_ns) == ("forced_open", True, "venue asked", 0)
    assert daemon.one.permit(10**6 * S) is None
    daemon.breakers.override([override(name="execd.simd")], 2 * S, 501 * S)
    assert daemon.one.state is State.CLOSED


def test_an_override_ends_in_boot_time_without_a_word_of_the_agent() -> None:
    """CLOCK_BOOTTIME runs on while the machine sleeps; what is left is what counts."""
    daemon = Daemon()
    daemon.breakers.override([override(until_boot_ns=560 * S)], S, 500 * S)
    assert daemon.one.permit(61 * S - 1) is None
    assert daemon.one.permit(61 * S) is not None
    daemon.breakers.override([override(until_boot_ns=560 * S)], 62 * S, 561 * S)
    assert daemon.one.state is State.CLOSED, "told again of one that is over"


def test_a_message_about_others_leaves_a_breaker_that_is_open_as_it_is() -> None:
    daemon = Daemon()
    for _ in range(5):
        permit = daemon.one.permit(S)
        assert permit is not None
        daemon.one.record(permit, Outcome.FAIL, S)
    daemon.breakers.override([], S, S)
    assert daemon.one.state is State.OPEN


def test_an_alarm_stands_until_calls_pass_again() -> None:
    daemon, alarm = Daemon(), "breaker_open.omsd.execd"
    for _ in range(5):
        permit = daemon.one.permit(S)
        assert permit is not None
        daemon.one.record(permit, Outcome.FAIL, S)
    assert daemon.alarms == [(alarm, True)]
    for _ in range(2):
        permit = daemon.one.permit(40 * S)
        assert permit is not None
        assert daemon.alarms[-1] == (alarm, True), "on trial"
        daemon.one.record(permit, Outcome.OK, 40 * S)
    assert daemon.alarms[-1] == (alarm, False)
    daemon.breakers.override([override()], S, S)
    assert daemon.alarms[-1] == (alarm, True)
    daemon.breakers.override([override(state="metrics_only")], S, S)
    assert daemon.alarms[-1] == (alarm, False)
