"""Fault: what bookd and the order path say to one another is rubbish: marks, reports and positions that
cannot be true. test_rubbish_in_daemons.py says what has to become of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hftd.engine import fixed
from hftd.wire import codec, control, market, orders
from tests.integration import test_strategy_to_risk
from tests.support import daemons

pytestmark = pytest.mark.timeout(180)
ONE = fixed.UNIT
UINT64_MAX = (1 << 64) - 1
INT64_MAX = (1 << 63) - 1


@pytest.mark.parametrize("name", ["positiond", "riskd"])
def test_marks_that_cannot_be_true_are_dropped_and_the_next_one_is_taken(tmp_path: Path, name: str) -> None:
    bookd = daemons.Bookd(tmp_path)
    over = market.frame([], UINT64_MAX, 1)
    try:
        with daemons.daemon(tmp_path, name, leads=name == "riskd") as one:
            one.start(bookd.peers)

            def heard() -> bool:
                bookd.instrument()
                bookd.top(99 * ONE, 101 * ONE)
                return "messages" in one.counted("messages", 0).counters

            daemons.wait_for("it reads", heard)
            before = one.counted("messages", 2).counters.get("undecodable", 0)
            wrong = [b"", b"\xff" * 50, over, market.frame([bytes(10)], 1, 1)]
            for frame in wrong:
                bookd.publisher.send(frame)
            status = one.counted("undecodable", before + len(wrong))
            assert "undecodable" in {alarm.id for alarm in status.alarms}
            for price in (INT64_MAX, -INT64_MAX - 1, 0):
                bookd.top(price, price)
            bookd.top(99 * ONE, 101 * ONE)
            one.counted("messages", status.counters["messages"] + 4)
            assert one.process is not None and one.process.poll() is None
    finally:
        bookd.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[test_strategy_to_risk.Stage]:
    """A strategy that quotes, and riskd, which waits for an omsd."""
    settings = {"requote_interval_s": 0.05, "acknowledge_timeout_s": 1.0, "skew_ppm": 0}
    with (
        daemons.daemon(tmp_path, "riskd", {"strategy_silent_s": 1.5}, leads=True) as riskd,
        daemons.daemon(tmp_path, "strategyd", settings, service="strategy-mm") as strategyd,
    ):
        made = test_strategy_to_risk.Stage(tmp_path, riskd, strategyd)
        try:
            test_strategy_to_risk.start(made)
            yield made
        finally:
            made.close()


def test_reports_that_cannot_be_true_neither_end_a_strategy_nor_grow_its_counters(
    stage: test_strategy_to_risk.Stage,
) -> None:
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    first = stage.place(omsd)
    prefix = first.client_order_id.rpartition("-")[0] + "-"
    for number in range(50):
        odd = codec.replace(first, client_order_id=prefix + "9" * (4_290 + number))
        omsd.report(odd, orders.OrderState.REJECTED, reason=f"made up {number}")
    found = stage.strategyd.counted("rejects", 50).counters
    assert {name: count for name, count in found.items() if name.startswith("rejects_by")} == {
        'rejects_by{reason="other"}': 50
    }
    omsd.report(first, orders.OrderState.FILLED, execution=1)
    stage.strategyd.counted("fills")
    daemons.wait_for("it trades on", lambda: stage.place(omsd).side is first.side)


def test_by_a_position_that_is_doubtful_riskd_takes_no_new_risk(stage: test_strategy_to_risk.Stage) -> None:
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    first = stage.place(omsd)
    omsd.report(first, orders.OrderState.WORKING)
    said = stage.said
    stage.said = codec.replace(said, doubtful=True)

    def refused() -> bool:
        stage.market(test_strategy_to_risk.BID + ONE, test_strategy_to_risk.ASK + ONE)
        counters = stage.riskd.until(lambda message: isinstance(message, control.Status)).counters
        return counters.get('refused_by{reason="no_position"}', 0) >= 2

    daemons.wait_for("both sides are refused", refused)
    passed = omsd.next(orders.Cancel)
    assert passed.client_order_id == first.client_order_id, "taking risk away passes"
    stage.said = said
    assert stage.place(omsd).approval is not None
