"""Outlier ejection: who is left out, for how long, and when nobody is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidSettings
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry.discovery import EjectionSettings, serving
from controlplane.registry.discovery.ejection import Ejections
from controlplane.registry.discovery.serving import Serving
from controlplane.resilience.ejection import Limits

S = 1_000_000_000
SETTINGS = EjectionSettings(failures=3, first_s=10, max_s=35, forget_s=100)


def instances(count: int, pid: int = 10) -> list[Serving]:
    processes = [Process(f"omsd-alpha-{n:02d}", "boot", pid, 100) for n in range(count)]
    return list(
        serving.serving(
            Registration("omsd", each.instance, "alpha", each, {}, "", 0, 0, "") for each in processes
        )
    )


class Story:
    def __init__(self, count: int, settings: EjectionSettings = SETTINGS) -> None:
        self.all = instances(count)
        self.ejections = Ejections(settings)
        self.now_ns = S

    def call(self, n: int, ok: bool = False, times: int = 1) -> float:
        among = {each.process for each in self.all}
        said = [
            self.ejections.report("omsd", self.all[n].process, ok, among, self.now_ns) for _ in range(times)
        ]
        return said[-1]

    def usable(self) -> list[int]:
        found = self.ejections.usable("omsd", self.all, self.now_ns)
        return [self.all.index(each) for each in found]


def test_failures_in_a_row_eject_and_a_success_between_them_does_not() -> None:
    story = Story(4)
    assert story.call(0, times=2) == 0 and story.call(0, ok=True) == 0 and story.call(0, times=2) == 0
    assert story.usable() == [0, 1, 2, 3]
    assert story.call(0) == 10
    assert story.usable() == [1, 2, 3]


def test_it_is_in_again_when_its_time_is_over_and_not_before() -> None:
    story = Story(4)
    story.call(0, times=3)
    story.now_ns += 10 * S - 1
    assert story.usable() == [1, 2, 3] and story.ejections.next_end_ns(story.now_ns) == story.now_ns + 1
    before_ns = story.now_ns
    story.now_ns += 1
    assert story.usable() == [0, 1, 2, 3] and story.ejections.next_end_ns(story.now_ns) is None
    assert story.ejections.ended(before_ns, story.now_ns) == ["omsd"]
    assert story.ejections.ended(story.now_ns, story.now_ns + S) == []


def test_each_ejection_that_follows_soon_lasts_twice_as_long_up_to_the_longest() -> None:
    story = Story(4)
    lasted = []
    for _ in range(4):
        lasted.append(story.call(0, times=3))
        story.now_ns += int(lasted[-1] * S)
    assert lasted == [10, 20, 35, 35]
    story.now_ns += 100 * S
    assert story.call(0, times=3) == 10, "and after a good time it starts anew"


def test_calls_from_before_the_ejection_that_fail_after_it_do_not_lengthen_it() -> None:
    story = Story(4)
    story.call(0, times=3)
    assert story.call(0, times=50) == 0
    story.now_ns += 10 * S
    assert story.usable() == [0, 1, 2, 3]


@given(
    st.integers(1, 12),
    st.floats(0, 1),
    st.lists(st.tuples(st.integers(0, 11), st.booleans(), st.integers(0, 20)), max_size=120),
)
def test_no_more_than_the_share_is_ever_out_whatever_fails(
    count: int, share: float, calls: list[tuple[int, bool, int]]
) -> None:
    story = Story(count, EjectionSettings(failures=2, first_s=10, limits=Limits(share)))
    for n, ok, passes_s in calls:
        story.call(n % count, ok)
        story.now_ns += passes_s * S
        out = count - len(story.usable())
        assert out <= math.floor(share * count)
        assert out == len(story.ejections.out("omsd", story.now_ns))


@pytest.mark.parametrize(("count", "out"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_by_default_half_may_be_out_and_the_only_one_never_is(count: int, out: int) -> None:
    story = Story(count)
    for n in range(count):
        story.call(n, times=10)
    assert count - len(story.usable()) == out


def test_one_that_had_to_stay_in_is_ejected_when_there_is_room_again() -> None:
    story = Story(2)
    story.call(0, times=3)
    story.call(1, times=3)
    assert story.usable() == [1]
    story.now_ns += 10 * S
    assert story.call(1) == 10 and story.usable() == [0]


def test_when_others_have_left_only_the_longest_out_stay_out() -> None:
    story = Story(4)
    story.call(1, times=3)
    story.now_ns += 1
    story.call(0, times=3)
    left = [story.all.pop(), story.all.pop()]  # those that were in
    assert story.usable() == [0], "one of two"
    story.all.append(left.pop())
    assert story.usable() == [0, 2], "one of three"
    story.all.append(left.pop())
    assert story.usable() == [2, 3]


def test_what_is_held_against_a_process_ends_with_it() -> None:
    story = Story(4)
    story.call(0, times=3)
    story.all = instances(4, pid=11)
    assert story.usable() == [0, 1, 2, 3]
    story.ejections.keep("omsd", [each.process for each in story.all])
    assert not story.ejections.holds("omsd")


def test_a_process_that_does_not_serve_and_a_success_leave_no_trace() -> None:
    story = Story(2)
    gone = Process("omsd-alpha-99", "boot", 1, 1)
    assert story.ejections.report("omsd", gone, False, {each.process for each in story.all}, S) == 0
    story.call(0, ok=True, times=100)
    assert not story.ejections.holds("omsd")


def test_without_a_number_of_failures_nothing_is_ejected() -> None:
    story = Story(4, EjectionSettings(failures=0))
    story.call(0, times=100)
    assert story.usable() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [{"failures": -1}, {"first_s": 0}, {"first_s": 400}],
)
def test_settings_that_do_not_fit_together_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings, match="ejection"):
        EjectionSettings(**wrong)  # type: ignore[arg-type]
