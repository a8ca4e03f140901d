"""The venue's order desk: orders and their reports, in order and once, what is journaled before it is said,
and what is left after a crash. Who may send: test_simd_tokens.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hftd.daemons.simd import journal, session
from hftd.engine import fixed, reasons
from hftd.storage.journal import JournalFull
from hftd.venues import binance
from hftd.wire import orders
from hftd.wire.orders import Kind, OrderState, Side
from tests.support.simd_desk import (
    EXECD,
    OTHER,
    UNIT,
    Desk,
    a_cancel,
    cancel_all,
    envelope,
    token,
    told,
    trade,
)


@pytest.fixture
def desk(tmp_path: Path):
    made = Desk(tmp_path)
    yield made
    made.close()


# --- orders and their reports -------------------------------------------------------------------------------


def test_an_order_rests_fills_and_moves_the_account(desk: Desk) -> None:
    desk.fenced().book()
    assert told(desk.place("a", quantity=2 * UNIT)) == [("a", OrderState.WORKING, 0)]
    before = len(desk.out)
    desk.tape(trade(100, 6 * UNIT))
    desk.tape(trade(99, 9 * UNIT))
    reports = [answer for _, answer in desk.out[before:]]
    assert told(reports) == [("a", OrderState.PARTIALLY_FILLED, UNIT), ("a", OrderState.FILLED, 2 * UNIT)]
    assert [(each.execution_id, each.last_price, each.last_quantity) for each in reports] == [
        (1, 100 * UNIT, UNIT),
        (2, 100 * UNIT, UNIT),
    ]
    assert (
        reports[0].client_order_id == "c-a"
        and reports[0].strategy == "strategy-mm"
        and reports[0].price == 100 * UNIT
    )
    [answer] = desk.handle(orders.AccountsWanted(*envelope(1), 4))
    assert (answer.request, answer.accounts, answer.last_execution) == (
        4,
        [orders.Account("spot", "BTCUSDT", 2 * UNIT, -200 * UNIT)],
        2,
    )
    assert desk.counts == {"orders": 1, "fills": 2}


def test_rejections_carry_a_reason_and_its_sentence(desk: Desk) -> None:
    desk.fenced()
    [early] = desk.place("a")
    assert (early.state, early.reason) == (OrderState.REJECTED, reasons.NO_PRICE)
    desk.book()
    [taking] = desk.place("b", price=102, kind=Kind.POST_ONLY)
    assert (taking.state, taking.reason, taking.text) == (
        OrderState.REJECTED,
        reasons.WOULD_TAKE,
        "Post-only order would take liquidity",
    )
    desk.book(instrument=1)
    for market, symbol in (("cm", "BTCUSD_PERP"), ("spot", "DOGE")):
        [foreign] = desk.place(f"c-{symbol}", market=market, symbol=symbol)
        assert foreign.reason == reasons.UNKNOWN_INSTRUMENT
    assert desk.counts["rejects"] == 4


def test_a_cancel_ends_an_order_and_a_second_one_hears_the_last_word_again(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    [first] = desk.handle(a_cancel("a"))
    [again] = desk.handle(a_cancel("a"))
    assert first == again and (first.state, first.reason) == (OrderState.CANCELLED, "")
    [unknown] = desk.handle(a_cancel("never"))
    assert isinstance(unknown, orders.Refusal) and (unknown.reason, unknown.order_id) == (
        reasons.UNKNOWN_ORDER,
        "never",
    )


def test_a_replacement_cancels_first_whatever_becomes_of_the_new_order(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    assert told(desk.place("b", price=99, replaced_id="a")) == [
        ("a", OrderState.CANCELLED, 0),
        ("b", OrderState.WORKING, 0),
    ]
    assert desk.fence("omsd", 2, gateway=1).ok
    cancelled, refused = desk.place("c", replaced_id="b")
    assert told([cancelled]) == [("b", OrderState.CANCELLED, 0)] and refused.reason == reasons.STALE_TOKEN
    assert not desk.venue.working
    desk.place("d", epoch=2)
    assert [answer.reason for answer in desk.place("e", replaced_id="d")] == [reasons.STALE_TOKEN] * 2, (
        "a newer epoch's order is not its to cancel"
    )


def test_an_order_id_is_used_once(desk: Desk) -> None:
    """Refused as a message: a report would end the order that works under this id."""
    desk.fenced().book()
    desk.place("a")
    for _ in range(2):
        [refusal] = desk.place("a")
        assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.DUPLICATE
        desk.handle(a_cancel("a"))


def test_open_orders_and_executions_are_told_when_wanted(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=102, quantity=UNIT)
    desk.place("b", price=102, quantity=7 * UNIT)
    [answer] = desk.handle(orders.OpenOrdersWanted(*envelope(1), 5, token("execd", 1)))
    assert [(each.order_id, each.filled, each.quantity) for each in answer.orders] == [
        ("b", 4 * UNIT, 7 * UNIT)
    ]
    [executions] = desk.handle(orders.ExecutionsWanted(*envelope(1), 6, 1, token("execd", 1)))
    assert [(each.execution_id, each.order_id) for each in executions.executions] == [(2, "b")]


def test_cancel_all_reports_each_order_before_it_answers(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    desk.place("b", Side.SELL, 103)
    *reports, done = desk.handle(cancel_all())
    assert (
        told(reports) == [("a", OrderState.CANCELLED, 0), ("b", OrderState.CANCELLED, 0)]
        and reports[0].reason == reasons.TAKE_OVER
    )
    assert isinstance(done, orders.CancelledAll) and (done.request, done.cancelled) == (9, 2)


def test_the_end_of_the_tape_cancels_and_closes(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    assert desk.venue.end() == 1
    desk.session.pump()
    assert (desk.out[-1][1].state, desk.out[-1][1].reason) == (OrderState.CANCELLED, reasons.TAPE_END)
    [late] = desk.place("b", price=99)
    assert late.reason == reasons.TAPE_END


# --- saying it, once and in order ---------------------------------------------------------------------------


def test_reports_wait_for_a_gateway_that_is_away_and_keep_their_order(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", quantity=2 * UNIT)
    desk.connected = False
    desk.tape(trade(99, UNIT))
    assert desk.handle(a_cancel("a")) == [] and desk.session.unsent == 2
    desk.connected = True
    before = len(desk.out)
    desk.session.pump()
    assert told([answer for _, answer in desk.out[before:]]) == [
        ("a", OrderState.PARTIALLY_FILLED, UNIT),
        ("a", OrderState.CANCELLED, UNIT),
    ]


def test_reports_go_to_the_newest_gateway(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    assert desk.fence("execd", 2, by="execd-beta-1", sender=OTHER).ok
    desk.place("never", gateway=1)
    desk.tape(trade(99, UNIT))
    assert desk.out[-1][0] == OTHER and desk.out[-1][1].state is OrderState.FILLED
    assert desk.out[-2][0] == EXECD and desk.out[-2][1].reason == reasons.STALE_TOKEN


def test_a_full_journal_refuses_orders_holds_reports_back_and_loses_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.fenced().book()
    desk.place("a", quantity=2 * UNIT)
    append = desk.journal.append

    def full(_: object) -> None:
        raise JournalFull("no room")

    monkeypatch.setattr(desk.journal, "append", full)
    before = len(desk.out)
    desk.tape(trade(99, UNIT))
    assert desk.out[before:] == [] and desk.session.full == "no room"
    [refusal] = desk.place("b", price=99)
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.JOURNAL_FULL
    monkeypatch.setattr(desk.journal, "append", append)
    deadline = time.monotonic() + 10
    while desk.session.full:
        assert time.monotonic() < deadline
        desk.session.recover()
    assert (
        told([desk.out[-1][1]]) == [("a", OrderState.PARTIALLY_FILLED, UNIT)] and len(desk.out) == before + 2
    )
    assert desk.session.full == "" and told(desk.place("c", price=99)) == [("c", OrderState.WORKING, 0)]


def test_a_gateway_that_does_not_read_can_only_cancel(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OUTBOX_MAX", 2)
    desk.fenced().book()
    desk.connected = False
    for order_id in ("a", "b", "c", "d"):
        desk.place(order_id, price=99)
    assert set(desk.venue.working) == {"a", "b"} and desk.counts["not_taken"] == 2
    desk.handle(a_cancel("a"))
    assert set(desk.venue.working) == {"b"} and desk.session.unsent == 3
    desk.place("e", price=99, replaced_id="b")
    assert not desk.venue.working and desk.counts["not_taken"] == 3


def test_after_a_crash_accounts_and_numbers_go_on_and_working_orders_are_cancelled(tmp_path: Path) -> None:
    first = Desk(tmp_path).fenced()
    first.book()
    first.place("done", price=102)
    first.place("part", quantity=3 * UNIT, price=101)
    first.tape(trade(101, UNIT))
    first.place("open", Side.SELL, 104)
    first.place("gone", Side.SELL, 105)
    first.handle(a_cancel("gone"))
    first.close()  # the journal's lock, as the kernel would

    second = Desk(tmp_path, gateway=EXECD)
    assert [(place.order_id, filled) for place, filled in second.journal.working.values()] == [
        ("part", UNIT),
        ("open", 0),
    ]
    second.venue.restarted(second.journal.working.values())
    second.session.pump()
    reports = [answer for identity, answer in second.out if identity == EXECD]
    assert (
        told(reports) == [("part", OrderState.CANCELLED, UNIT), ("open", OrderState.CANCELLED, 0)]
        and reports[0].reason == reasons.VENUE_RESTART
    )
    assert second.venue.open_accounts() == [orders.Account("spot", "BTCUSDT", 2 * UNIT, -203 * UNIT)]
    [executions] = second.handle(orders.ExecutionsWanted(*envelope(1), 1, 0, token("execd", 1)))
    assert [each.execution_id for each in executions.executions] == [1, 2]
    second.book()
    assert second.place("next", price=102)[0].execution_id == 3
    second.close()

    third = Desk(tmp_path)
    assert not third.journal.working and third.journal.last_execution == 3
    assert third.venue.open_accounts() == [orders.Account("spot", "BTCUSDT", 3 * UNIT, -305 * UNIT)]
    third.close()


# --- the tape -----------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_venues_own_format_and_comes_only_from_a_book_in_step(desk: Desk) -> None:
    assert desk.venue.snapshot(0) is None and desk.venue.snapshot(99) is None
    desk.tape(
        binance.snapshot(
            10, [(fixed.parse("61837.63"), fixed.parse("3.78826"))], [(fixed.parse("61837.64"), UNIT)]
        )
    )
    desk.tape(
        binance.diff("BTCUSDT", 1, 11, 12, [(fixed.parse("61837.6"), UNIT)], [(fixed.parse("61837.64"), 0)])
    )
    assert desk.venue.snapshot(0) == (
        1,
        b'{"lastUpdateId":12,"bids":[["61837.63","3.78826"],["61837.6","1"]],"asks":[]}',
    )


def test_an_undecodable_line_says_why_and_changes_nothing(desk: Desk) -> None:
    desk.book()
    assert "unknown shape" in desk.venue.line(0, 2, b'{"stream":"btcusdt@trade","data":{')
    assert desk.venue.snapshot(0) is not None


def test_rebuilding_makes_the_same_book(tmp_path: Path) -> None:
    lines = [
        binance.snapshot(10, [(100 * UNIT, UNIT)], [(102 * UNIT, UNIT)]),
        trade(100, UNIT),
        binance.ticker("BTCUSDT", 11, (100 * UNIT, 1, 102 * UNIT, 1)),
        binance.diff("BTCUSDT", 1, 11, 12, [(101 * UNIT, 7)], []),
    ]
    made = Desk(tmp_path / "a"), Desk(tmp_path / "b")
    for raw in lines:
        made[0].tape(raw)
        made[1].venue.rebuild(0, 1, raw)
    assert made[0].venue.snapshot(0) == made[1].venue.snapshot(0) is not None
    for each in made:
        each.close()


def test_the_position_is_that_of_one_tape_and_a_clean_end_is_said(tmp_path: Path) -> None:
    ours, other = journal.identity(["a:1"]), journal.identity(["b:1"])
    first = journal.Position(tmp_path, ours)
    assert (first.lines, first.session, first.ended_well) == (0, 0, True)
    first.write(1234, 77)
    first.close()
    again = journal.Position(tmp_path, ours)
    assert (again.lines, again.session, again.ended_well) == (1234, 77, False)
    again.close()
    changed = journal.Position(tmp_path, other)
    assert (changed.lines, changed.session) == (0, 77)
    changed.write(0, 78, ended_well=True)
    changed.close()
    torn = (tmp_path / "position").read_bytes()
    (tmp_path / "position").write_bytes(torn[:-1] + b"\0")
    damaged = journal.Position(tmp_path, other)
    assert (damaged.lines, damaged.session) == (0, 0)
    damaged.close()
