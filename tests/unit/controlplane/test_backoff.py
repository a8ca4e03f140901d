"""Waits are bounded, the first restart is free, and a loop that fails at once is slowed down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.resilience import backoff


@given(attempt=st.integers(0, 10_000), random=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1))
def test_no_delay_is_negative_or_above_the_maximum(attempt: int, random: float, jitter: float) -> None:
    policy = backoff.Policy(first_s=0.05, factor=2.0, max_s=1.0, jitter=jitter)
    assert 0 <= policy.delay_s(attempt, lambda: random) <= 1.0


def test_delays_double_up_to_the_maximum_after_the_free_tries() -> None:
    policy = backoff.Policy(first_s=0.2, factor=2.0, max_s=1.0, at_once=1)
    assert [policy.delay_s(attempt) for attempt in range(6)] == [0.0, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_shortens_a_delay_by_at_most_its_share() -> None:
    policy = backoff.Policy(first_s=1.0, factor=1.0, max_s=1.0, jitter=0.5)
    assert policy.delay_s(0, lambda: 0.0) == 0.5
    assert policy.delay_s(0, lambda: 0.999) == pytest.approx(1.0, abs=0.001)


def test_restarts_are_at_once_then_slower_up_to_five_seconds() -> None:
    restarts, waits = backoff.Restarts(), []
    for _ in range(8):
        restarts, wait_s = restarts.died(healthy_s=0.0)
        waits.append(wait_s)
    assert waits == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_ten_healthy_seconds_make_the_next_restart_immediate_again() -> None:
    restarts = backoff.Restarts(count=6)
    assert restarts.died(healthy_s=9.9)[1] > 0
    assert restarts.died(healthy_s=10.0) == (backoff.Restarts(count=1), 0.0)


def test_a_loop_that_always_fails_gets_its_burst_and_then_its_rate() -> None:
    bucket = backoff.Bucket(burst=3, per_s=2.0)
    now_s = 100.0
    waits = []
    for _ in range(6):
        wait_s = bucket.take(now_s)
        waits.append(wait_s)
        now_s += wait_s
    assert waits == pytest.approx([0, 0, 0, 0.5, 0.5, 0.5])


def test_a_bucket_that_rested_is_full_but_not_fuller() -> None:
    bucket = backoff.Bucket(burst=2, per_s=1.0)
    assert [bucket.take(0.0), bucket.take(0.0)] == [0, 0]
    assert [bucket.take(1000.0), bucket.take(1000.0)] == [0, 0]
    assert bucket.take(1000.0) == pytest.approx(1.0)
