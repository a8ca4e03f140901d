"""A bulkhead never lets in more than it has room for, and a free place goes to who waits longest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.resilience.bulkhead import Bulkhead, Ticket


def test_what_is_full_queues_and_what_is_beyond_the_queue_is_refused() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=1)
    first, second = bulkhead.enter(), bulkhead.enter()
    assert first is not None
    assert second is not None
    assert (first.inside, second.inside, bulkhead.enter(), bulkhead.refused) == (True, False, None, 1)
    assert bulkhead.leave(first) == [second]
    assert second.inside
    assert bulkhead.leave(first) == [], "left twice"
    assert (bulkhead.inside, bulkhead.waiting) == (1, 0)


def test_who_waits_no_longer_is_not_given_a_turn() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=2)
    first, second, third = bulkhead.enter(), bulkhead.enter(), bulkhead.enter()
    assert first and second and third
    assert bulkhead.leave(second) == []
    assert bulkhead.leave(first) == [third]


@given(
    concurrent=st.integers(1, 4),
    queue=st.integers(0, 4),
    steps=st.lists(st.integers(0, 9), max_size=60),
)
def test_no_more_are_inside_or_waiting_than_there_is_room_for(
    concurrent: int, queue: int, steps: list[int]
) -> None:
    bulkhead = Bulkhead("x", concurrent, queue)
    held: list[Ticket] = []
    for step in steps:
        if step < 5:
            ticket = bulkhead.enter()
            assert (ticket is None) == (len(held) >= concurrent + queue)
            held += [ticket] if ticket else []
        elif held:
            bulkhead.leave(held.pop(step % len(held)))
        assert bulkhead.inside == sum(each.inside for each in held) == min(concurrent, len(held))
        assert [each.inside for each in held] == [n < concurrent for n in range(len(held))], "out of turn"


@pytest.mark.parametrize(("concurrent", "queue"), [(0, 0), (1, -1)])
def test_a_bulkhead_without_room_is_refused(concurrent: int, queue: int) -> None:
    with pytest.raises(ValueError, match="bulkhead x"):
        Bulkhead("x", concurrent, queue)
