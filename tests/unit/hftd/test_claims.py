"""A claim of a token is its claimant's, for one link: changed in anything, or over another link, nobody
believes it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine.orders import approvals, claims
from hftd.engine.orders.claims import Macs
from hftd.wire import codec, orders

KEY = bytes(range(32))
MACS = Macs(KEY)
LINK = b"omsd-alpha-1.4711.000102030405060708090a0b0c0d0e0f"
OMSD = codec.TokenOnWire(1_700_000_000_000, "omsd", 7)
EXECD = codec.TokenOnWire(1_700_000_000_000, "execd", 3)
WHO = codec.ProcessOnWire("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 123_456)
GOLDEN_FENCE = "d4be91a69eef00ae5ec251a5e0cf48e6"
GOLDEN_ATTACH = "80f6a3ef04ad74e2e7c542aea58800c0"
GOLDEN_FENCE_FRAME = (
    "9908012a07ac6f6d73642d616c7068612d3193cf0000018bcfe56800a46f6d73640794ac6f6d73642d616c7068"
    "612d31d92430663165326433632d346235612d343637382d383961622d636465663031323334353637cd1267ce"
    "0001e24093cf0000018bcfe56800a5657865636403c410d4be91a69eef00ae5ec251a5e0cf48e6"
)
GOLDEN_ATTACH_FRAME = (
    "990a012a07ac6f6d73642d616c7068612d3193cf0000018bcfe56800a46f6d73640794ac6f6d73642d616c7068"
    "612d31d92430663165326433632d346235612d343637382d383961622d636465663031323334353637cd1267ce"
    "0001e240a0c41080f6a3ef04ad74e2e7c542aea58800c0"
)
NOT_CLAIMED = {"version", "seq", "sent_ns", "source", "mac"}
"""What no MAC covers: it says nothing of who leads."""


def fence(**changed: Any) -> orders.Fence:
    one = orders.Fence(1, 42, 7, "omsd-alpha-1", OMSD, WHO, EXECD)
    return MACS.fence(msgspec.structs.replace(one, **changed), LINK)


def attach(**changed: Any) -> orders.Attach:
    one = orders.Attach(1, 42, 7, "omsd-alpha-1", OMSD, WHO)
    return MACS.attach(msgspec.structs.replace(one, **changed), LINK)


def test_a_claim_has_its_golden_mac() -> None:
    """docs/protocol.md shows both; an omsd in another language must make the same."""
    assert (fence().mac.hex(), attach().mac.hex()) == (GOLDEN_FENCE, GOLDEN_ATTACH)


def test_a_claim_has_its_golden_bytes() -> None:
    assert codec.encode(fence()).hex() == GOLDEN_FENCE_FRAME
    assert codec.encode(attach()).hex() == GOLDEN_ATTACH_FRAME


@pytest.mark.parametrize("claim", [fence(), attach()], ids=["fence", "attach"])
def test_it_is_good_after_the_wire_over_its_own_link_and_no_other(claim: claims.Claim) -> None:
    read = orders.decode_towards_execution(codec.encode(claim))
    assert isinstance(read, orders.Fence | orders.Attach) and read == claim
    assert MACS.fits(read, LINK)
    for other in (b"", b"stranger", LINK[:-1], LINK + b"0", LINK[:-1] + b"e"):
        assert not MACS.fits(read, other), other


numbers = st.integers(-(1 << 63), (1 << 64) - 1)
texts = st.text(max_size=40)
tokens = st.builds(codec.TokenOnWire, numbers, texts, numbers)
fields = st.one_of(
    st.tuples(st.sampled_from(["token", "gateway"]), st.none() | tokens),
    st.tuples(st.just("claimant"), st.builds(codec.ProcessOnWire, texts, texts, numbers, numbers)),
    st.tuples(st.just("service"), texts),
    st.tuples(st.just("mac"), st.binary(max_size=20)),
)
links = st.just(LINK) | st.binary(max_size=60)


@given(st.sampled_from([fence(), attach()]), st.lists(fields, max_size=3), links)
def test_a_claim_of_which_anything_was_changed_fits_no_more(
    one: claims.Claim, changed: list[tuple[str, Any]], link: bytes
) -> None:
    given = {name: value for name, value in changed if hasattr(one, name)}
    forged = msgspec.structs.replace(one, **given)
    assert MACS.fits(forged, link) == (forged == one and link == LINK)


def test_every_field_of_a_claim_is_covered_or_named_as_not() -> None:
    """A field that is appended later has to be put into one of the two."""
    covered = set()
    for one in (fence(), attach()):
        others = {
            "claimant": codec.ProcessOnWire("x", "", 1, 1),
            "service": "x",
            "token": EXECD,
            "gateway": OMSD,
        }
        for name in set(one.__struct_fields__) - NOT_CLAIMED:
            assert not MACS.fits(msgspec.structs.replace(one, **{name: others[name]}), LINK), name
            covered.add(name)
        for name in NOT_CLAIMED - {"mac"}:
            value = getattr(one, name)
            other = value + ("x" if isinstance(value, str) else 1)
            assert MACS.fits(msgspec.structs.replace(one, **{name: other}), LINK), name
    assert covered == {"token", "claimant", "gateway", "service"}


@pytest.mark.parametrize("part", ["instance", "boot_id", "pid", "start_time"])
def test_every_part_of_the_claimant_is_covered(part: str) -> None:
    value = getattr(WHO, part)
    other = msgspec.structs.replace(WHO, **{part: value + ("x" if isinstance(value, str) else 1)})
    assert not MACS.fits(msgspec.structs.replace(fence(), claimant=other), LINK)


@pytest.mark.parametrize("part", ["incarnation", "group", "epoch"])
@pytest.mark.parametrize("field", ["token", "gateway"])
def test_every_part_of_both_tokens_is_covered(field: str, part: str) -> None:
    token = getattr(fence(), field)
    value = getattr(token, part)
    other = msgspec.structs.replace(token, **{part: value + ("x" if isinstance(value, str) else 1)})
    assert not MACS.fits(msgspec.structs.replace(fence(), **{field: other}), LINK)


def test_a_boundary_between_texts_that_moves_is_seen() -> None:
    moved = msgspec.structs.replace(
        fence(),
        token=msgspec.structs.replace(OMSD, group="omsdo"),
        claimant=msgspec.structs.replace(WHO, instance="msd-alpha-1"),
    )
    assert not MACS.fits(moved, LINK)


def test_the_mac_of_one_message_is_not_the_others() -> None:
    """An Attach goes out with each keep-alive: it must not be good as a FENCE."""
    plain, beside = fence(gateway=None), attach()
    assert plain.mac != beside.mac
    assert not MACS.fits(msgspec.structs.replace(plain, mac=beside.mac), LINK)
    assert not MACS.fits(msgspec.structs.replace(beside, mac=plain.mac), LINK)


def test_a_gateway_of_nothing_is_not_the_same_as_none() -> None:
    empty = msgspec.structs.replace(fence(gateway=None), gateway=codec.TokenOnWire(0, "", 0))
    assert not MACS.fits(empty, LINK)


def test_another_sites_key_and_a_claim_without_a_mac_are_worth_nothing() -> None:
    other = Macs(bytes(32))
    assert not other.fits(fence(), LINK) and not other.fits(attach(), LINK)
    for claim in (fence(), attach()):
        assert not MACS.fits(msgspec.structs.replace(claim, mac=b""), LINK)
        assert not MACS.fits(msgspec.structs.replace(claim, mac=claim.mac[:8]), LINK)


def test_its_key_and_its_person_are_not_the_approvals() -> None:
    assert claims.PURPOSE != approvals.PURPOSE and claims.PERSON != approvals.PERSON


@pytest.mark.parametrize(
    "changed",
    [
        {"token": None},
        {"token": codec.TokenOnWire(-1, "omsd", 1)},
        {"token": codec.TokenOnWire(1, "omsd", 1 << 64)},
        {"claimant": codec.ProcessOnWire("omsd-alpha-1", "", -1, 1)},
    ],
    ids=str,
)
def test_what_no_process_claims_can_be_made_by_nobody_and_stops_nobody(changed: dict[str, Any]) -> None:
    for claim in (fence(**changed), attach(**changed)):
        assert claim.mac == b"" and not MACS.fits(claim, LINK)
