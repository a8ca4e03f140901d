"""A term: incarnation and epoch of a token in one integer, by which the leaders of one group are ordered.

Journals write it beside each record, riskd remembers under which one an order was sent. It rises as tokens
do, over a restore of the store too (the incarnation rises then). Pure.
"""

from __future__ import annotations

from controlplane.errors import InvalidInput
from controlplane.model import Token, in_range
from controlplane.model.bounds import EPOCH_BITS, INCARNATION_BITS
from hftd.wire.codec import TokenOnWire


def of(token: Token | TokenOnWire) -> int:
    """Raises InvalidInput for a token beyond the bounds: packed all the same it would equal another one's."""
    if not in_range(token.incarnation, token.epoch):
        raise InvalidInput(
            f"token {token.incarnation}/{token.epoch} of {token.group!r}: an epoch has at most {EPOCH_BITS} "
            f"bits, an incarnation {INCARNATION_BITS}"
        )
    return token.incarnation << EPOCH_BITS | token.epoch


def token(term: int, group: str) -> Token:
    return Token(term >> EPOCH_BITS, group, term & ((1 << EPOCH_BITS) - 1))
