"""When a keeper that says nothing is said, and when it is ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.keeper_silence import START_ALARM_S, START_END_S, STEP_MAX_S, STEP_S, Silence
from controlplane.leadership import budget


def steps(silence: Silence, seconds: float) -> Silence:
    for _ in range(round(seconds / STEP_S)):
        silence.step(STEP_S)
    return silence


@pytest.mark.parametrize(
    ("profile", "alarm_s", "end_s"), [("fast", 0.2, 0.4), ("default", 0.55, 1.1), ("safe", 1.0, 2.0)]
)
def test_it_is_said_at_half_the_deadline_and_ended_at_the_deadline(
    profile: str, alarm_s: float, end_s: float
) -> None:
    lease = budget.profile(profile)
    assert not steps(Silence(), alarm_s - STEP_S).alarming(lease)
    assert steps(Silence(), alarm_s + STEP_S).alarming(lease)
    assert not steps(Silence(), end_s - STEP_S).to_be_ended(lease)
    assert steps(Silence(), end_s + STEP_S).to_be_ended(lease)


def test_one_that_was_just_started_has_longer_until_its_first_word() -> None:
    silence = steps(Silence(started=True), START_ALARM_S - STEP_S)
    assert not silence.alarming(budget.FAST)
    assert steps(silence, 2 * STEP_S).alarming(budget.FAST) and not silence.to_be_ended(budget.FAST)
    assert steps(silence, START_END_S - START_ALARM_S).to_be_ended(budget.FAST)
    silence.heard()
    assert steps(silence, budget.FAST.renew_deadline_s + STEP_S).to_be_ended(budget.FAST)


@given(st.lists(st.floats(0, 3600), max_size=20))
def test_time_in_which_the_agent_did_not_run_counts_for_one_step(passed_s: list[float]) -> None:
    silence = Silence()
    for each in passed_s:
        silence.step(each)
    assert silence.s <= len(passed_s) * STEP_MAX_S + 1e-9
    silence.heard()
    assert silence.s == 0
