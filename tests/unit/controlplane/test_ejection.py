"""Breakers and balancing together never leave out all, and none when too few are left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidSettings
from controlplane.resilience.ejection import Limits, left_out

NAMES = [f"riskd-{n}" for n in range(10)]


def test_the_longest_out_stay_out_up_to_the_cap() -> None:
    assert left_out(NAMES, [], NAMES[::-1], Limits(out_share_max=0.3)) == {"riskd-9", "riskd-8", "riskd-7"}


def test_what_fails_its_check_counts_towards_the_cap() -> None:
    limits = Limits(out_share_max=0.3)
    assert left_out(NAMES, ["riskd-0", "riskd-1"], ["riskd-5", "riskd-6"], limits) == {
        "riskd-0",
        "riskd-1",
        "riskd-5",
    }


def test_all_are_asked_when_fewer_than_half_would_be_left() -> None:
    assert left_out(NAMES, NAMES[:5], [], Limits()) == set(NAMES[:5])
    assert left_out(NAMES, NAMES[:6], [], Limits()) == set()


def test_the_only_instance_is_never_left_out() -> None:
    assert left_out(["riskd-0"], [], ["riskd-0"]) == set()


@given(
    count=st.integers(0, 10),
    unhealthy=st.sets(st.sampled_from(NAMES)),
    wanted=st.lists(st.sampled_from([*NAMES, "gone"])),
    cap=st.floats(0, 1),
    panic=st.floats(0, 1),
)
def test_what_is_left_out_is_bounded_and_known(
    count: int, unhealthy: set[str], wanted: list[str], cap: float, panic: float
) -> None:
    names = NAMES[:count]
    out = left_out(names, unhealthy, wanted, Limits(cap, panic))
    assert out <= set(names)
    assert len(out - unhealthy) <= cap * count
    assert not out or count - len(out) >= panic * count


@pytest.mark.parametrize("wrong", [(-0.1, 0.5), (1.1, 0.5), (0.5, -1), (0.5, 2)])
def test_a_share_that_is_none_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(InvalidSettings, match="from 0 to 1"):
        Limits(*wrong)
