"""A term: incarnation and epoch of a token in one integer, by which the leaders of one group are ordered.

Journals write it beside each record, riskd remembers under which one an order was sent. It rises as tokens
do, over a restore of the store too (the incarnation rises then). Pure.
"""

from __future__ import annotations

from controlplane.errors import InvalidInput
from controlplane.model import Token
from hftd.wire.codec import TokenOnWire

EPOCH_BITS = 20
"""A million hand-overs of one group within one incarnation of the store: one each minute for two years."""
INCARNATION_BITS = 43
"""UNIX ms until the year 2248. Together 63 bits, so that a term fits an i64 in a file or on the wire."""


def of(token: Token | TokenOnWire) -> int:
    """Raises InvalidInput for a token beyond the bounds: packed all the same it would equal another one's."""
    if not (0 <= token.epoch < 1 << EPOCH_BITS and 0 <= token.incarnation < 1 << INCARNATION_BITS):
        raise InvalidInput(
            f"token {token.incarnation}/{token.epoch} of {token.group!r}: an epoch has at most {EPOCH_BITS} "
            f"bits, an incarnation {INCARNATION_BITS}"
        )
    return token.incarnation << EPOCH_BITS | token.epoch


def token(term: int, group: str) -> Token:
    return Token(term >> EPOCH_BITS, group, term & ((1 << EPOCH_BITS) - 1))
