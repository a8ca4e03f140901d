"""What an agent and its daemons say, byte by byte (docs/protocol.md shows these)."""

from __future__ import annotations

import pytest

from controlplane.errors import InvalidInput
from controlplane.model import Process
from hftd.wire import codec, control, orders

HEAD = (1, 2, 3, "agent-alpha", None)
OMSD = codec.TokenOnWire(1_700_000_000_000, "omsd", 7)
HOLDER = codec.ProcessOnWire.of(Process("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 123456))

TOKENS = "9717010203ab6167656e742d616c706861c09193cf0000018bcfe56800a46f6d736407"
FENCE_RESET = (
    "9a18010203ab6167656e742d616c706861c00593cf0000018bcfe56800a46f6d73640794ac6f6d73642d616c7068612d31d92430663165"
    "326433632d346235612d343637382d383961622d636465663031323334353637cd1267ce0001e24009"
)

OVERRIDES = (
    "9719010203ab6167656e742d616c706861c09194aa6f6d73642e6578656364ab666f726365645f6f70656eab76"
    "656e75652061736b6564cf0000000218711a00"
)
RELOAD = (
    "9815010203ab6167656e742d616c706861c00982ac6d61785f706f736974696f6ea3353030a7627265616b6572"
    "81a86661696c7572657303"
)
OLDER_RELOAD = "9715010203ab6167656e742d616c706861c009"
"""Without settings."""
FLAGS = "971a010203ab6167656e742d616c706861c082ab6b696c6c5f737769746368c3a56c696d6974c0"
STATUS = (
    "dc001203010203ac6f6d73642d616c7068612d31c0c3a0a66163746976650180808090c39199aa6f6d73642e65"
    "78656364a46f70656ec2b335206661696c7572657320696e206120726f77cf17979cfe362a00000705010209a0"
)
OLDER_STATUS = "9f03010203ac6f6d73642d616c7068612d31c0c3a0a66163746976650180808090c3"
"""Without breakers."""


def test_the_stores_tokens_have_their_golden_bytes() -> None:
    message = control.Tokens(*HEAD, [OMSD])
    assert codec.encode(message).hex() == TOKENS
    assert control.decode_from_agent(bytes.fromhex(TOKENS)) == message


def test_a_fence_reset_has_its_golden_bytes() -> None:
    message = control.FenceReset(*HEAD, 5, OMSD, HOLDER, 9)
    assert codec.encode(message).hex() == FENCE_RESET
    assert control.decode_from_agent(bytes.fromhex(FENCE_RESET)) == message


def test_an_answer_to_a_fence_of_an_older_release_does_not_wait() -> None:
    older = bytes.fromhex("9a09010203a573696d6431c0a46f6d736407c2a573746f7279")
    answer = orders.decode_coming_back(older)
    assert isinstance(answer, orders.Fenced) and not answer.ok and not answer.waits


def test_overrides_of_breakers_have_their_golden_bytes() -> None:
    message = control.Overrides(
        *HEAD, [control.OverrideOnWire("omsd.execd", "forced_open", "venue asked", 9_000_000_000)]
    )
    assert codec.encode(message).hex() == OVERRIDES
    assert control.decode_from_agent(bytes.fromhex(OVERRIDES)) == message


def test_wanted_settings_have_their_golden_bytes() -> None:
    message = control.Reload(*HEAD, 9, {"max_position": "500", "breaker": {"failures": 3}})
    assert codec.encode(message).hex() == RELOAD
    assert control.decode_from_agent(bytes.fromhex(RELOAD)) == message
    older = control.decode_from_agent(bytes.fromhex(OLDER_RELOAD))
    assert older == control.Reload(*HEAD, 9, {})


def test_the_sites_flags_have_their_golden_bytes() -> None:
    message = control.Flags(*HEAD, {"kill_switch": True, "limit": None})
    assert codec.encode(message).hex() == FLAGS
    assert control.decode_from_agent(bytes.fromhex(FLAGS)) == message


@pytest.mark.parametrize("revision", [-1, 1 << 63])
def test_a_revision_that_no_status_could_say_does_not_decode(revision: int) -> None:
    with pytest.raises(InvalidInput):
        control.decode_from_agent(codec.encode(control.Reload(*HEAD, revision, {})))


def test_a_status_has_its_breakers_and_its_settings_revision_last() -> None:
    breaker = control.BreakerOnWire(
        "omsd.execd", "open", False, "5 failures in a row", 1_700_000_000_000_000_000, 7, 5, 1, 2
    )
    head = (1, 2, 3, "omsd-alpha-1", None)
    message = control.Status(*head, True, "", "active", 1, {}, {}, {}, [], True, [breaker], 9, "")
    assert codec.encode(message).hex() == STATUS
    assert control.decode_from_daemon(bytes.fromhex(STATUS)) == message


def test_a_status_of_an_older_release_has_no_breakers() -> None:
    older = control.decode_from_daemon(bytes.fromhex(OLDER_STATUS))
    assert isinstance(older, control.Status) and older.healthy and older.breakers == []
