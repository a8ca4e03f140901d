"""What a receiver is told that the store holds, where a test is about something else: the highest token there
can be, so that every claim is believed.
"""

from __future__ import annotations

from controlplane.model import Token
from controlplane.model.bounds import EPOCH_BITS, INCARNATION_BITS
from hftd.wire import codec, control

GROUPS = ("execd", "omsd", "riskd")


def highest(group: str) -> Token:
    return Token((1 << INCARNATION_BITS) - 1, group, (1 << EPOCH_BITS) - 1)


def on_wire() -> list[codec.TokenOnWire]:
    return [codec.TokenOnWire.of(highest(group)) for group in GROUPS]


def told(*tokens: Token) -> control.Tokens:
    """The agent's word; without tokens, that every claim may be believed."""
    found = [codec.TokenOnWire.of(token) for token in tokens] or on_wire()
    return control.Tokens(codec.VERSION, 1, 0, "agent", None, found)
