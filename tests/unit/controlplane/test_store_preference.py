"""The endpoint that answers is asked first; one that fails again and again comes after those that do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.store.preference import JUST_NOW_NS, Preference

SECOND_NS = 1_000_000_000


class Clock:
    now_ns = 1000 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


def test_the_one_that_answers_stays_first() -> None:
    preference = Preference(3, Clock())
    preference.failed(0)
    preference.answered(1)
    assert preference.first == 1
    preference.failed(2)
    assert preference.first == 1, "another one failed"


def test_one_that_failed_again_and_again_is_not_asked_next_while_another_works() -> None:
    clock = Clock()
    preference = Preference(3, clock)
    for _ in range(3):
        preference.failed(1)
    clock.now_ns += JUST_NOW_NS - 1
    preference.failed(0)
    assert preference.first == 2
    clock.now_ns += 60 * SECOND_NS  # its open time is over
    preference.failed(2)
    assert preference.first == 0


def test_within_one_call_every_endpoint_is_asked_also_one_whose_breaker_is_open() -> None:
    clock = Clock()
    preference = Preference(3, clock)
    for _ in range(6):
        preference.failed(1)
        clock.now_ns += 2 * SECOND_NS
    asked = []
    for _ in range(3):
        asked.append(preference.first)
        preference.failed(preference.first)
        clock.now_ns += SECOND_NS // 4
    assert sorted(asked) == [0, 1, 2]


def test_a_lone_endpoint_is_always_asked() -> None:
    preference = Preference(1, Clock())
    for _ in range(10):
        preference.failed(0)
        assert preference.first == 0


@given(count=st.integers(1, 5), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=60))
def test_an_endpoint_that_comes_back_is_found_within_one_round(
    count: int, steps: list[tuple[bool, int]]
) -> None:
    """Whatever happened before, and with every breaker open."""
    clock = Clock()
    preference = Preference(count, clock)
    for good, ms in steps:
        (preference.answered if good else preference.failed)(preference.first)
        clock.now_ns += ms * 1_000_000
    clock.now_ns += 2 * SECOND_NS
    asked = set()
    for _ in range(count):
        asked.add(preference.first)
        preference.failed(preference.first)
    assert asked == set(range(count))
