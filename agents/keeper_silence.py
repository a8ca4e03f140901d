"""How long a keeper has said nothing, and what follows: an alarm, then its end (R18), so that a frozen one
does not leave a group unled.

Pure: `step` is called at intervals and does the counting. An agent that was stopped itself has heard nothing
either, and that says nothing about the keeper; so one step counts for at most STEP_MAX_S, however late it
comes. A keeper says something at least every BEAT_EVERY_S (keeper/settings.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.leadership.budget import Budget

STEP_S = 0.05
"""Between two steps."""
STEP_MAX_S = 2 * STEP_S
ALARM_MAX_S = 1.0
START_ALARM_S = 5.0
"""A keeper that was started reads its lock, its disk and the interpreter's modules before its first word:
half a second on an idle machine."""
START_END_S = 20.0
"""More than it waits itself for the death of an older one."""


@dataclass(slots=True)
class Silence:
    """Of one keeper's process."""

    started: bool = False
    """By this agent, and not heard yet; one that was adopted has been through its start."""
    s: float = 0.0
    """Seconds of silence in which the agent was there to hear."""

    def heard(self) -> None:
        self.started, self.s = False, 0.0

    def step(self, passed_s: float) -> None:
        """`passed_s` since the step before."""
        self.s += min(passed_s, STEP_MAX_S)

    def alarming(self, budget: Budget) -> bool:
        """Long enough that it is to be said."""
        after_s = min(ALARM_MAX_S, budget.renew_deadline_s / 2)
        return self.s >= (START_ALARM_S if self.started else after_s)

    def to_be_ended(self, budget: Budget) -> bool:
        """Long enough that what it led here has run out: it is of no use any more, and in the way."""
        return self.s >= (START_END_S if self.started else budget.renew_deadline_s)
