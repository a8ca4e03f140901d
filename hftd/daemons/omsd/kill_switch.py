"""The site's kill switch, as omsd obeys it: while it is set no new order and no replacement is taken, and
cancels pass.

It is a plain key of the site's configuration (`kill_switch`, yes or no), which the agent tells at the start
and at each change. Whatever it is but "no" counts as set: a value that is not known, too. Who asks `on`:
desk.py, before each order.
"""

from __future__ import annotations

from controlplane.model.config import KILL_SWITCH
from hftd import runtime

ALARM = "kill_switch"


class KillSwitch:
    __slots__ = ("_context", "on")

    def __init__(self, context: runtime.Context) -> None:
        self._context = context
        self.on = False
        self.look()

    def look(self) -> None:
        """The flag may have changed."""
        value = self._context.flag(KILL_SWITCH, False)
        was, self.on = self.on, value is not False
        if not self.on:
            self._context.clear(ALARM)
        else:
            # Set is what somebody wanted; not known is a fault.
            self._context.alarm(ALARM, "warning" if value is True else "critical", _text(value))
        if self.on != was:
            self._context.event("omsd.kill_switch", on=self.on)


def _text(value: object) -> str:
    means = "new orders and replacements are refused, cancels pass"
    undo = f"`hftctl config set /{KILL_SWITCH} false --reason WHY`"
    if value is True:
        return f"the site's kill switch is set: {means}; {undo} takes it back"
    found = "is not known" if value is None else f"{str(value)[:40]!r} was found, neither yes nor no"
    return f"the site's kill switch counts as set ({found}): {means}; {undo} writes it anew"
