"""What results of checks mean: states that change only when results in a row agree, the worst that wins, and
a schedule in which nothing runs in lockstep.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from controlplane import health
from controlplane.health import Finding, Standing, schedule
from controlplane.health.standing import ORDER
from controlplane.model import checks

STATES = st.sampled_from(ORDER)
RESULTS = st.lists(STATES, max_size=40)


def check(**fields: object) -> checks.TcpCheck:
    return checks.TcpCheck(name="port", address="a:1", **fields)  # type: ignore[arg-type]


def after(results: list[str], terms: checks.Check, begun: Standing | None = None) -> Standing:
    standing = begun or Standing.initial(terms, 0.0)
    for at, result in enumerate(results):
        standing = standing.take(result, f"result {at}", terms, float(at))  # type: ignore[arg-type]
    return standing


def test_it_is_critical_after_so_many_failures_in_a_row_and_passing_after_so_many_successes() -> None:
    terms = check(failures=3, successes=2, initial="passing")
    assert after(["critical", "critical"], terms).state == "passing"
    assert after(["critical", "critical", "passing", "critical", "critical"], terms).state == "passing"
    fallen = after(["critical"] * 3, terms)
    assert (fallen.state, fallen.since_s, fallen.output) == ("critical", 2.0, "result 2")
    assert after(["passing"], terms, fallen).state == "critical"
    assert after(["passing", "critical", "passing"], terms, fallen).state == "critical"
    assert after(["passing", "passing"], terms, fallen).state == "passing"


def test_what_hovers_between_warning_and_critical_settles_at_warning() -> None:
    terms = check(failures=2, initial="passing")
    assert after(["warning", "critical"], terms).state == "warning"
    assert after(["warning", "critical", "critical"], terms).state == "critical"


def test_since_when_is_the_moment_of_the_change_and_the_output_that_of_the_last_result() -> None:
    standing = after(["passing"] * 5, check())
    assert (standing.since_s, standing.output) == (0.0, "result 4")


def test_before_its_first_results_it_is_what_its_terms_say() -> None:
    assert Standing.initial(check(), 7.0) == Standing("warning", 7.0, "not checked yet")
    assert Standing.initial(check(initial="critical"), 7.0).state == "critical"


def test_critical_for_long_enough_it_takes_the_registration_out_until_it_passes_again() -> None:
    terms = check(failures=1, deregister_after_s=90)
    fallen = after(["critical"], terms)
    assert not fallen.look(terms, 89.9).out
    out = fallen.look(terms, 90.0)
    assert out.out
    assert out.take("warning", "", terms, 91.0).out, "better, and not well"
    assert not out.take("passing", "", terms, 91.0).out
    assert not fallen.look(check(failures=1, deregister_after_s=0), 1e9).out, "0: never"
    assert not out.under(check(deregister_after_s=0)).out, "the terms changed"


@given(RESULTS, st.integers(1, 10), st.integers(1, 10), STATES)
def test_a_state_changes_only_when_the_last_results_all_agree(
    results: list[str], failures: int, successes: int, initial: str
) -> None:
    terms = check(failures=failures, successes=successes, initial=initial)
    standing, seen = Standing.initial(terms, 0.0), []
    for at, result in enumerate(results):
        seen.append(result)
        now = standing.take(result, "", terms, float(at))  # type: ignore[arg-type]
        if now.state != standing.state:
            worse = ORDER.index(now.state) > ORDER.index(standing.state)
            last = seen[-(failures if worse else successes) :]
            assert len(last) == (failures if worse else successes)
            levels = [ORDER.index(each) for each in last]  # type: ignore[arg-type]
            assert ORDER.index(now.state) == (min(levels) if worse else max(levels))
            assert now.since_s == at
        else:
            assert now.since_s == standing.since_s
        standing = now
        assert len(standing.recent) <= max(failures, successes)


@given(RESULTS, st.integers(1, 10), st.integers(1, 10), STATES, STATES)
def test_enough_equal_results_decide_whatever_was_before(
    results: list[str], failures: int, successes: int, initial: str, last: str
) -> None:
    terms = check(failures=failures, successes=successes, initial=initial)
    assert after([*results, *[last] * max(failures, successes)], terms).state == last


def test_the_worst_check_is_the_health_and_is_named() -> None:
    assert health.fold([]) == ("passing", "")
    assert health.fold([Finding("", "passing"), Finding("web", "passing", "200")]) == ("passing", "")
    found = [
        Finding("", "warning", "starting"),
        Finding("web", "critical", "refused\nhere"),
        Finding("b", "critical"),
    ]
    assert health.fold(found) == ("critical", "check web: refused here; check b: no output")
    found = [Finding("", "critical", "exit status 1"), Finding("", "critical", "no process")]
    assert health.fold(found) == ("critical", "exit status 1")
    assert len(health.fold([Finding("web", "warning", "x" * 9000)])[1]) < 250


@given(st.lists(st.tuples(STATES, st.text())))
def test_the_health_is_never_better_than_a_check(found: list[tuple[str, str]]) -> None:
    state, reason = health.fold(Finding(f"c{n}", s, text) for n, (s, text) in enumerate(found))  # type: ignore[arg-type]
    assert state == health.worst(each for each, _ in found)  # type: ignore[misc]
    assert bool(reason) == (state != "passing") and "\n" not in reason


def test_what_everybody_may_read_has_no_output_of_a_check() -> None:
    for reason, shown in (
        ("", ""),
        ("the disk is full", "the disk is full"),
        ("check web: 500: token=abc; check b: x", "check web"),
        (
            "web-1: running, critical: starting; check a_b-c: line\nsecret",
            "web-1: running, critical: starting; check a_b-c",
        ),
    ):
        assert health.without_outputs(reason) == shown


def test_a_service_is_as_its_instances_are() -> None:
    assert health.of_service("a", ["passing", "passing"], 2)[0] == "passing"
    assert health.of_service("a", ["passing", "critical"], 2) == ("warning", "a: 1 of 2 instances passing")
    assert health.of_service("a", ["passing"], 2)[0] == "warning", "one that nobody reports"
    assert health.of_service("a", ["warning", "critical"], 2)[0] == "critical"
    assert health.of_service("a", [], 0)[0] == "critical"


@given(
    st.text(max_size=80),
    st.floats(0.1, 86_400),
    st.floats(0, 1e7),
    st.lists(st.floats(0, 0.999), max_size=20),
)
def test_the_next_look_is_neither_at_once_nor_much_later_than_the_interval(
    key: str, interval_s: float, now_s: float, chances: list[float]
) -> None:
    slack_s = 1e-6 * max(1.0, interval_s)
    assert now_s <= health.first_s(key, interval_s, now_s) <= now_s + min(interval_s, 2.0)
    for chance in chances:
        due_s = health.next_s(key, interval_s, now_s, chance)
        assert now_s + 0.25 * interval_s - slack_s <= due_s <= now_s + 1.35 * interval_s + slack_s
        now_s = due_s


@given(st.text(max_size=80), st.floats(0.1, 3600), st.lists(st.floats(0, 0.999), min_size=3, max_size=50))
def test_looks_that_take_no_time_come_an_interval_apart(
    key: str, interval_s: float, chances: list[float]
) -> None:
    times = [health.next_s(key, interval_s, 0.0, 0.5)]
    for chance in chances:
        times.append(health.next_s(key, interval_s, times[-1], chance))
    assert all(abs(b - a - interval_s) <= 0.1 * interval_s + 1e-6 for a, b in pairwise(times))
    assert abs((times[-1] - times[0]) / len(chances) - interval_s) <= 0.1 * interval_s


def test_a_thousand_checks_of_one_interval_are_spread_over_it() -> None:
    keys = [f"svc-alpha-{n}/http" for n in range(1000)]
    due = [health.next_s(key, 10.0, 5000.0, 0.5) for key in keys]
    in_tenths = Counter(int(each * 10) for each in due)
    assert len(in_tenths) > 80, "hardly a tenth of a second without one"
    assert max(in_tenths.values()) < 35, "and none with many: 10 in the mean"
    first = Counter(int(health.first_s(key, 10.0, 5000.0) * 10) for key in keys)
    assert max(first.values()) < 100, "the first looks are spread as well: 50 in the mean"
    assert schedule.phase("a") == schedule.phase("a") != schedule.phase("b")


def test_two_checks_at_the_same_place_drift_apart() -> None:
    together = health.next_s("a", 10.0, 0.0, 0.5)
    assert abs(health.next_s("a", 10.0, together, 0.1) - health.next_s("a", 10.0, together, 0.9)) > 0.5
