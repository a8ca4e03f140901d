"""Who may send orders, cancels and fences to the venue: tokens, claimants and links."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftd.engine import reasons
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.support.simd_desk import (
    EXECD,
    OTHER,
    UNIT,
    Desk,
    a_cancel,
    a_place,
    cancel_all,
    token,
    told,
    trade,
)


@pytest.fixture
def desk(tmp_path: Path):
    made = Desk(tmp_path)
    yield made
    made.close()


def test_an_order_of_an_older_epoch_is_refused_and_counted(desk: Desk) -> None:
    desk.fenced().book()
    assert desk.fence("omsd", 2, gateway=1).ok
    [refusal] = desk.place("a", epoch=1)
    assert isinstance(refusal, orders.Refusal) and (refusal.reason, refusal.order_id) == (
        reasons.STALE_TOKEN,
        "a",
    )
    assert desk.counts["stale_token_refusals"] == 1 and not desk.venue.working
    assert told(desk.place("a", epoch=2)) == [("a", OrderState.WORKING, 0)]


@pytest.mark.parametrize(
    ("epoch", "gateway", "reason"),
    [
        (None, 1, reasons.NOT_FENCED),
        (1, None, reasons.NOT_FENCED),
        (2, 1, reasons.NOT_FENCED),
        (1, 2, reasons.NOT_FENCED),
        (0, 1, reasons.STALE_TOKEN),
        (1, 0, reasons.STALE_TOKEN),
    ],
)
def test_an_order_needs_both_tokens_as_they_were_fenced(
    desk: Desk, epoch: int | None, gateway: int | None, reason: str
) -> None:
    desk.fenced().book()
    [refusal] = desk.place("a", epoch=epoch, gateway=gateway)
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reason and not desk.venue.working


def test_one_group_cannot_vouch_for_both_tokens(desk: Desk) -> None:
    desk.fenced().book()
    order = a_place("a", gateway=None)
    [refusal] = desk.handle(
        orders.Place(
            **{name: getattr(order, name) for name in order.__struct_fields__} | {"gateway": token("omsd", 1)}
        )
    )
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.NOT_FENCED


def test_an_equal_token_of_another_claimant_is_not_acknowledged(desk: Desk) -> None:
    desk.fenced()
    answer = desk.fence("omsd", 1, gateway=1, by="omsd-beta-1")
    assert not answer.ok and "claimed by omsd-alpha-1" in answer.reason
    assert desk.fence("omsd", 1, gateway=1).ok, "the first claimant may ask again"


def test_a_fence_passed_on_by_an_old_gateway_is_not_acknowledged(desk: Desk) -> None:
    desk.fenced()
    assert desk.fence("execd", 2, by="execd-alpha-2").ok
    answer = desk.fence("omsd", 2, gateway=1)
    assert not answer.ok and "execd 1/1" in answer.reason
    assert desk.fence("omsd", 2, gateway=2).ok


def test_a_fence_that_was_not_made_for_its_link_is_refused_and_the_gateway_keeps_its_reports(
    desk: Desk,
) -> None:
    """Even one that repeats what stands, or is a copy of execd's own; the fences stay as they are."""
    desk.fenced().book()
    kept = (desk.folder / "fences.json").read_bytes()
    for group, epoch, gateway in (("execd", 1, None), ("execd", 2, None), ("omsd", 1, 1), ("omsd", 2, 1)):
        answer = desk.fence(group, epoch, gateway, sender=OTHER, signed_for=EXECD)
        assert (answer.ok, answer.reason, answer.waits) == (False, reasons.FORGED_CLAIM, False)
        assert desk.out[-1][0] == OTHER
    assert (desk.folder / "fences.json").read_bytes() == kept
    desk.place("a")
    desk.tape(trade(99, UNIT))
    assert desk.out[-1][0] == EXECD and desk.out[-1][1].order_id == "a"
    assert desk.fence("omsd", 1, gateway=1).ok


def test_fences_outlive_the_process(tmp_path: Path) -> None:
    first = Desk(tmp_path).fenced()
    assert first.fence("omsd", 5, gateway=1).ok
    first.close()
    second = Desk(tmp_path)
    second.book()
    [refusal] = second.place("a", epoch=4)
    assert refusal.reason == reasons.STALE_TOKEN
    second.close()


@pytest.mark.parametrize(("epoch", "passes"), [(1, False), (2, True), (3, True), (None, True)])
def test_a_cancel_passes_for_orders_of_its_own_or_an_older_epoch(
    desk: Desk, epoch: int | None, passes: bool
) -> None:
    desk.fenced().book()
    assert desk.fence("omsd", 2, gateway=1).ok
    desk.place("a", epoch=2, price=99)
    [answer] = desk.handle(a_cancel("a", epoch=epoch))
    assert isinstance(answer, orders.Report) is passes
    assert passes or answer.reason == reasons.STALE_TOKEN


def test_a_cancel_all_of_an_older_epoch_leaves_newer_orders_alone(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    assert desk.fence("omsd", 2, gateway=1).ok
    desk.place("b", epoch=2, price=99)
    *reports, done = desk.handle(cancel_all(epoch=1))
    assert (
        [each.order_id for each in reports] == ["a"]
        and done.cancelled == 1
        and set(desk.venue.working) == {"b"}
    )


def test_a_client_order_id_that_comes_twice_is_counted(desk: Desk) -> None:
    """Under another order id, as whoever sent an order again would have it."""
    desk.fenced().book()
    desk.handle(codec.replace(a_place("a"), client_order_id="mm-1"))
    desk.handle(codec.replace(a_place("b"), client_order_id="mm-2"))
    assert "client_order_ids_twice" not in desk.counts
    desk.handle(codec.replace(a_place("c"), client_order_id="mm-1"))
    assert desk.counts["client_order_ids_twice"] == 1
