"""Fault: messages that decode and cannot be true, sent to execd by omsd and the venue, and to auditd by omsd.

As test_rubbish_on_the_order_path.py: each attack is followed by an order that works, is filled, booked and
audited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.model import Phase, Token
from hftd import bus
from hftd.storage import audit_verify
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.fault import test_rubbish_on_the_order_path as order_path_rubbish
from tests.fault.test_rubbish_on_the_order_path import (
    AUDIT,
    EXECUTION,
    INT64_MIN,
    LONG,
    OMSD,
    UINT64_MAX,
    dropped,
    socket,
    trades,
    why,
)
from tests.support import claims
from tests.support.order_path import INCARNATION, OrderPath
from tests.support.order_stage import active, audit

path = order_path_rubbish.path

# --- execd --------------------------------------------------------------------------------------------------


def test_what_an_order_manager_cannot_mean_costs_execd_that_message(path: OrderPath) -> None:
    alpha = active(path)
    execd, link = path.members["execd-alpha-1"], socket(alpha, EXECUTION)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    head = codec.head("omsd-alpha-1", 1, 0, OMSD)
    cancel = orders.Cancel(*head, "mm-x", "strategy-mm", "spot", "BTCUSDT", 0)
    for count, order_id in enumerate((f"omsd-{LONG}-1", f"omsd-1-{LONG}", "x" * 201), start=1):
        link.send(codec.encode(codec.replace(cancel, order_id=order_id)))
        path.until("it is dropped", lambda count=count: dropped(execd) == count)
    # An id that no omsd makes is for the venue to refuse: taking risk away always passes.
    link.send(codec.encode(codec.replace(cancel, order_id=f"omsd-{'9' * 150}-1")))
    path.until(
        "the venue hears of it", lambda: any(isinstance(each, orders.Cancel) for each in path.venue.heard)
    )
    for message in (
        orders.ReportsSeen(*head, UINT64_MAX),
        orders.ReportsSeen(*head, INT64_MIN),
        orders.CancelAll(*codec.head("omsd-alpha-1", 1), UINT64_MAX),
        orders.OpenOrdersWanted(*head, UINT64_MAX),
        orders.ExecutionsWanted(*head, INT64_MIN, UINT64_MAX),
        orders.AccountsWanted(*head, 1),
        orders.Fence(*head, codec.ProcessOnWire("omsd-alpha-1", "boot", 1, 1)),
        orders.Fence(*codec.head("omsd-alpha-1", 1), codec.ProcessOnWire("omsd-alpha-1", "boot", 1, 1)),
        orders.Attach(*head, codec.ProcessOnWire("omsd-alpha-1", "boot", 1, 1)),
    ):
        link.send(codec.encode(message))
    path.until("the last is refused", lambda: execd.context.counters.get("forged_claims") == 2)
    assert execd.phase is Phase.ACTIVE and next(iter(path.venue.working.values())).client_order_id == name
    path.until("omsd leads on", lambda: alpha.phase is Phase.ACTIVE)
    trades(path)


def test_a_report_of_nobodys_order_holds_up_no_other(path: OrderPath) -> None:
    active(path)
    execd = path.members["execd-alpha-1"]
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    (place,) = path.venue.working.values()
    good = path.venue.report(place, OrderState.WORKING, said=False)
    strange = (f"omsd-1-{LONG}", f"omsd-{'9' * 150}-1", "", "web_4711", "another-1-1")
    for order_id in strange:
        path.venue._say(path.venue.gateway, codec.replace(good, order_id=order_id))
    path.until("they are dropped", lambda: dropped(execd) == len(strange))
    assert "which no order manager has made" in why(execd)
    trades(path)


def test_what_the_venue_answers_to_no_question_changes_nothing(path: OrderPath) -> None:
    alpha, execd = active(path), path.members["execd-alpha-1"]
    head = codec.head("simd-alpha-1", 1)
    for message in (
        orders.Fenced(*head, "omsd", UINT64_MAX, True, ""),
        orders.Fenced(*head, "", INT64_MIN, False, "x", True),
        orders.CancelledAll(*head, UINT64_MAX, UINT64_MAX),
        orders.Executions(*head, INT64_MIN, []),
        orders.OpenOrders(*head, 0, []),
        orders.Refusal(*head, "", "", f"omsd-{'9' * 150}-1"),
        orders.Accounts(*head, 1, [], UINT64_MAX),
        orders.ReportsSeen(*head, UINT64_MAX),
    ):
        path.venue._say(path.venue.gateway, message)  # type: ignore[arg-type]
    path.until("it has read them", lambda: execd.context.counters.get("unexpected"))
    assert execd.phase is Phase.ACTIVE and alpha.phase is Phase.ACTIVE
    trades(path)


# --- auditd -------------------------------------------------------------------------------------------------


def record(sequence: int, **fields: Any) -> bytes:
    head = codec.head("omsd-alpha-1", 1, 0, OMSD)
    made = orders.AuditRecord(*head, sequence, "ORDER_PLACED", "strategy-mm", 1, {"order_id": "omsd-1-5"})
    return codec.encode(codec.replace(made, **fields))


WRONG: list[Callable[[], bytes]] = [
    lambda: record(0),
    lambda: record(INT64_MIN),
    lambda: record(UINT64_MAX),
    lambda: record((1 << 62) + 1),
    lambda: record(5, token=codec.replace(OMSD, epoch=2)),
    lambda: record(5, token=codec.replace(OMSD, epoch=UINT64_MAX)),
    lambda: record(5, token=codec.replace(OMSD, epoch=-1)),
    lambda: record(5, token=codec.replace(OMSD, incarnation=UINT64_MAX)),
    lambda: record(5, action="\N{SNOWMAN}" * 201),
    lambda: record(5, user="u" * 300_000),
    lambda: record(5, details={"text": "\N{SNOWMAN}" * 300_000}),
    lambda: record(5, details={f"{n}": n for n in range(65)}),
    lambda: record(5, details={"deep": [1]}),
    lambda: record(5, details={"share": 0.5}),
]


def test_records_that_no_order_manager_makes_are_not_in_the_log_and_keep_no_true_one_out(
    path: OrderPath,
) -> None:
    alpha = active(path)
    auditd, link = path.members["auditd-alpha-1"], socket(alpha, AUDIT)
    trades(path)
    for count, wrong in enumerate(WRONG, start=1):
        link.send(wrong())
        path.until(f"number {count} is dropped", lambda count=count: dropped(auditd) == count)
    trades(path)
    # What can be is written, however odd.
    link.send(record(6, timestamp_ns=UINT64_MAX, details={"": INT64_MIN}, token=codec.replace(OMSD, epoch=0)))
    path.until("it is written", lambda: audit(path)[-1] == "ORDER_PLACED")
    auditd.kill(clean=True)
    path.start("auditd-alpha-1")
    path.introduce()
    trades(path)
    head = audit_verify.read_head(path.folder / "site" / "audit.head")
    assert audit_verify.verify(path.folder / "site" / "audit", head) == []


def test_a_stranger_writes_nothing_into_the_log(path: OrderPath) -> None:
    """Not over a link that claimed nothing, nor with a forged claim, nor for a group that it does not
    lead.
    """
    active(path)
    auditd = path.members["auditd-alpha-1"]
    trades(path)
    before = audit(path)
    link = bus.link.Dealer("stranger", auditd.context.endpoints["events"])
    process = codec.ProcessOnWire("omsd-eu-alpha-1", "boot", 7, 7)
    try:
        path.until("connected", lambda: link.send(record(1)))
        forged = orders.Attach(*codec.head("omsd-alpha-1", 1, 0, OMSD), process)
        assert link.send(codec.encode(forged)) and link.send(record(1))
        other = Token(INCARNATION, "execd", 1)
        own = orders.Attach(*codec.head("x", 1, 0, codec.TokenOnWire.of(other)), process)
        signed = claims.signed(own, link, path.site_dir)
        assert link.send(codec.encode(signed)) and link.send(record(1))
        path.until("all are refused", lambda: auditd.context.counters.get("not_attached") == 3)
    finally:
        link.close()
    assert audit(path) == before and not dropped(auditd)
    trades(path)
