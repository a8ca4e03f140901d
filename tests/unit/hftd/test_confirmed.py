"""When the venue is asked for its executions, and what its answers confirm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hftd.engine.orders.confirmed import EVERY_NS, IDLE_EVERY_NS, LATE_NS, RETRY_NS, Confirmed

S = 1_000_000_000


def test_it_is_asked_from_the_mark_on_while_there_is_something_above_it() -> None:
    mark = Confirmed(5)
    assert mark.due(9, 10 * S) == 5
    assert mark.due(9, 10 * S + RETRY_NS - 1) is None
    assert mark.due(9, 10 * S + RETRY_NS) == 5, "no answer: asked again"
    assert mark.told(9, 12 * S) == 9, "the next page"
    assert mark.told(0, 12 * S) is None and mark.up_to == 9
    assert mark.due(9, 10 * S + RETRY_NS + IDLE_EVERY_NS - 1) is None


def test_while_nothing_is_known_to_be_missing_it_is_asked_now_and_then() -> None:
    """The report of the last execution may have been lost."""
    mark = Confirmed(5)
    assert mark.due(5, 10 * S) == 5 and not mark.late(100 * S)
    assert mark.told(7, 10 * S) == 7 and mark.told(0, 10 * S) is None and mark.up_to == 7
    assert mark.due(7, 10 * S + IDLE_EVERY_NS - 1) is None
    assert mark.due(7, 10 * S + IDLE_EVERY_NS) == 7


def test_an_answer_that_nobody_asked_for_confirms_nothing() -> None:
    mark = Confirmed(5)
    assert mark.told(8, S) is None and mark.told(0, S) is None and mark.up_to == 5
    assert mark.due(9, 2 * S) == 5
    mark.set(7)
    assert mark.told(0, 2 * S) is None and mark.up_to == 7, "a take-over came between"


def test_a_venue_that_does_not_confirm_is_late() -> None:
    mark = Confirmed(0)
    assert mark.due(1, S) == 0
    assert not mark.late(S + LATE_NS - 1) and mark.late(S + LATE_NS)
    assert mark.told(1, S + LATE_NS) == 1 and mark.late(S + LATE_NS), "not before the last page"
    assert mark.told(0, S + LATE_NS) is None and not mark.late(S + LATE_NS)


def test_an_id_above_all_that_the_venue_tells_does_not_move_the_mark() -> None:
    mark = Confirmed(3)
    assert mark.due(1 << 62, S) == 3
    assert mark.told(4, S) == 4
    assert mark.told(0, S) is None and mark.up_to == 4
    assert mark.due(1 << 62, S + EVERY_NS) == 4, "and so it is asked again"


@given(
    executed=st.sets(st.integers(1, 1 << 62), min_size=1, max_size=40),
    lost=st.sets(st.integers(0, 39)),
    page=st.integers(1, 7),
)
def test_whatever_is_lost_and_however_sparse_the_ids_all_are_known_at_the_mark(
    executed: set[int], lost: set[int], page: int
) -> None:
    venue, mark = sorted(executed), Confirmed(0)
    known = {each for n, each in enumerate(venue) if n not in lost}
    last, now_ns = max(known, default=0), S
    after = mark.due(last, now_ns)
    while after is not None:
        found = [each for each in venue if each > after][:page]
        known.update(found)
        after = mark.told(max(found, default=0), now_ns)
    if last:
        assert known == executed and mark.up_to == venue[-1]
