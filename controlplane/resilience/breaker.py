"""A circuit breaker: after failures enough it lets no call through for a while, then a few, then all again.
Pure: time is an argument (ns of one monotonic clock), randomness is injected, and nothing here waits.

    permit = breaker.permit(now_ns)          # None: refused, the callee is not asked
    ...                                      # the answer may come by another way, much later
    breaker.record(permit, Outcome.FAIL, now_ns, took_ns)     # or release(permit): nothing was learnt

A permit is the number of the breaker's present state: each change of state raises it, so a result of a call
that began in an earlier state is dropped (and counted as late) instead of judging the callee of today.
In half-open the permits are counted. What an operator forces stands until `auto` or its end, whatever calls
do. What moves to what is in `MOVES`; what is counted: windows.py. For `with`, decorators and threads:
guard.py.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.resilience import backoff, windows
from controlplane.resilience.outcome import Outcome


class State(enum.Enum):
    CLOSED = "closed"
    """Calls pass and are counted."""

    OPEN = "open"
    """Calls are refused until the open time is over."""

    HALF_OPEN = "half_open"
    """So many calls pass as there are permits; their results decide."""

    FORCED_OPEN = "forced_open"
    """An operator keeps it open."""

    DISABLED = "disabled"
    """An operator lets everything pass; nothing is judged."""

    METRICS_ONLY = "metrics_only"
    """An operator lets everything pass; what it would have done is only counted."""


FORCED = frozenset({State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY})
REFUSES = frozenset({State.OPEN, State.FORCED_OPEN})
PASSES = frozenset({State.CLOSED, State.DISABLED, State.METRICS_ONLY})
"""All calls, and a success changes nothing but a count."""

MOVES: dict[State, frozenset[State]] = {
    State.CLOSED: frozenset({State.OPEN}) | FORCED,
    State.OPEN: frozenset({State.HALF_OPEN}) | FORCED,
    State.HALF_OPEN: frozenset({State.OPEN, State.CLOSED}) | FORCED,
    **{state: (FORCED - {state}) | {State.CLOSED} for state in FORCED},
}
"""Every legal change of state; anything else is a fault of this file."""


@dataclass(frozen=True, slots=True)
class Settings:
    window: windows.Kind = field(default_factory=windows.Consecutive)
    """What is counted and when it opens: 5 failures in a row."""

    open: backoff.Policy = field(default_factory=lambda: backoff.Policy(first_s=30, factor=1, max_s=30))
    """How long it stays open. A factor above 1 makes each opening longer that follows a failed half-open;
    jitter keeps many hosts from coming back at the same moment."""

    success_threshold: int = 2
    """So many successes in half-open close it; one failure opens it again."""

    half_open_permits: int = 2
    """Calls that may be out at once while half-open. More than success_threshold only helps if some are
    never answered."""

    slow_s: float | None = None
    """A call that took longer was slow. None: none is, save those that are recorded as slow."""

    permit_lost_s: float = 30.0
    """While half-open with all permits out: the last one is given up after this, which counts as a failure.
    Without it one caller that never reports would keep the breaker half-open for ever."""

    def __post_init__(self) -> None:
        for name in ("success_threshold", "half_open_permits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, at least 1 is wanted")
        if self.slow_s is not None and not self.slow_s > 0:
            raise ValueError(f"slow_s: {self.slow_s}, above 0 is wanted (None switches it off)")


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, as an event."""

    name: str
    old: State
    new: State
    at_ns: int
    reason: str
    """For people: what was too much, or an operator's own words."""


@dataclass(slots=True)
class Tally:
    """Calls so far, by what became of them. Only ever rises."""

    ok: int = 0
    failed: int = 0
    slow: int = 0
    """Slow and answered; one that was slow and failed has failed."""

    ignored: int = 0
    refused: int = 0
    late: int = 0
    """Results of a call that began in an earlier state: dropped."""


def _unheard(_: Transition) -> None:
    pass


def _slow_ns(settings: Settings) -> int:
    return windows.FOREVER_NS if settings.slow_s is None else int(settings.slow_s * 1e9)


