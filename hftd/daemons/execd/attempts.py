"""Who tries what nobody may: orders that riskd did not approve, and messages with the right token over a
connection that did not claim it.

They are refused where they come in (desk.py, daemon.py) and nothing of them is kept; here they are counted,
and stand as one alarm of each kind until it has been quiet for a while. An order manager that only came late
(a lower token, a lapsed lease) is not among them.
"""

from __future__ import annotations

import time

from hftd import runtime
from hftd.engine import reasons

QUIET_NS = 60_000_000_000
"""Long enough for somebody to look, and for one attacker to make one alarm, not a thousand."""

_ALARMS = {
    reasons.NO_APPROVAL: "unapproved_orders",
    reasons.FORGED_APPROVAL: "unapproved_orders",
    reasons.APPROVAL_USED: "unapproved_orders",
    reasons.WRONG_LINK: "foreign_connection",
}
_TEXTS = {
    "unapproved_orders": "an order came without a valid approval of riskd and was refused: its sender forges "
    "orders, or riskd and execd are of different releases or have different site.key files",
    "foreign_connection": "another process uses the order manager's token and was refused; trading goes on. "
    "Look for processes of this floor's user that do not belong to it",
}


class Attempts:
    def __init__(self, context: runtime.Context) -> None:
        self._context = context
        self._last_ns: dict[str, int] = {}

    def refused(self, reason: str) -> None:
        """Count a refusal; raise the alarm that its reason has, if it has one."""
        self._context.count(f'refused_by{{reason="{reason}"}}')
        alarm = _ALARMS.get(reason)
        if alarm is not None:
            self._last_ns[alarm] = time.monotonic_ns()
            self._context.alarm(alarm, "critical", _TEXTS[alarm])

    def each_second(self, now_ns: int) -> None:
        for alarm, last_ns in list(self._last_ns.items()):
            if now_ns - last_ns >= QUIET_NS:
                del self._last_ns[alarm]
                self._context.clear(alarm)
