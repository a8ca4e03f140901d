"""What the agent and a receiver say about fences, byte by byte (docs/protocol.md shows these)."""

from __future__ import annotations

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