class Breaker:
    """Not for two threads at once: guard.py has the lock."""

    def __init__(
        self,
        name: str,
        settings: Settings | None = None,
        *,
        on_transition: Callable[[Transition], None] = _unheard,
        random: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`on_transition` is called in the midst of a call and must be quick; `random` gives 0 <= x < 1."""
        self.name = name
        self.settings = settings or Settings()
        self.tally = Tally()
        self.state = State.CLOSED
        self.generation = 1
        """The permit of calls that begin now."""
        self.since_ns = 0
        """When the state began."""
        self.reason = ""
        """Of the last transition."""
        self.until_ns: int | None = None
        """Open: when it is tried. Forced: when that ends, None for never."""
        self.window = self.settings.window.window()
        self._on_transition, self._random = on_transition, random
        self._slow_ns = _slow_ns(self.settings)
        self._openings = 0
        """In a row, without having been closed between them."""
        self._out = self._succeeded = 0
        """Of half-open: permits that are out, and calls that were fine."""
        self._last_permit_ns = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state.value}{f': {self.reason}' if self.reason else ''}>"

    # --- calls ----------------------------------------------------------------------------------------------

    def permit(self, now_ns: int) -> int | None:
        """May a call begin? Its permit, for `record` or `release`; None when it may not."""
        self.look(now_ns)
        state = self.state
        if state in REFUSES or (state is State.HALF_OPEN and self._out >= self.settings.half_open_permits):
            self.tally.refused += 1
            return None
        if state is State.HALF_OPEN:
            self._out += 1
            self._last_permit_ns = now_ns
        return self.generation

    def record(self, permit: int, outcome: Outcome, now_ns: int, took_ns: int = 0) -> None:
        """What became of a call, once for each permit. `took_ns` is compared with `slow_s`."""
        if outcome is Outcome.IGNORE:
            self.release(permit)
            return
        if permit != self.generation:
            self.tally.late += 1
            return
        failed = outcome is Outcome.FAIL
        slow = outcome is Outcome.SLOW or took_ns > self._slow_ns
        if failed:
            self.tally.failed += 1
        elif slow:
            self.tally.slow += 1
        else:
            self.tally.ok += 1
        if self.state is State.HALF_OPEN:
            self._probed(failed or slow, now_ns)
        elif self.state is not State.DISABLED:
            too_much = self.window.add(now_ns, failed, slow)
            if too_much and self.state is State.CLOSED:
                self._open(too_much, now_ns)

    def record_plain(self, calls: int, at_ns: int) -> None:
        """So many calls of the present state succeeded in time: counted together, for guard.py, and only in
        a state that lets all calls pass.
        """
        self.tally.ok += calls
        if self.state is not State.DISABLED:
            self.window.add_plain(at_ns, calls)

    def release(self, permit: int) -> None:
        """The call told nothing (it was cancelled, or never sent): give its permit back."""
        self.tally.ignored += 1
        if permit == self.generation and self.state is State.HALF_OPEN and self._out:
            self._out -= 1

    def _probed(self, bad: bool, now_ns: int) -> None:
        self._out = max(0, self._out - 1)
        if bad:
            self._open("a call failed while half-open", now_ns)
            return
        self._succeeded += 1
        if self._succeeded >= self.settings.success_threshold:
            self._openings = 0
            self._move(State.CLOSED, now_ns, f"{self._succeeded} calls succeeded while half-open")

    # --- time -----------------------------------------------------------------------------------------------

    def look(self, now_ns: int) -> None:
        """Do what is due by now. `permit` does it itself; call it also where the state is shown."""
        if self.state is State.HALF_OPEN:
            lost_ns = int(self.settings.permit_lost_s * 1e9)
            if self._out >= self.settings.half_open_permits and now_ns - self._last_permit_ns >= lost_ns:
                self._open("calls made while half-open were never answered", now_ns)
        elif self.until_ns is not None and now_ns >= self.until_ns:
            if self.state is State.OPEN:
                self._move(State.HALF_OPEN, now_ns, "its open time is over")
            else:
                self.auto(now_ns, "the operator's override has ended")

    def _open(self, reason: str, now_ns: int) -> None:
        open_s = self.settings.open.delay_s(self._openings, self._random)
        self._openings += 1
        self._move(State.OPEN, now_ns, reason, now_ns + int(open_s * 1e9))

    def another_callee(self, now_ns: int, reason: str) -> None:
        """Another process answers there now (it was restarted, or another leads): failures of the one before
        say nothing of it. Closed, they are forgotten; open, it is tried at once.
        """
        if self.state is State.CLOSED:
            self.window = self.settings.window.window()
        elif self.state is State.OPEN:
            self._move(State.HALF_OPEN, now_ns, reason)

    # --- operators ------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """Judge by these from now on. Its state, all counts and what an operator has forced stay; an open one
        is tried when these say, where that is sooner.
        """
        if settings == self.settings:
            return
        self.window = windows.carried_over(self.window, settings.window)
        self.settings, self._slow_ns = settings, _slow_ns(settings)
        if self.state is State.OPEN and self.until_ns is not None:
            open_s = settings.open.delay_s(max(0, self._openings - 1), self._random)
            self.until_ns = min(self.until_ns, self.since_ns + int(open_s * 1e9))

    def force(self, state: State, now_ns: int, reason: str, until_ns: int | None = None) -> None:
        """Put it into one of `FORCED` until `until_ns` (None: until `auto`). Forcing the same again only
        changes reason and end.
        """
        if state not in FORCED:
            raise ValueError(f"{state.value}: not a state that is forced")
        if state is self.state:
            self.reason, self.until_ns = reason, until_ns
        else:
            self._move(state, now_ns, reason, until_ns)

    def auto(self, now_ns: int, reason: str) -> None:
        """End what was forced: closed, with nothing counted against it. Nothing when nothing was."""
        if self.state in FORCED:
            self._openings = 0
            self._move(State.CLOSED, now_ns, reason)

    def _move(self, new: State, now_ns: int, reason: str, until_ns: int | None = None) -> None:
        old = self.state
        if new not in MOVES[old]:
            raise AssertionError(f"breaker {self.name}: {old.value} to {new.value} is no move")
        self.state, self.since_ns, self.reason, self.until_ns = new, now_ns, reason, until_ns
        self.generation += 1
        self._out = self._succeeded = 0
        self.window = self.settings.window.window()
        self._on_transition(Transition(self.name, old, new, now_ns, reason))
