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


@given(
    lease_s=st.floats(min_value=0.01, max_value=60), every=shares, deadline=shares, tried=shares, fence=shares
)
def test_no_budget_that_passes_lets_two_leaders_overlap(
    lease_s: float, every: float, deadline: float, tried: float, fence: float
) -> None:
    """R1 with both clocks wrong in the worst direction: the leader's slow, the follower's fast."""
    candidate = budget.Budget(
        lease_s,
        renew_every_s=lease_s * deadline * every,
        renew_deadline_s=lease_s * deadline,
        try_s=lease_s * deadline * tried,
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
        budget.Budget(lease_s=1.0, renew_every_s=0.2, renew_deadline_s=1.0, try_s=0.1, fence_s=0.1).checked()


def test_clock_error_counts_for_both_clocks() -> None:
    """One tick less than two errors fails: the fence alone does not make it safe."""
    lease_s, fence_s = 1.0, 1e-9
    with pytest.raises(InvalidSettings):
        budget.Budget(
            lease_s,
            0.1,
            renew_deadline_s=lease_s - 1.5 * lease_s * budget.CLOCK_ERROR_MAX,
            try_s=0.1,
            fence_s=fence_s,
        ).checked()
    budget.Budget(
        lease_s,
        0.1,
        renew_deadline_s=lease_s - 2.5 * lease_s * budget.CLOCK_ERROR_MAX,
        try_s=0.1,
        fence_s=fence_s,
    ).checked()


def test_too_few_renewals_before_the_deadline_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="3 renewals must fit"):
        budget.Budget(lease_s=2.0, renew_every_s=0.5, renew_deadline_s=1.2, try_s=0.1, fence_s=0.1).checked()


@pytest.mark.parametrize("name", ["safe", "default", "fast"])
def test_every_profile_survives_a_member_that_hangs(name: str) -> None:
    """The renewal that falls due is sent to it, and what became of it is read from the next one."""
    chosen = budget.profile(name)
    assert chosen.renew_every_s + 2 * chosen.try_s < chosen.renew_deadline_s


def test_a_try_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"try_s 0\.3: .* must stay below renew_deadline_s 0\.4"):
        budget.Budget(lease_s=0.6, renew_every_s=0.1, renew_deadline_s=0.4, try_s=0.3, fence_s=0.05).checked()


@pytest.mark.parametrize(
    ("lease_ms", "believed_ns"),
    [
        (1_500, 1_500_000_000),
        (300, 300_000_000),
        (30_000, 30_000_000_000),
        (0, 0),
        (299, 0),
        (30_001, 0),
        (1 << 62, 0),
    ],
)
def test_a_lease_in_a_record_is_believed_between_its_bounds(lease_ms: int, believed_ns: int) -> None:
    assert budget.believed_lease_ns(lease_ms) == believed_ns


def test_a_part_that_is_not_positive_is_named() -> None:
    with pytest.raises(InvalidSettings, match="renew_every_s: found 0"):
        budget.Budget(lease_s=2.0, renew_every_s=0, renew_deadline_s=1.2, try_s=0.1, fence_s=0.1).checked()


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSettings, match="'quick': expected one of safe, default, fast"):
        budget.profile("quick")
