"""A breaker opens after failures enough, lets a few through after a while, and drops what comes too late."""

from __future__ import annotations

import pytest

from controlplane.resilience import backoff, windows
from controlplane.resilience.breaker import FORCED, MOVES, Breaker, Settings, State, Transition
from controlplane.resilience.outcome import Outcome

S = 1_000_000_000
OK, FAIL, SLOW, IGNORE = Outcome.OK, Outcome.FAIL, Outcome.SLOW, Outcome.IGNORE


def call(breaker: Breaker, outcome: Outcome, now_ns: int, took_ns: int = 0) -> None:
    permit = breaker.permit(now_ns)
    assert permit is not None
    breaker.record(permit, outcome, now_ns, took_ns)


def opened(now_ns: int = 0, **settings: object) -> Breaker:
    breaker = Breaker("riskd", Settings(**settings))  # type: ignore[arg-type]
    for _ in range(5):
        call(breaker, FAIL, now_ns)
    return breaker


def half_open(**settings: object) -> Breaker:
    breaker = opened(**settings)
    breaker.look(30 * S)
    assert breaker.state is State.HALF_OPEN
    return breaker


def test_five_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker("riskd")
    for outcome in (FAIL, FAIL, FAIL, FAIL, OK, FAIL, FAIL, FAIL, FAIL):
        call(breaker, outcome, 0)
    assert breaker.state is State.CLOSED
    call(breaker, FAIL, 7)
    assert (breaker.state, breaker.reason, breaker.since_ns) == (State.OPEN, "5 failures in a row", 7)
    assert breaker.permit(8) is None
    assert breaker.tally.refused == 1


def test_it_is_tried_after_thirty_seconds_and_not_before() -> None:
    breaker = opened()
    assert breaker.permit(30 * S - 1) is None
    assert breaker.permit(30 * S) is not None
    assert breaker.state is State.HALF_OPEN


def test_two_successes_close_it_and_one_failure_opens_it_again() -> None:
    breaker = half_open()
    call(breaker, OK, 30 * S)
    assert breaker.state is State.HALF_OPEN
    call(breaker, OK, 30 * S)
    assert breaker.state is State.CLOSED
    again = half_open()
    call(again, OK, 31 * S)
    call(again, FAIL, 31 * S)
    assert (again.state, again.until_ns) == (State.OPEN, 61 * S)


