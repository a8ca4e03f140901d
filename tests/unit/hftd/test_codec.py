"""The envelope: golden bytes, append-only fields, and nothing but InvalidInput for what does not decode."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.model import Process
from hftd.engine.orders import answers, approvals, oms, risk
from hftd.wire import codec, control, orders

MACS = approvals.Macs(bytes(range(32)))
TOKEN = codec.TokenOnWire(1_700_000_000_000, "omsd", 7)
PLACE = orders.Place(
    1, 42, 1_700_000_000_000_000_000, "omsd-alpha-1", TOKEN, "strategy-mm-1-1", "strategy-mm", "usdm",
    "BTCUSDT",
    orders.Side.BUY, orders.Kind.POST_ONLY, 6_180_020_000_000, 100_000, 5, 6, "omsd-7-1",
    orders.Approval(
        9, codec.TokenOnWire(1_700_000_000_000, "riskd", 3), 1,
        bytes.fromhex("c8da508c59972bf4dfd93a2c7a8f42c7"),
    ), None,
)  # fmt: skip

GOLDEN_PLACE = (
    "dc001501012acf17979cfe362a0000ac6f6d73642d616c7068612d3193cf0000018bcfe56800a46f6d736407af73747261746567792d6d6d2d312d31ab73747261746567792d"
    "6d6da47573646da7425443555344540102cf0000059ee5e59500ce000186a00506a86f6d73642d372d31940993cf0000018bcfe56800a57269736b640301c410c8da508c5997"
    "2bf4dfd93a2c7a8f42c7c0a0a0"
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


# --- passing a message on -----------------------------------------------------------------------------------


class LaterPlace(orders.Place, tag=1, frozen=True):
    """Place as a later version may be."""

    appended: str = ""


HEAD: codec.Head = (1, 7, 8, "riskd-alpha-1", codec.TokenOnWire(7, "riskd", 2))
ENVELOPE = {"version", "seq", "sent_ns", "source", "token"}


def later() -> LaterPlace:
    known = {name: getattr(PLACE, name) for name in PLACE.__struct_fields__}
    return LaterPlace(**(known | {"replaces": "mm-1", "replaced_id": "omsd-7-0"}), appended="later")


def changed(before: codec.Message, after: codec.Message) -> set[str]:
    names = before.__struct_fields__
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def test_under_another_envelope_a_message_keeps_every_field_the_appended_ones_too() -> None:
    passed_on = codec.under(later(), HEAD)
    assert changed(later(), passed_on) <= ENVELOPE and passed_on.appended == "later"
    assert (passed_on.version, passed_on.seq, passed_on.sent_ns, passed_on.source, passed_on.token) == HEAD


def test_riskd_s_signature_keeps_what_the_strategy_said_and_drops_what_it_may_not_say() -> None:
    gate = risk.Risk(risk.Limits(5, 1, 1, 1, 1, 1, 1, 1), MACS)
    forged = msgspec.structs.replace(later(), gateway=TOKEN)
    signed = gate.signed(HEAD, forged, approval=9)
    assert changed(forged, signed) == ENVELOPE - {"version"} | {
        "approval", "order_id", "gateway", "replaced_id",
    }  # fmt: skip
    assert signed.approval is not None and MACS.fits(signed, signed.approval)
    assert msgspec.structs.replace(signed.approval, mac=b"") == orders.Approval(
        9, codec.TokenOnWire(7, "riskd", 2), 5
    )
    assert (signed.order_id, signed.gateway, signed.replaced_id) == ("", None, "")


def test_omsd_s_number_keeps_what_riskd_signed() -> None:
    placed = oms.numbered(HEAD, "omsd", later(), 12, None)
    assert changed(later(), placed) == ENVELOPE - {"version"} | {"order_id", "replaced_id"}
    assert (placed.order_id, placed.replaces, placed.replaced_id) == ("omsd-2-12", "mm-1", "")


def test_a_process_is_the_same_behind_the_wire() -> None:
    process = Process("omsd-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 4711, 99)
    assert codec.ProcessOnWire.of(process).process() == process


GOLDEN_HELLO = (
    "990a010203b373747261746567792d6d6d2d616c7068612d31c094b373747261746567792d6d6d2d616c7068612d31a8366532623163"
    "3165cd126763ab73747261746567792d6d6dc400"
)


def test_a_strategy_s_hello_names_its_service_and_an_omsd_s_has_an_empty_one() -> None:
    who = codec.ProcessOnWire("strategy-mm-alpha-1", "6e2b1c1e", 4711, 99)
    hello = orders.Attach(1, 2, 3, "strategy-mm-alpha-1", None, who, "strategy-mm")
    assert codec.encode(hello).hex() == GOLDEN_HELLO
    fields = msgspec.msgpack.decode(codec.encode(hello))
    attach = orders.decode_towards_execution(msgspec.msgpack.encode(fields[:-2]))
    assert isinstance(attach, orders.Attach) and (attach.service, attach.mac) == ("", b"")
    assert orders.decode_towards_execution(msgspec.msgpack.encode(fields[:-1])) == hello


def test_a_refusal_names_whose_order_it_was() -> None:
    refusal = answers.refusal(HEAD, later(), "no_omsd")
    assert (refusal.order_id, refusal.client_order_id, refusal.strategy) == (
        "omsd-7-1",
        "strategy-mm-1-1",
        "strategy-mm",
    )
    frame = codec.encode(refusal)
    assert frame.endswith(b"\xab" + b"strategy-mm")
    older = orders.decode_coming_back(msgspec.msgpack.encode(msgspec.msgpack.decode(frame)[:-1]))
    assert isinstance(older, orders.Refusal) and older.strategy == ""
    assert answers.refusal(HEAD, None, "not_active").order_id == ""
