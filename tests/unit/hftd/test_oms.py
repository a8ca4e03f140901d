"""Order management's promise: an order leaves with an approval or not at all, and what the journal tells is
the same orders again, however often.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model import Token
from hftd.engine import fixed, reasons
from hftd.engine.orders import answers, oms, term
from hftd.wire import codec, orders
from hftd.wire.orders import Kind, OrderState, Side
from tests.support.oms_messages import HEAD, QUANTITY, TOKEN, cancel, place, report

BOUNDS = oms.Bounds(open_orders_max=4, client_order_ids_max=100, closed_orders_max=100, executions_max=5)


def believed(token: oms.Rank) -> bool:
    return token.epoch < 100


@pytest.fixture
def known() -> oms.Oms:
    return oms.Oms("omsd", "riskd", BOUNDS, believed)


def take(known: oms.Oms, *messages: oms.Journaled) -> None:
    for message in messages:
        known.apply(message)


def test_a_replacement_is_one_record_that_moves_both_orders_and_says_so_to_the_auditor(
    known: oms.Oms,
) -> None:
    replacement = msgspec.structs.replace(place(2), replaces="mm-1", replaced_id="omsd-3-1")
    take(known, place(1), replacement)
    assert [each.state for each in known.orders.values()] == [
        OrderState.PENDING_CANCEL,
        OrderState.PENDING_NEW,
    ]
    assert oms.audited("omsd", 3, 2, replacement).details["replaces"] == "omsd-3-1"
    assert (
        orders.cancel_of(replacement).order_id == "omsd-3-1"
        and orders.cancel_of(replacement).client_order_id == "mm-1"
    )


# --- what may leave -----------------------------------------------------------------------------------------


def test_an_order_without_approval_or_with_anothers_signature_is_refused(known: oms.Oms) -> None:
    assert known.objection(place(approval=None)) == reasons.NO_APPROVAL
    assert known.objection(place(approval=TOKEN)) == reasons.NO_APPROVAL
    assert known.objection(place()) == ""


def test_an_approval_without_a_number_approves_nothing(known: oms.Oms) -> None:
    """As a rehearsal carries one; what looks at the signature does not know of rehearsals."""
    for number in (0, -1):
        unsigned = msgspec.structs.replace(
            place(), approval=orders.Approval(number, codec.TokenOnWire(7, "riskd", 3), 1)
        )
        assert known.objection(unsigned) == reasons.NO_APPROVAL


def test_a_rehearsal_changes_nothing_that_an_order_is_judged_by(known: oms.Oms) -> None:
    newer = orders.Approval(0, codec.TokenOnWire(7, "riskd", 9), 1)
    for n in range(BOUNDS.open_orders_max + 1):
        known.rehearse(msgspec.structs.replace(place(n), approval=newer))
    assert known.objection(place()) == "", "neither the newer token was learned nor an order counted"


def test_an_approval_below_riskds_highest_token_is_stale_wherever_that_was_seen(known: oms.Oms) -> None:
    known.learn_risk(Token(7, "riskd", 3))
    assert known.objection(place()) == reasons.STALE_TOKEN
    assert known.objection(place(approval=codec.TokenOnWire(7, "riskd", 4))) == ""
    assert known.objection(place(approval=codec.TokenOnWire(7, "riskd", 3))) == reasons.STALE_TOKEN, (
        "the last approval was seen too"
    )
    known.learn_risk(Token(9, "omsd", 9))
    assert known.objection(place(approval=codec.TokenOnWire(7, "riskd", 4))) == "", (
        "other groups say nothing of riskd"
    )


def test_a_client_order_id_is_refused_when_it_comes_again_even_after_its_order_ended(known: oms.Oms) -> None:
    take(known, place(1), report(1, OrderState.REJECTED))
    assert known.objection(place(1)) == reasons.DUPLICATE
    assert known.objection(msgspec.structs.replace(place(1), strategy="another")) == ""


@pytest.mark.parametrize("change", [{"price": 0}, {"quantity": 0}, {"quantity": -1}])
def test_price_and_quantity_have_to_be_positive(known: oms.Oms, change: dict[str, int]) -> None:
    assert known.objection(msgspec.structs.replace(place(), **change)) == reasons.NOT_POSITIVE


def test_open_orders_are_bounded(known: oms.Oms) -> None:
    take(known, *(place(n) for n in range(1, 5)))
    assert known.objection(place(5)) == reasons.TOO_MANY_ORDERS
    take(known, report(1, OrderState.CANCELLED))
    assert known.objection(place(5)) == ""


def test_a_cancel_finds_its_order_by_either_id_open_or_ended(known: oms.Oms) -> None:
    take(known, place(1), place(2), report(2, OrderState.REJECTED))
    assert known.find(cancel(1)) is known.orders["omsd-3-1"]
    assert known.find(cancel(0, "omsd-3-1")) is known.orders["omsd-3-1"]
    ended = known.find(cancel(2))
    assert ended is not None and not ended.open
    assert known.find(cancel(3)) is None


# --- what happened ------------------------------------------------------------------------------------------


def test_a_report_sent_again_is_no_news(known: oms.Oms) -> None:
    take(
        known,
        place(1),
        report(1, OrderState.WORKING),
        report(1, OrderState.FILLED, filled=QUANTITY, execution=1),
    )
    assert known.judge(report(1, OrderState.WORKING)) is None
    assert known.judge(report(1, OrderState.FILLED, filled=QUANTITY, execution=1)) is None
    assert known.illegal == 0


def test_an_order_keeps_when_it_was_made_and_when_it_changed(known: oms.Oms) -> None:
    def at(ns: int, message: oms.Journaled) -> oms.Journaled:
        return msgspec.structs.replace(message, sent_ns=ns)

    def times() -> tuple[str | int, str | int]:
        row = known.row("omsd-3-1")
        assert row is not None
        return row["created_ns"], row["updated_ns"]

    take(known, at(10, place(1)))
    assert times() == (10, 10)
    take(known, at(20, report(1, OrderState.WORKING)))
    assert times() == (10, 20)
    take(known, at(25, report(1, OrderState.WORKING)))
    assert times() == (10, 20), "told nothing new"
    take(known, at(30, cancel(0, "omsd-3-1")))
    assert times() == (10, 30)
    take(known, at(40, report(1, OrderState.CANCELLED)), at(50, cancel(0, "omsd-3-1")))
    assert times() == (10, 40), "ended"


def test_judging_changes_nothing_until_it_is_committed(known: oms.Oms) -> None:
    take(known, place(1))
    after = known.judge(report(1, OrderState.WORKING))
    assert after is not None and after.state is OrderState.WORKING
    assert known.orders["omsd-3-1"].state is OrderState.PENDING_NEW


def test_a_fill_after_an_end_that_was_only_assumed_counts_and_is_noted(known: oms.Oms) -> None:
    take(known, place(1), report(1, OrderState.CANCELLED, reason=reasons.TAKE_OVER))
    late = report(1, OrderState.FILLED, filled=QUANTITY, execution=8)
    after = known.judge(late)
    assert after is not None
    known.commit(after, late)
    assert known.closed["omsd-3-1"].filled == QUANTITY
    assert known.closed["omsd-3-1"].state is OrderState.CANCELLED
    assert (known.last_execution, known.illegal) == (8, 1)


def test_an_order_that_was_never_replicated_is_known_from_its_report(known: oms.Oms) -> None:
    take(known, report(9, OrderState.PARTIALLY_FILLED, filled=10, execution=4))
    row = known.row("omsd-3-9")
    assert row is not None and (row["status"], row["epoch"], row["filled"]) == (
        "partially_filled",
        3,
        "0.0000001",
    )


def test_executions_are_kept_rising_even_when_one_comes_late_and_are_bounded(known: oms.Oms) -> None:
    for n, execution in enumerate([4, 7, 5, 6], start=1):
        take(known, place(n), report(n, OrderState.FILLED, filled=QUANTITY, execution=execution))
    found = known.executions_after(4)
    assert found is not None and [each.execution_id for each in found] == [5, 6, 7]
    for n, execution in enumerate([8, 9, 10], start=5):
        take(known, place(n), report(n, OrderState.FILLED, filled=QUANTITY, execution=execution))
    assert known.executions_after(5) is None, "6 is the oldest that is left: the venue has to be asked"
    assert known.executions_after(10) == []


steps = st.lists(
    st.one_of(
        st.builds(place, st.integers(1, 3)),
        st.builds(lambda n: cancel(n, f"omsd-3-{n}"), st.integers(1, 3)),
        st.builds(
            lambda n, state, filled, execution: report(
                n, state, filled=QUANTITY if state is OrderState.FILLED else filled, execution=execution
            ),
            st.integers(1, 3),
            st.sampled_from(
                [
                    OrderState.WORKING,
                    OrderState.PARTIALLY_FILLED,
                    OrderState.FILLED,
                    OrderState.CANCELLED,
                    OrderState.REJECTED,
                ]
            ),
            st.integers(0, QUANTITY),
            st.integers(0, 6),
        ),
    ),
    max_size=25,
)


@given(steps=steps)
def test_live_and_replayed_are_the_same_and_every_execution_counts_once(steps: list[oms.Journaled]) -> None:
    live = oms.Oms("omsd", "riskd", BOUNDS, believed)
    journal: list[bytes] = []
    for step in steps:
        if isinstance(step, orders.Place) and live.objection(step):
            continue
        if isinstance(step, orders.Report):
            after = live.judge(step)
            if after is None:
                continue
            own = oms.with_head(
                step, (1, 1, step.sent_ns + 5, "omsd-alpha-1", None)
            )  # as omsd journals it and tells it on
            journal.append(codec.encode(own))
            live.commit(after, own)
        else:
            journal.append(codec.encode(step))
            live.apply(step)
    again = oms.replayed("omsd", "riskd", BOUNDS, believed, journal)
    assert again.rows() == live.rows()
    assert list(again.executions) == list(live.executions)
    ids = [each.execution_id for each in live.executions]
    assert ids == sorted(set(ids))


# --- the audit ----------------------------------------------------------------------------------------------


def test_an_audit_record_is_a_function_of_the_journal_record_alone() -> None:
    epoch = term.of(Token(7, "omsd", 3))
    first, again = (
        oms.audited("omsd", epoch, 12, oms.decode_journaled(codec.encode(place()))) for _ in range(2)
    )
    assert first == again
    assert (first.audit_seq, first.action, first.user) == (12, "ORDER_PLACED", "strategy-mm")
    assert first.token == TOKEN, "of the epoch that wrote it, whoever sends it"
    assert first.details["price"] == "0.0005" and first.details["approval"] == 1


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (report(1, OrderState.WORKING), "ORDER_ACKNOWLEDGED"),
        (report(1, OrderState.PARTIALLY_FILLED, filled=1, execution=1), "ORDER_FILLED"),
        (report(1, OrderState.CANCELLED, reason=reasons.TAKE_OVER), "ORDER_CANCELLED"),
        (report(1, OrderState.REJECTED, reason=reasons.WOULD_TAKE), "ORDER_REJECTED"),
        (answers.ended(HEAD, place(order_id=""), OrderState.REFUSED, reasons.NO_APPROVAL), "ORDER_REFUSED"),
        (cancel(1, "omsd-3-1"), "CANCEL_REQUESTED"),
        (orders.Attach(*HEAD, codec.ProcessOnWire("omsd-alpha-1", "b", 1, 1)), "LEAD_TAKEN"),
    ],
)
def test_every_kind_of_record_has_an_action(message: oms.Journaled, action: str) -> None:
    assert oms.audited("omsd", 1, 1, message).action == action


# --- what was forgotten and is named again ------------------------------------------------------------------

EVENTS = json.loads(
    (Path(__file__).resolve().parents[2] / "cases/orders/15-forgotten-order.json").read_text()
)


@pytest.mark.parametrize(("ids", "executions", "dearer"), [(0, 0, "0"), (7_000_000, 90_000, "1234.5")])
def test_an_old_report_opens_no_order_that_was_forgotten_and_a_late_fill_counts(
    ids: int, executions: int, dearer: str
) -> None:
    known, said = oms.Oms("omsd", "riskd", oms.Bounds(**EVENTS["bounds"]), believed), []
    for event in EVENTS["events"]:
        epoch, number = map(int, event["order"].split("-")[1:])
        name = f"omsd-{epoch}-{number + ids}"
        of = ("strategy-mm", "spot", "BTCUSDT", Side.BUY)
        price, quantity, filled, last = (
            fixed.parse(event.get(key, "0")) for key in ("price", "quantity", "filled", "last")
        )
        price += fixed.parse(dearer)
        if event["what"] == "place":
            head = (*HEAD[:4], codec.TokenOnWire(1, "omsd", 1))
            known.apply(
                orders.Place(*head, event["client"], *of, Kind.LIMIT, price, quantity, 0, 0, order_id=name)
            )
            continue
        execution = event["execution"] + executions if event["execution"] else 0
        state = OrderState[event["state"]]
        found = orders.Report(
            *HEAD, 0, execution, name, event["client"], *of, state, price, quantity, filled,
            price if last else 0, last, "", "", 0,
        )  # fmt: skip
        news = known.judge(found) is not None
        known.apply(found)
        if event.get("again"):
            open_numbers = [int(order_id.split("-")[2]) - ids for order_id in known.orders]
            said.append((news, open_numbers, [one.execution_id - executions for one in known.executions]))
    assert said == [
        (False, [], [1, 2]),
        (False, [], [1, 2]),
        (True, [], [1, 2, 3]),
        (True, [9], [1, 2, 3]),
    ]


def test_reports_of_a_dead_leaders_orders_are_taken_in_any_order(known: oms.Oms) -> None:
    """It had replicated up to the first; what it placed behind that is not ended because a later one is
    known."""
    take(known, place(1))
    for n in (5, 3, 4):
        take(known, report(n, OrderState.WORKING))
    assert [*known.orders] == ["omsd-3-1", "omsd-3-5", "omsd-3-3", "omsd-3-4"]


def test_orders_of_epochs_that_are_no_longer_counted_have_ended() -> None:
    known = oms.Oms("omsd", "riskd", BOUNDS, believed)
    for epoch in range(1, oms.EPOCHS_KEPT + 3):
        name = f"omsd-{epoch}-1"
        take(known, place(epoch, order_id=name))
        take(known, msgspec.structs.replace(report(epoch, OrderState.CANCELLED), order_id=name))
    old = msgspec.structs.replace(report(9, OrderState.WORKING), order_id="omsd-2-7")
    assert known.judge(old) is None
    assert known.judge(msgspec.structs.replace(old, order_id="omsd-3-7")) is not None
    assert known.judge(msgspec.structs.replace(old, order_id="other-2-7")) is not None


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(list(OrderState)), st.integers(0, 9)), max_size=80)
)
def test_what_has_ended_stays_ended_however_often_it_is_told(
    reports: list[tuple[int, OrderState, int]],
) -> None:
    known = oms.Oms("omsd", "riskd", oms.Bounds(100, 1_000, 3, 50), believed)
    for n in range(1, 21):
        take(known, place(n), report(n, OrderState.CANCELLED))
    for n, state, execution in reports:
        take(known, report(n, state, filled=QUANTITY if execution else 0, execution=execution))
    assert all(int(order_id.rsplit("-")[-1]) > 20 for order_id in known.orders)


def test_bounds_that_change_hold_from_the_next_order_on_and_never_hide_what_is_gone() -> None:
    known = oms.Oms("omsd", "riskd", BOUNDS, believed)
    for n in range(1, 41):
        take(known, place(n), report(n, OrderState.FILLED, filled=QUANTITY, execution=n))
    assert len(known.executions) == 5 and len(known.closed) == 40
    known.bounds = msgspec.structs.replace(
        BOUNDS, executions_max=100, closed_orders_max=10, open_orders_max=1
    )
    take(known, place(41), report(41, OrderState.FILLED, filled=QUANTITY, execution=41))
    assert known.executions_after(30) is None, "those dropped under the old bound are the venue's to tell"
    found = known.executions_after(36)
    assert found is not None and [each.execution_id for each in found] == [37, 38, 39, 40, 41]
    assert len(known.closed) == 41 - oms.GONE_AT_ONCE, "a few at a time"
    take(known, place(42), report(42, OrderState.FILLED, filled=QUANTITY, execution=42))
    take(known, place(43), report(43, OrderState.FILLED, filled=QUANTITY, execution=43))
    assert len(known.closed) == 10
    known.apply(place(44))
    assert known.objection(place(45)) == reasons.TOO_MANY_ORDERS
