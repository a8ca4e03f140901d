"""What a new leader asks of receivers and the venue, in which order, and what counts as an answer."""

from __future__ import annotations

from controlplane.model import Phase, Token
from hftd.engine.orders.takeover import Due, Takeover
from hftd.wire import orders
from hftd.wire.orders import OrderState, Side
from tests.support.oms_messages import HEAD, report

LEAD = Token(7, "omsd", 4)


def fenced(*, ok: bool = True, epoch: int = 4, reason: str = "") -> orders.Fenced:
    return orders.Fenced(*HEAD, "omsd", epoch, ok, reason)


def reconciling(last_execution: int = 5) -> Takeover:
    lead = Takeover(fence_retry_ns=50, reconcile_timeout_ns=500)
    lead.lead(LEAD, last_execution, now_ns=0)
    assert lead.due(0) is Due.FENCE
    assert lead.fenced(fenced(), 1) is Due.RECONCILE
    return lead


def answers(lead: Takeover, *executions: orders.Report) -> list[Due | None]:
    request = lead.request
    told = (
        orders.CancelledAll(*HEAD, request, 0),
        orders.OpenOrders(*HEAD, request + 1, []),
        orders.Executions(*HEAD, request + 2, list(executions)),
    )
    return [lead.answered(each) for each in told]


def test_nothing_is_asked_of_the_venue_before_the_fence_stands() -> None:
    lead = Takeover(fence_retry_ns=50, reconcile_timeout_ns=500)
    lead.lead(LEAD, 0, now_ns=0)
    assert lead.fenced(fenced(ok=False, reason="not_active"), 1) is None
    assert lead.fenced(fenced(epoch=3), 2) is None
    assert answers(lead) == [None, None, None]
    assert (lead.phase, lead.refusal) == (Phase.FENCING, "not_active")


def test_a_fence_without_an_answer_is_sent_again() -> None:
    lead = Takeover(fence_retry_ns=50, reconcile_timeout_ns=500)
    lead.lead(LEAD, 0, now_ns=0)
    assert [lead.due(now_ns) for now_ns in (0, 49, 50, 99, 100)] == [
        Due.FENCE,
        None,
        Due.FENCE,
        None,
        Due.FENCE,
    ]


def test_all_three_answers_make_it_complete_in_any_order() -> None:
    assert answers(reconciling()) == [None, None, Due.COMPLETE]


def test_executions_are_asked_for_page_by_page_until_there_is_none() -> None:
    lead = reconciling(last_execution=5)
    assert (
        answers(lead, report(1, OrderState.FILLED, execution=6), report(2, OrderState.FILLED, execution=7))[
            -1
        ]
        is Due.MORE
    )
    assert lead.after_execution == 7
    assert lead.answered(orders.Executions(*HEAD, lead.request + 2, [])) is Due.COMPLETE


def test_answers_to_an_earlier_try_do_not_count() -> None:
    lead = reconciling()
    stale = lead.request
    assert lead.due(501) is Due.FENCE
    lead.fenced(fenced(), 502)
    assert lead.answered(orders.CancelledAll(*HEAD, stale, 0)) is None
    assert answers(lead)[-1] is Due.COMPLETE


def test_an_order_still_open_after_cancel_all_holds_the_lead_back() -> None:
    lead = reconciling()
    order = orders.OpenOrder("omsd-3-1", "mm-1", "strategy-mm", "spot", "BTCUSDT", Side.BUY, 1, 1, 0)
    lead.answered(orders.CancelledAll(*HEAD, lead.request, 0))
    lead.answered(orders.OpenOrders(*HEAD, lead.request + 1, [order]))
    assert lead.answered(orders.Executions(*HEAD, lead.request + 2, [])) is None
    assert lead.due(600) is Due.FENCE, "and all is asked again"


def test_a_second_try_asks_from_where_the_first_began() -> None:
    lead = reconciling(last_execution=5)
    lead.again(last_execution=9, now_ns=600)
    lead.taken = True
    lead.again(last_execution=12, now_ns=700)
    assert lead.after_execution == 9, "executions that came in meanwhile say nothing of those before them"
    lead.complete()
    lead.again(last_execution=12, now_ns=800)
    assert lead.after_execution == 12


def test_standing_by_forgets_the_lead() -> None:
    lead = reconciling()
    lead.stand_by()
    assert (lead.phase, lead.token, lead.leading, lead.due(10_000)) == (Phase.STANDBY, None, False, None)
