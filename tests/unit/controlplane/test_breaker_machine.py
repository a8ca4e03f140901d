"""A breaker beside a model that keeps every call and looks at all of them each time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from controlplane.resilience import backoff, windows
from controlplane.resilience.breaker import FORCED, Breaker, Settings, State
from controlplane.resilience.outcome import Outcome

MS = 1_000_000
SLOW_MS = 50
OPEN_MS, OPEN_MAX_MS = 400, 1600
LOST_MS = 1000


@dataclass
class Seen:
    at_ns: int
    failed: bool
    slow: bool


class Model:
    """What the documentation says, without a thought for speed."""

    def __init__(self, window: windows.Kind) -> None:
        self.window = window
        self.state, self.calls, self.number = State.CLOSED, list[Seen](), 1
        self.out, self.succeeded, self.openings = list[int](), 0, 0
        self.until_ns: int | None = None

    def move(self, state: State, until_ns: int | None = None) -> None:
        self.state, self.until_ns, self.calls, self.out, self.succeeded = state, until_ns, [], [], 0
        self.number += 1

    def open(self, now_ns: int) -> None:
        open_ms = min(OPEN_MAX_MS, OPEN_MS * 2**self.openings)
        self.openings += 1
        self.move(State.OPEN, now_ns + open_ms * MS)

    def look(self, now_ns: int) -> None:
        if self.state is State.HALF_OPEN:
            if len(self.out) == 2 and now_ns - self.out[-1] >= LOST_MS * MS:
                self.open(now_ns)
        elif self.until_ns is not None and now_ns >= self.until_ns:
            if self.state is State.OPEN:
                self.move(State.HALF_OPEN)
            else:
                self.openings = 0
                self.move(State.CLOSED)

    def permit(self, now_ns: int) -> int | None:
        self.look(now_ns)
        if self.state in (State.OPEN, State.FORCED_OPEN):
            return None
        if self.state is State.HALF_OPEN:
            if len(self.out) == 2:
                return None
            self.out.append(now_ns)
        return self.number

    def record(self, number: int, outcome: Outcome, now_ns: int, took_ns: int) -> None:
        if number != self.number:
            return
        if outcome is Outcome.IGNORE:
            if self.state is State.HALF_OPEN and self.out:
                self.out.pop(0)
            return
        seen = Seen(now_ns, outcome is Outcome.FAIL, outcome is Outcome.SLOW or took_ns > SLOW_MS * MS)
        if self.state is State.HALF_OPEN:
            self.out[:1] = []
            if seen.failed or seen.slow:
                self.open(now_ns)
                return
            self.succeeded += 1
            if self.succeeded == 2:
                self.openings = 0
                self.move(State.CLOSED)
        elif self.state is not State.DISABLED:
            self.calls.append(seen)
            if (seen.failed or seen.slow) and self.state is State.CLOSED and self.too_much(now_ns):
                self.open(now_ns)

    def in_window(self, now_ns: int) -> list[Seen]:
        match self.window:
            case windows.Consecutive():
                tail: list[Seen] = []
                for each in reversed(self.calls):
                    if not each.failed:
                        break
                    tail.append(each)
                return tail
            case windows.Count(calls=calls):
                return self.calls[-calls:]
            case windows.Time(seconds=seconds):
                tenth_ns = int(seconds * 1e9) // 10
                return [each for each in self.calls if each.at_ns // tenth_ns > now_ns // tenth_ns - 10]

    def too_much(self, now_ns: int) -> bool:
        calls = self.in_window(now_ns)
        if isinstance(self.window, windows.Consecutive):
            return len(calls) >= self.window.failures
        failed, slow = sum(each.failed for each in calls), sum(each.slow for each in calls)
        too_many_failed = failed > 0 and failed >= self.window.failure_rate * len(calls)
        too_many_slow = slow > 0 and slow >= self.window.slow_rate * len(calls)
        return len(calls) >= self.window.min_calls and (too_many_failed or too_many_slow)


class Machine(RuleBasedStateMachine):
    window: windows.Kind = windows.Consecutive(failures=3)
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 5_000_000 * MS
        self.breaker = Breaker(
            "x",
            Settings(
                window=self.window,
                open=backoff.Policy(first_s=OPEN_MS / 1000, factor=2, max_s=OPEN_MAX_MS / 1000),
                slow_s=SLOW_MS / 1000,
                permit_lost_s=LOST_MS / 1000,
            ),
        )
        self.model = Model(self.window)
        self.granted = self.ended = 0

    @rule(ms=st.integers(1, 900))
    def time_passes(self, ms: int) -> None:
        self.now_ns += ms * MS

    @rule(target=permits)
    def a_call_begins(self) -> int | None:
        permit = self.breaker.permit(self.now_ns)
        assert permit == self.model.permit(self.now_ns)
        self.granted += permit is not None
        return permit

    @rule(
        permit=consumes(permits), outcome=st.sampled_from(Outcome), took_ms=st.sampled_from([0, 50, 51, 300])
    )
    def a_call_ends(self, permit: int | None, outcome: Outcome, took_ms: int) -> None:
        if permit is not None:
            self.breaker.record(permit, outcome, self.now_ns, took_ms * MS)
            self.model.record(permit, outcome, self.now_ns, took_ms * MS)
            self.ended += 1

    @rule(outcomes=st.lists(st.sampled_from([Outcome.OK, Outcome.FAIL, Outcome.SLOW]), max_size=8))
    def calls_one_after_the_other(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.a_call_ends(self.a_call_begins(), outcome, 0)

    @rule(calls=st.integers(1, 12))
    def many_plain_successes(self, calls: int) -> None:
        """As guard.py counts them."""
        self.breaker.look(self.now_ns)
        self.model.look(self.now_ns)
        if self.breaker.state in (State.CLOSED, State.METRICS_ONLY, State.DISABLED):
            self.breaker.record_plain(calls, self.now_ns)
            for _ in range(calls):
                self.model.record(self.model.number, Outcome.OK, self.now_ns, 0)
            self.granted += calls
            self.ended += calls

    @rule(state=st.sampled_from(sorted(FORCED, key=str)), ms=st.none() | st.integers(1, 2000))
    def an_operator_forces(self, state: State, ms: int | None) -> None:
        until_ns = None if ms is None else self.now_ns + ms * MS
        self.breaker.force(state, self.now_ns, "test", until_ns)
        if self.model.state is state:
            self.model.until_ns = until_ns
        else:
            self.model.move(state, until_ns)

    @precondition(lambda self: self.model.state in FORCED)
    @rule()
    def an_operator_lets_go(self) -> None:
        self.breaker.auto(self.now_ns, "test")
        self.model.openings = 0
        self.model.move(State.CLOSED)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert (self.breaker.state, self.breaker.until_ns) == (self.model.state, self.model.until_ns)
        assert self.breaker.generation == self.model.number

    @invariant()
    def both_count_the_same_calls(self) -> None:
        calls = self.model.in_window(self.now_ns)
        failed, slow = sum(each.failed for each in calls), sum(each.slow for each in calls)
        if isinstance(self.window, windows.Consecutive):
            slow = 0
        assert self.breaker.window.rates(self.now_ns) == (len(calls), failed, slow)

    @invariant()
    def each_call_that_ended_is_counted_once(self) -> None:
        tally = self.breaker.tally
        assert tally.ok + tally.failed + tally.slow + tally.ignored + tally.late == self.ended


class CountMachine(Machine):
    window = windows.Count(calls=10, min_calls=4, failure_rate=0.5, slow_rate=0.6)


class TimeMachine(Machine):
    window = windows.Time(seconds=1.0, min_calls=4, failure_rate=0.5, slow_rate=0.6)


for machine in (Machine, CountMachine, TimeMachine):
    machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestConsecutive = Machine.TestCase
TestCount = CountMachine.TestCase
TestTime = TimeMachine.TestCase