def test_an_answer_that_is_slow_while_half_open_opens_it_again() -> None:
    breaker = half_open(slow_s=0.1, window=windows.Consecutive())
    call(breaker, OK, 31 * S, took_ns=S // 10 + 1)
    assert breaker.state is State.OPEN


def test_permits_are_counted_while_half_open_and_given_back() -> None:
    breaker = half_open()
    first, second = breaker.permit(30 * S), breaker.permit(30 * S)
    assert first is not None
    assert second is not None
    assert breaker.permit(30 * S) is None
    breaker.release(first)
    assert breaker.permit(30 * S) is not None
    assert breaker.permit(30 * S) is None


def test_permits_that_are_never_given_back_do_not_keep_it_half_open_for_ever() -> None:
    breaker = half_open(permit_lost_s=10.0)
    breaker.permit(30 * S)
    breaker.permit(31 * S)
    breaker.look(41 * S - 1)
    assert breaker.state is State.HALF_OPEN
    breaker.look(41 * S)
    assert (breaker.state, breaker.reason) == (
        State.OPEN,
        "calls made while half-open were never answered",
    )


def test_a_result_of_an_earlier_state_is_dropped() -> None:
    """What hangs since the outage ends while the callee is tried: it judges nothing and frees no permit."""
    breaker = Breaker("riskd")
    old = [breaker.permit(0) for _ in range(4)]
    for _ in range(5):
        call(breaker, FAIL, 0)
    new = [breaker.permit(30 * S), breaker.permit(30 * S)]
    assert None not in new
    for permit, outcome in zip(old, (FAIL, OK, IGNORE, SLOW), strict=True):
        assert permit is not None
        breaker.record(permit, outcome, 30 * S)
    assert breaker.state is State.HALF_OPEN
    assert breaker.permit(30 * S) is None, "a late result freed a permit"
    assert (breaker.tally.late, breaker.tally.ignored) == (3, 1)


def test_each_failed_trial_doubles_the_open_time_up_to_the_cap() -> None:
    breaker = opened(open=backoff.Policy(first_s=1.0, factor=2.0, max_s=5.0))
    now_ns, waits = 0, []
    for _ in range(5):
        assert breaker.until_ns is not None
        waits.append((breaker.until_ns - now_ns) // S)
        now_ns = breaker.until_ns
        call(breaker, FAIL, now_ns)
    assert waits == [1, 2, 4, 5, 5]


def test_a_breaker_that_was_closed_again_starts_with_the_first_open_time() -> None:
    breaker = opened(open=backoff.Policy(first_s=1.0, factor=2.0, max_s=60.0))
    call(breaker, FAIL, S)
    assert breaker.until_ns == 3 * S
    for _ in range(2):
        call(breaker, OK, 3 * S)
    for _ in range(5):
        call(breaker, FAIL, 4 * S)
    assert breaker.until_ns == 5 * S


def test_jitter_spreads_the_moment_of_the_trial() -> None:
    policy = backoff.Policy(first_s=10.0, factor=1.0, max_s=10.0, jitter=0.5)
    ends = []
    for random in (0.0, 0.5, 0.999):
        breaker = Breaker("riskd", Settings(open=policy), random=lambda x=random: x)  # type: ignore[misc]
        for _ in range(5):
            call(breaker, FAIL, 0)
        ends.append(breaker.until_ns)
    assert ends == [5 * S, int(7.5 * S), pytest.approx(10 * S, abs=S // 100)]


def test_a_count_window_opens_at_its_failure_rate_once_there_are_calls_enough() -> None:
    breaker = Breaker("x", Settings(window=windows.Count(calls=10, min_calls=4, failure_rate=0.5)))
    for outcome in (FAIL, FAIL, FAIL):
        call(breaker, outcome, 0)
    assert breaker.state is State.CLOSED, "three calls are no rate"
    call(breaker, OK, 0)
    assert breaker.state is State.CLOSED, "a success opens no breaker"
    call(breaker, FAIL, 0)
    assert (breaker.state, breaker.reason) == (State.OPEN, "4 of 5 calls failed")


def test_a_count_window_forgets_the_oldest_call() -> None:
    breaker = Breaker("x", Settings(window=windows.Count(calls=4, min_calls=4, failure_rate=0.75)))
    for outcome in (FAIL, FAIL, OK, OK, FAIL, FAIL):
        call(breaker, outcome, 0)
    assert breaker.window.rates(0) == (4, 2, 0)
    call(breaker, FAIL, 0)
    assert breaker.state is State.OPEN


def test_a_time_window_forgets_a_tenth_at_a_time() -> None:
    breaker = Breaker("x", Settings(window=windows.Time(seconds=10.0, min_calls=100)))
    for second in range(10):
        call(breaker, FAIL, second * S)
    assert breaker.window.rates(10 * S - 1) == (10, 10, 0)
    assert breaker.window.rates(10 * S) == (9, 9, 0)
    assert breaker.window.rates(12 * S) == (7, 7, 0)
    assert breaker.window.rates(10_000 * S) == (0, 0, 0)


def test_a_time_window_opens_at_its_slow_call_rate() -> None:
    settings = Settings(window=windows.Time(min_calls=4, slow_rate=0.5), slow_s=0.1)
    breaker = Breaker("x", settings)
    for took_ns in (0, S // 10, S, S - 1):
        call(breaker, OK, S, took_ns)
    assert (breaker.state, breaker.reason) == (State.OPEN, "2 of 4 calls were slow")
    assert (breaker.tally.ok, breaker.tally.slow) == (2, 2)


def test_what_its_caller_calls_slow_counts_as_slow() -> None:
    breaker = Breaker("x", Settings(window=windows.Count(calls=4, min_calls=2, slow_rate=1.0)))
    call(breaker, SLOW, 0)
    call(breaker, SLOW, 0)
    assert breaker.state is State.OPEN


def test_a_rate_above_one_never_opens_it() -> None:
    breaker = Breaker("x", Settings(window=windows.Count(calls=4, min_calls=1, failure_rate=1.1), slow_s=0.1))
    for _ in range(20):
        call(breaker, FAIL, 0, took_ns=S)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(
    "window", [windows.Consecutive(), windows.Count(min_calls=1), windows.Time(min_calls=1)]
)
def test_a_call_that_is_ignored_counts_neither_way(window: windows.Kind) -> None:
    breaker = Breaker("x", Settings(window=window))
    for _ in range(20):
        call(breaker, IGNORE, 0)
    assert (breaker.state, breaker.window.rates(0)) == (State.CLOSED, (0, 0, 0))
    assert breaker.tally.ignored == 20


def test_forced_open_refuses_until_its_end_whatever_calls_do() -> None:
    breaker = Breaker("x")
    inside = breaker.permit(0)
    breaker.force(State.FORCED_OPEN, 0, "the venue asked for it", until_ns=60 * S)
    assert inside is not None
    breaker.record(inside, OK, S)
    assert breaker.permit(60 * S - 1) is None
    assert breaker.reason == "the venue asked for it"
    assert breaker.permit(60 * S) is not None
    assert breaker.state is State.CLOSED


def test_forced_open_without_an_end_waits_for_auto() -> None:
    breaker = Breaker("x")
    breaker.force(State.FORCED_OPEN, 0, "maintenance")
    assert breaker.permit(10**6 * S) is None
    breaker.auto(10**6 * S, "done")
    assert breaker.permit(10**6 * S) is not None


def test_disabled_and_metrics_only_let_every_call_pass() -> None:
    for state, counted in ((State.DISABLED, 0), (State.METRICS_ONLY, 20)):
        breaker = Breaker("x", Settings(window=windows.Count(min_calls=1)))
        breaker.force(state, 0, "tuning")
        for _ in range(20):
            call(breaker, FAIL, 0)
        assert breaker.state is state
        assert breaker.window.rates(0)[1] == counted
        assert breaker.tally.failed == 20


def test_forcing_the_same_again_changes_reason_and_end_and_drops_no_result() -> None:
    breaker = Breaker("x")
    breaker.force(State.METRICS_ONLY, 0, "tuning", until_ns=S)
    permit = breaker.permit(0)
    breaker.force(State.METRICS_ONLY, 0, "still tuning", until_ns=5 * S)
    assert permit is not None
    breaker.record(permit, FAIL, 2 * S)
    assert (breaker.reason, breaker.until_ns, breaker.tally.failed) == ("still tuning", 5 * S, 1)


def test_auto_of_a_breaker_that_nobody_forced_is_nothing() -> None:
    breaker = opened()
    breaker.auto(S, "no reason")
    assert breaker.state is State.OPEN


def brought_to(state: State) -> Breaker:
    if state is State.CLOSED:
        return Breaker("x")
    if state is State.OPEN:
        return opened()
    if state is State.HALF_OPEN:
        return half_open()
    breaker = Breaker("x")
    breaker.force(state, 0, "test")
    return breaker


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_every_edge_of_the_table_is_walked_and_no_other(old: State, new: State) -> None:
    seen: list[Transition] = []
    breaker = brought_to(old)
    breaker._on_transition = seen.append
    now_ns = 100 * S
    if new in FORCED:
        breaker.force(new, now_ns, "test")
    elif new is State.OPEN:
        for _ in range(5):
            permit = breaker.permit(29 * S)
            if permit is not None and breaker.state is not State.OPEN:
                breaker.record(permit, FAIL, 29 * S)
    elif new is State.HALF_OPEN:
        breaker.look(now_ns)
    else:
        for _ in range(2):
            permit = breaker.permit(29 * S)
            if permit is not None:
                breaker.record(permit, OK, 29 * S)
        breaker.auto(now_ns, "test")
    moved = [(each.old, each.new) for each in seen]
    assert moved == ([(old, new)] if new in MOVES[old] else [])


def test_a_move_that_is_not_in_the_table_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="closed to half_open"):
        Breaker("x")._move(State.HALF_OPEN, 0, "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: windows.Consecutive(failures=0), "failures: 0"),
        (lambda: windows.Count(calls=10, min_calls=11), "min_calls: 11"),
        (lambda: windows.Count(min_calls=0), "min_calls: 0"),
        (lambda: windows.Count(failure_rate=0.0), "failure_rate: 0.0"),
        (lambda: windows.Time(slow_rate=float("nan")), "slow_rate: nan"),
        (lambda: windows.Time(seconds=0.0), "seconds: 0.0"),
        (lambda: Settings(success_threshold=0), "success_threshold: 0"),
        (lambda: Settings(half_open_permits=0), "half_open_permits: 0"),
        (lambda: Settings(slow_s=0.0), "slow_s: 0.0"),
        (lambda: Breaker("x").force(State.OPEN, 0, ""), "open: not a state that is forced"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()  # type: ignore[operator]


# --- other settings while it runs ---------------------------------------------------------------------------


def test_a_row_of_failures_goes_on_under_other_settings() -> None:
    breaker = Breaker("riskd")
    for _ in range(4):
        call(breaker, FAIL, 0)
    breaker.configure(Settings(windows.Consecutive(3)))
    assert breaker.state is State.CLOSED and breaker.tally.failed == 4
    call(breaker, FAIL, 0)
    assert (breaker.state, breaker.reason) == (State.OPEN, "5 failures in a row")


def test_an_open_breaker_is_tried_when_the_new_settings_say_if_that_is_sooner() -> None:
    breaker = opened(open=backoff.Policy(first_s=30, factor=1, max_s=30))
    breaker.configure(Settings(open=backoff.Policy(first_s=60, factor=1, max_s=60)))
    assert breaker.until_ns == 30 * S
    breaker.configure(Settings(open=backoff.Policy(first_s=2, factor=1, max_s=2)))
    assert (breaker.state, breaker.until_ns) == (State.OPEN, 2 * S)
    breaker.look(2 * S)
    assert breaker.state is State.HALF_OPEN
    breaker.configure(Settings(success_threshold=1))
    call(breaker, OK, 3 * S)
    assert breaker.state is State.CLOSED


def test_what_an_operator_has_forced_stays_under_other_settings() -> None:
    breaker = Breaker("riskd")
    breaker.force(State.FORCED_OPEN, 0, "maintenance", 9 * S)
    breaker.configure(Settings(windows.Count(), slow_s=0.5))
    assert (breaker.state, breaker.reason, breaker.until_ns) == (State.FORCED_OPEN, "maintenance", 9 * S)
    breaker.look(9 * S)
    call(breaker, OK, 9 * S, took_ns=S)
    assert breaker.tally.slow == 1 and breaker.window.rates(9 * S) == (1, 0, 1)
