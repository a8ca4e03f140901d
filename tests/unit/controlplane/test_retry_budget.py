"""At most one retry for ten calls, and none of what is not idempotent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.resilience.retry_budget import RetryBudget


@given(st.lists(st.booleans(), max_size=400))
def test_retries_never_pass_a_tenth_of_the_calls(steps: list[bool]) -> None:
    budget = RetryBudget()
    for called in steps:
        if called:
            budget.called()
        else:
            budget.may_retry(idempotent=True)
        assert budget.retries * 10 <= budget.calls


def test_ten_calls_pay_for_one_retry() -> None:
    budget = RetryBudget()
    for _ in range(10):
        assert not budget.may_retry(idempotent=True)
        budget.called()
    assert budget.may_retry(idempotent=True)
    assert not budget.may_retry(idempotent=True)


def test_what_is_not_idempotent_is_refused_with_a_full_budget() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.called()
    assert not budget.may_retry(idempotent=False)
    assert (budget.retries, budget.refused) == (0, 1)


def test_a_quiet_day_saves_up_ten_retries_and_no_more() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.called()
    assert sum(budget.may_retry(idempotent=True) for _ in range(100)) == 10


@pytest.mark.parametrize(("share", "saved"), [(-0.1, 1), (1.1, 1), (0.1, 0)])
def test_a_budget_that_makes_no_sense_is_refused(share: float, saved: int) -> None:
    with pytest.raises(ValueError, match="retry budget"):
        RetryBudget(share, saved)
