"""The state of one check, as a value: a result goes in, the next value comes out.

A state changes only after several results in a row that all say so: `failures` worse ones, and then to the
mildest of them; `successes` better ones, and then to the worst of them. So a check that hovers between
warning and critical settles at warning, and one lost packet changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.model.checks import Check, State

ORDER: tuple[State, ...] = ("passing", "warning", "critical")


def worst(states: Iterable[State]) -> State:
    """Passing where there are none."""
    return max(states, key=ORDER.index, default="passing")


@dataclass(frozen=True, slots=True)
class Standing:
    state: State
    since_s: float
    """Monotonic: since when it is in this state."""
    output: str = "not checked yet"
    """Of the last result."""
    recent: tuple[State, ...] = ()
    """The last results, the newest last; as many as a change may need."""
    out: bool = False
    """The instance's registration is taken out because of this check."""

    @classmethod
    def initial(cls, check: Check, now_s: float) -> Standing:
        return cls(check.initial, now_s)

    def take(self, result: State, output: str, check: Check, now_s: float) -> Standing:
        """What it is after one more result."""
        recent = (*self.recent, result)[-max(check.successes, check.failures) :]
        state = self._worse(recent[-check.failures :], check.failures) or self._better(
            recent[-check.successes :], check.successes
        )
        if state is None:
            return dataclasses.replace(self, output=output, recent=recent)
        out = self.out and state != "passing"
        return Standing(state, now_s, output, recent, out)

    def look(self, check: Check, now_s: float) -> Standing:
        """What it is by the time alone: critical for long enough, its registration is taken out."""
        if self.out or self.state != "critical" or not check.deregister_after_s:
            return self
        if now_s - self.since_s < check.deregister_after_s:
            return self
        return dataclasses.replace(self, out=True)

    def under(self, check: Check) -> Standing:
        """The same under changed terms: what has been seen stays, a registration comes back where none is
        taken out any more.
        """
        recent = self.recent[-max(check.successes, check.failures) :]
        return dataclasses.replace(self, recent=recent, out=self.out and bool(check.deregister_after_s))

    def _worse(self, last: tuple[State, ...], needed: int) -> State | None:
        mildest = min(last, key=ORDER.index)
        grew = len(last) >= needed and ORDER.index(mildest) > ORDER.index(self.state)
        return mildest if grew else None

    def _better(self, last: tuple[State, ...], needed: int) -> State | None:
        hardest = worst(last)
        shrank = len(last) >= needed and ORDER.index(hardest) < ORDER.index(self.state)
        return hardest if shrank else None
