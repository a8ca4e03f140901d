"""The envelope: golden bytes, append-only fields, and nothing but InvalidInput for what does not decode."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.wire import codec, control, orders

TOKEN = codec.TokenOnWire(1_700_000_000_000, "omsd", 7)
PLACE = orders.Place(
    1, 42, 1_700_000_000_000_000_000, "omsd-alpha-1", TOKEN, "strategy-mm-1-1", "strategy-mm", "usdm",
    "BTCUSDT",
    orders.Side.BUY, orders.Kind.POST_ONLY, 6_180_020_000_000, 100_000, 5, 6, "omsd-7-1",
    orders.Approval(9, codec.TokenOnWire(1_700_000_000_000, "riskd", 3), 1), None,
)  # fmt: skip

GOLDEN_PLACE = (
    "dc001501012acf17979cfe362a0000ac6f6d73642d616c7068612d3193cf0000018bcfe56800a46f6d736407af73747261746567792d6d6d2d312d31ab73747261746567"
    "792d6d6da47573646da7425443555344540102cf0000059ee5e59500ce000186a00506a86f6d73642d372d31930993cf0000018bcfe56800a57269736b640301c0a0a0"
)


def test_an_order_has_its_golden_bytes() -> None:
    """docs/protocol.md shows these; another language must write and read the same."""
    assert codec.encode(PLACE).hex() == GOLDEN_PLACE
    assert orders.decode_towards_venue(bytes.fromhex(GOLDEN_PLACE)) == PLACE


def test_a_rehearsal_holds_an_order_and_no_venue_takes_it_for_one() -> None:
    rehearsal = orders.Rehearsal(1, 43, 2, "strategy-mm", None, PLACE)
    frame = codec.encode(rehearsal)
    assert frame.hex() == "9707012b02ab" + b"strategy-mm".hex() + "c0" + GOLDEN_PLACE
    assert orders.decode_towards_execution(frame) == orders.decode_coming_back(frame) == rehearsal
    with pytest.raises(InvalidInput, match="does not decode"):
        orders.decode_towards_venue(frame)


def test_a_newer_writer_s_fields_are_ignored_and_an_older_one_s_are_filled_in() -> None:
    fields = msgspec.msgpack.decode(codec.encode(PLACE))
    assert orders.decode_towards_venue(msgspec.msgpack.encode([*fields, "later"])) == PLACE
    older = orders.decode_towards_venue(msgspec.msgpack.encode(fields[:-5]))
    assert isinstance(older, orders.Place) and (older.order_id, older.approval, older.replaces) == (
        "",
        None,
        "",
    )


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_but_invalid_input(noise: bytes) -> None:
    for decode in (
        orders.decode_towards_venue,
        orders.decode_towards_execution,
        orders.decode_coming_back,
        control.decode_from_agent,
        control.decode_from_daemon,
    ):
        with contextlib.suppress(InvalidInput):
            decode(noise)


def test_a_frame_beyond_the_bound_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        orders.decode_towards_venue(bytes(codec.FRAME_BYTES_MAX + 1))


def test_arrays_inside_each_other_by_the_thousand_are_invalid_and_not_a_crash() -> None:
    head = b"".join(
        map(msgspec.msgpack.encode, (control.Event.__struct_config__.tag, 1, 1, 0, "x", None, "kind"))
    )
    with pytest.raises(InvalidInput, match="does not decode"):
        control.decode_from_daemon(b"\x98" + head + b"\x81\xa1a" * 100_000)
