"""Ids of orders as they come back from elsewhere: read with bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine.orders import ids


@given(group=st.from_regex(r"[a-z]+(-[a-z]+)?", fullmatch=True), epoch=st.integers(0, 1 << 20))
def test_an_id_of_ours_is_read_as_it_was_made(group: str, epoch: int) -> None:
    made = ids.text(group, epoch, 1_000_001)
    assert ids.parse(made) == (group, epoch, 1_000_001)
    assert (ids.group_of(made), ids.epoch_of(made)) == (group, epoch)


@pytest.mark.parametrize(
    "odd",
    [
        "", "nonsense", "a-b-c", "-1-2", "omsd-1-", "omsd--1-2x", "omsd-\N{ARABIC-INDIC DIGIT ONE}-2",
        "omsd-1-\N{SUPERSCRIPT TWO}",
        "omsd-" + "9" * 20 + "-1", "omsd-1-" + "9" * 4_301, "omsd-" + "9" * 5_000 + "-1", "o" * 201 + "-1-2",
    ],
    ids=lambda odd: odd[:20],
)  # fmt: skip
def test_what_is_no_id_of_ours_names_no_order(odd: str) -> None:
    assert ids.parse(odd) is None
    assert (ids.group_of(odd), ids.epoch_of(odd)) == ("", 0)


@given(st.text(max_size=300))
def test_no_text_is_too_much(odd: str) -> None:
    found = ids.parse(odd)
    assert found is None or odd.startswith(f"{found.group}-")
