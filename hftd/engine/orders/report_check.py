"""What a report of the venue must say to be believed: a state that a venue reports, in numbers that an order
can have.

Pure. Each report is judged alone, whether it came by itself or in the venue's list of executions: a wrong one
is dropped and named, and costs no other. Whose order it is of is not judged: what was filled counts, whoever
ordered it. Whether a report that could be true is news, and legal after what is known of its order: oms.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.model import bounds
from hftd.engine.orders.order import OURS_TO_SAY
from hftd.wire import orders
from hftd.wire.codec import NAME_MAX
from hftd.wire.orders import TEXT_MAX


def fault(report: orders.Report) -> str:
    """Why this cannot be true of any order; "" when it can."""
    found = _texts(report) or _numbers(report)
    return f"report of order {report.order_id[:NAME_MAX]!r}: {found}" if found else ""


def list_end(executions: Iterable[orders.Report]) -> int:
    """The highest id of one page of the venue's list, from which the next one is asked for; 0: it is empty.
    An entry that is not believed counts by its id, if an execution can have that: those behind it are told
    all the same.
    """
    ids = (report.execution_id for report in executions)
    return max((each for each in ids if 0 < each <= bounds.INT64_MAX), default=0)


def _texts(report: orders.Report) -> str:
    if not report.order_id:
        return "names no order"
    if report.state in OURS_TO_SAY:
        return f"state {report.state.name}, which is ours to say"
    names = ("order_id", "client_order_id", "strategy", "market", "symbol", "reason")
    for name in names:
        length = len(getattr(report, name))
        if length > NAME_MAX:
            return f"{name} of {length} characters, at most {NAME_MAX} are possible"
    if len(report.text) > TEXT_MAX:
        return f"text of {len(report.text)} characters, at most {TEXT_MAX} are possible"
    return ""


def _numbers(report: orders.Report) -> str:
    most = bounds.INT64_MAX
    for name in ("price", "quantity"):
        if not 0 < getattr(report, name) <= most:
            return f"{name} {getattr(report, name)}, 1 to {most} is possible"
    if not 0 <= report.filled <= report.quantity:
        return f"{report.filled} filled of {report.quantity}"
    if not 0 <= report.execution_id <= most:
        return f"execution {report.execution_id}, 1 to {most} is possible"
    if not report.execution_id:
        return ""
    if not 0 < report.last_quantity <= report.filled:
        return f"execution {report.execution_id}: quantity {report.last_quantity}, {report.filled} filled"
    if not 0 < report.last_price <= most:
        return f"execution {report.execution_id}: price {report.last_price}, 1 to {most} is possible"
    return ""
