from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.site import histogram


@given(st.integers(min_value=0, max_value=10**13))
def test_a_value_is_at_most_its_bucket_s_end_and_within_a_sixteenth(value: int) -> None:
    end = histogram.upper_ns(histogram.bucket(value))
    assert value <= end <= value + value // 16


@given(
    st.lists(st.integers(min_value=0, max_value=10**12), min_size=1, max_size=300),
    st.integers(min_value=0, max_value=299),
)
def test_merging_two_halves_is_counting_the_whole(values: list[int], cut: int) -> None:
    whole, left, right = histogram.Histogram(), histogram.Histogram(), histogram.Histogram()
    for number, value in enumerate(values):
        whole.record(value)
        (left if number < cut else right).record(value)
    left.merge(right.counts)
    assert left.counts == whole.counts and whole.total == len(values)


def test_percentiles_come_from_the_ranks() -> None:
    counted = histogram.Histogram()
    for value in range(1, 101):
        counted.record(value * 1000)
    p50, p99, most = histogram.percentiles_ns(counted.counts, (0.5, 0.99, 1.0))
    assert p50 is not None and 50_000 <= p50 <= 54_000
    assert p99 is not None and 99_000 <= p99 <= 106_000
    assert most is not None and 100_000 <= most <= 106_500
    assert histogram.percentiles_ns({}, (0.5,)) == [None]
