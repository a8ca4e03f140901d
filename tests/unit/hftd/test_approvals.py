"""An approval is riskd's, of one order, for once: whatever else it is put under, execd does not take it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine import reasons
from hftd.engine.orders.approvals import Approvals, Macs
from hftd.wire import codec, orders
from hftd.wire.orders import Kind, Place, Side

KEY = bytes(range(32))
RISK = codec.TokenOnWire(1_700_000_000_000, "riskd", 3)
OMSD = codec.TokenOnWire(1_700_000_000_000, "omsd", 7)
GOLDEN_MAC = "c2dc69ac115667af45cef56cfb2e1d58"
NOT_APPROVED = {"version", "seq", "sent_ns", "source", "token", "origin_ns", "origin_seq"} | {
    "order_id", "gateway", "replaced_id", "approval",
}  # fmt: skip
"""Of a Place: what no approval covers, because somebody behind riskd says it."""


def place(**changed: Any) -> Place:
    plain = Place(
        1, 42, 7, "omsd-alpha-1", OMSD, "strategy-mm-1-1", "strategy-mm", "usdm", "BTCUSDT", Side.BUY,
        Kind.POST_ONLY, 6_180_020_000_000, 100_000, 5, 6, "omsd-7-1", None, None, "strategy-mm-1-0",
        "omsd-7-0",
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changed)


def approved(number: int = 9, token: codec.TokenOnWire = RISK, key: bytes = KEY, **changed: Any) -> Place:
    one = place(**changed)
    return msgspec.structs.replace(one, approval=Macs(key).approval(one, number, token, 1))


def taken(one: Place) -> str:
    return Approvals(Macs(KEY)).take(one)


def test_an_approval_has_its_golden_mac() -> None:
    """docs/protocol.md shows it; a riskd in another language must make the same."""
    one = approved()
    assert one.approval is not None and one.approval.mac.hex() == GOLDEN_MAC
    assert taken(one) == ""


def test_it_is_good_after_the_wire() -> None:
    assert taken(msgspec.convert(orders.decode_towards_execution(codec.encode(approved())), Place)) == ""


numbers = st.integers(-(1 << 63), (1 << 64) - 1)
texts = st.text(max_size=40)
fields = st.one_of(
    st.tuples(st.sampled_from(["client_order_id", "strategy", "market", "symbol", "replaces"]), texts),
    st.tuples(st.sampled_from(["price", "quantity"]), numbers),
    st.tuples(st.just("side"), st.sampled_from(Side)),
    st.tuples(st.just("kind"), st.sampled_from(Kind)),
)
approval_fields = st.one_of(
    st.tuples(st.sampled_from(["id", "limits_revision"]), numbers),
    st.tuples(st.just("mac"), st.binary(max_size=20)),
    st.tuples(st.just("token"), st.builds(codec.TokenOnWire, numbers, texts, numbers)),
)


@given(st.lists(fields, max_size=3), st.lists(approval_fields, max_size=3))
def test_an_order_of_which_anything_was_changed_is_refused(
    changed: list[tuple[str, Any]], approval: list[tuple[str, Any]]
) -> None:
    one = approved()
    forged = msgspec.structs.replace(
        one, **dict(changed), approval=msgspec.structs.replace(one.approval, **dict(approval))
    )
    said = taken(forged)
    assert (said == "") == (forged == one)
    assert said in ("", reasons.NO_APPROVAL, reasons.FORGED_APPROVAL)


def test_every_field_of_an_order_is_approved_or_named_as_not() -> None:
    """A field that is appended later has to be put into one of the two."""
    one = approved()
    other: dict[type, Any] = {int: 1, str: "x", Side: Side.SELL, Kind: Kind.IOC}
    covered = set()
    for name in set(one.__struct_fields__) - NOT_APPROVED:
        value = getattr(one, name)
        changed = value + other[type(value)] if type(value) in (int, str) else other[type(value)]
        assert taken(msgspec.structs.replace(one, **{name: changed})) == reasons.FORGED_APPROVAL, name
        covered.add(name)
    assert covered == {
        "client_order_id", "strategy", "market", "symbol", "side", "kind", "price", "quantity", "replaces",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(NOT_APPROVED - {"approval", "gateway", "token"}))
def test_what_omsd_says_of_an_order_needs_no_approval(name: str) -> None:
    value = getattr(approved(), name)
    assert (
        taken(msgspec.structs.replace(approved(), **{name: value + (1 if isinstance(value, int) else "x")}))
        == ""
    )


@given(st.lists(texts, min_size=5, max_size=5), st.lists(texts, min_size=5, max_size=5))
def test_no_text_gives_some_of_itself_to_its_neighbour(some: list[str], others: list[str]) -> None:
    names = ("client_order_id", "strategy", "market", "symbol", "replaces")
    one = approved(**dict(zip(names, some, strict=True)))
    moved = msgspec.structs.replace(one, **dict(zip(names, others, strict=True)))
    assert (taken(moved) == "") == (some == others)


def test_a_boundary_between_texts_that_moves_is_seen() -> None:
    one = approved(market="spot", symbol="BTCUSDT")
    assert taken(msgspec.structs.replace(one, market="spotB", symbol="TCUSDT")) == reasons.FORGED_APPROVAL


def test_another_sites_key_approves_nothing() -> None:
    assert taken(approved(key=bytes(32))) == reasons.FORGED_APPROVAL


@pytest.mark.parametrize("number", [0, -1])
def test_a_rehearsals_approval_approves_nothing_however_well_it_is_made(number: int) -> None:
    assert taken(approved(number)) == reasons.NO_APPROVAL
    assert taken(place()) == reasons.NO_APPROVAL


def test_an_order_from_a_riskd_without_macs_is_refused() -> None:
    assert taken(place(approval=orders.Approval(9, RISK, 1))) == reasons.FORGED_APPROVAL


@pytest.mark.parametrize("changed", [{"price": 1 << 63}, {"quantity": -(1 << 63) - 1}], ids=str)
def test_numbers_that_no_order_has_are_approved_by_nobody_and_stop_nobody(changed: dict[str, int]) -> None:
    one = approved(**changed)
    assert one.approval is not None and one.approval.mac == b""
    assert taken(one) == reasons.FORGED_APPROVAL


def test_an_approval_is_good_for_once() -> None:
    gate = Approvals(Macs(KEY))
    assert gate.take(approved(9)) == ""
    assert gate.take(approved(9, order_id="omsd-7-2")) == reasons.APPROVAL_USED
    assert gate.take(approved(8)) == reasons.APPROVAL_USED, "riskd made it before: it comes too late"
    assert gate.take(approved(10)) == ""


def test_a_newer_riskd_counts_anew_and_an_older_one_is_not_heard_again() -> None:
    gate = Approvals(Macs(KEY))
    newer = codec.TokenOnWire(RISK.incarnation, "riskd", RISK.epoch + 1)
    assert gate.take(approved(9)) == ""
    assert gate.take(approved(10)) == "", "in flight while riskd fails over: as good as ever"
    assert gate.take(approved(1, newer)) == ""
    assert gate.take(approved(11)) == reasons.APPROVAL_USED


def test_a_forged_approval_uses_nothing_up() -> None:
    gate = Approvals(Macs(KEY))
    assert gate.take(approved(1 << 40, key=bytes(32))) == reasons.FORGED_APPROVAL
    gate.rehearse(approved(0))
    gate.rehearse(approved(1 << 40))
    assert gate.take(approved(9)) == ""
