"""A term is one integer for a token: it rises as tokens do, and never equals another one's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.model import Token
from controlplane.model.bounds import EPOCH_BITS, INCARNATION_BITS
from hftd.engine.orders import term
from hftd.wire import codec

INCARNATIONS = st.integers(0, (1 << INCARNATION_BITS) - 1)
EPOCHS = st.integers(0, (1 << EPOCH_BITS) - 1)


@given(INCARNATIONS, EPOCHS, INCARNATIONS, EPOCHS)
def test_terms_are_ordered_as_their_tokens_and_read_back(i: int, e: int, j: int, f: int) -> None:
    one, other = term.of(Token(i, "omsd", e)), term.of(codec.TokenOnWire(j, "omsd", f))
    assert (one < other) == ((i, e) < (j, f)) and 0 <= one < 1 << 63
    assert term.token(one, "omsd") == Token(i, "omsd", e)


@pytest.mark.parametrize(
    ("incarnation", "epoch"),
    [(1, 1 << EPOCH_BITS), (1, -1), (1 << INCARNATION_BITS, 1), (-1, 1)],
)
def test_a_token_that_does_not_fit_is_refused_and_not_packed_over_another_one(
    incarnation: int, epoch: int
) -> None:
    with pytest.raises(InvalidInput, match="bits"):
        term.of(Token(incarnation, "omsd", epoch))
