"""The budget's promise: with whatever passes `checked`, the old leader's last order is out before the new
leader's first moment.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidSettings
from controlplane.leadership import budget

shares = st.floats(min_value=0.001, max_value=1.2)


@given(lease_s=st.floats(min_value=0.01, max_value=60), every=shares, deadline=shares, fence=shares)
def test_no_budget_that_passes_lets_two_leaders_overlap(
    lease_s: float, every: float, deadline: float, fence: float
) -> None:
    """R1 with both clocks wrong in the worst direction: the leader's slow, the follower's fast."""
    candidate = budget.Budget(
        lease_s,
        renew_every_s=lease_s * deadline * every,
        renew_deadline_s=lease_s * deadline,
        fence_s=lease_s * fence,
    )
    try:
        candidate.checked()
    except InvalidSettings:
        return
    last_order_of_the_old_s = candidate.renew_deadline_s + candidate.clock_error_s + candidate.fence_s
    first_moment_of_the_new_s = candidate.lease_s - candidate.clock_error_s
    assert last_order_of_the_old_s < first_moment_of_the_new_s


@pytest.mark.parametrize("name", ["safe", "default", "fast"])
def test_every_profile_survives_two_lost_renewals(name: str) -> None:
    chosen = budget.profile(name)
    assert 2 * chosen.renew_every_s < chosen.renew_deadline_s


@pytest.mark.parametrize(
    ("name", "lease_s", "bound_s"), [("safe", 2.5, 4.0), ("default", 1.5, 2.5), ("fast", 0.6, 1.0)]
)
def test_every_profile_can_meet_its_goal_for_a_lost_host(name: str, lease_s: float, bound_s: float) -> None:
    assert budget.profile(name).lease_s == lease_s
    assert budget.profile(name).lease_s + budget.profile(name).renew_every_s < bound_s


def test_a_deadline_of_exactly_the_lease_is_refused_with_the_amount() -> None:
    with pytest.raises(InvalidSettings, match=r"lease_s 1\.0: .*over by 0\.\d+ s"):
        budget.Budget(lease_s=1.0, renew_every_s=0.2, renew_deadline_s=1.0, fence_s=0.1).checked()


def test_clock_error_counts_for_both_clocks() -> None:
    """One tick less than two errors fails: the fence alone does not make it safe."""
    lease_s, fence_s = 1.0, 1e-9
    with pytest.raises(InvalidSettings):
        budget.Budget(
            lease_s, 0.1, renew_deadline_s=lease_s - 1.5 * lease_s * budget.CLOCK_ERROR_MAX, fence_s=fence_s
        ).checked()
    budget.Budget(
        lease_s, 0.1, renew_deadline_s=lease_s - 2.5 * lease_s * budget.CLOCK_ERROR_MAX, fence_s=fence_s
    ).checked()


def test_too_few_renewals_before_the_deadline_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="3 renewals must fit"):
        budget.Budget(lease_s=2.0, renew_every_s=0.5, renew_deadline_s=1.2, fence_s=0.1).checked()


def test_a_part_that_is_not_positive_is_named() -> None:
    with pytest.raises(InvalidSettings, match="renew_every_s: found 0"):
        budget.Budget(lease_s=2.0, renew_every_s=0, renew_deadline_s=1.2, fence_s=0.1).checked()


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSettings, match="'quick': expected one of safe, default, fast"):
        budget.profile("quick")
