"""A daemon's circuit breakers: made here, so that each change of state is an event and a line in the log, its
state and counts are metrics and part of the status, and an operator's override reaches it. What they guard:
the daemons' own files; how they decide: controlplane/resilience/breaker.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, MutableMapping, Sequence

from controlplane.model import bounds
from controlplane.resilience.breaker import FORCED, PASSES, Breaker, Settings, State, Transition
from hftd.wire import control

_NUMBERS = {state: number for number, state in enumerate(State)}
"""For the gauge: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only."""
NAME_MAX = 128


class Breakers:
    def __init__(
        self,
        event: Callable[..., None],
        alarm: Callable[[str, str], None],
        counters: MutableMapping[str, int],
        gauges: MutableMapping[str, float],
    ) -> None:
        """`event(kind, **fields)` is told each change of state; `alarm(id, text)` raises an alarm, and clears
        it with an empty text.
        """
        self._event, self._alarm = event, alarm
        self._counters, self._gauges = counters, gauges
        self._all: dict[str, Breaker] = {}

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._all.values())

    def add(self, name: str, wanted: Settings) -> Breaker:
        name = bounds.cut(name, NAME_MAX)
        made = Breaker(name, wanted, on_transition=self._moved, random=random.random)
        self._all[name] = made
        return made

    def _moved(self, move: Transition) -> None:
        name = f'breaker_transitions{{breaker="{move.name}",to="{move.new.value}"}}'
        self._counters[name] = self._counters.get(name, 0) + 1
        self._event(f"breaker.{move.new.value}", breaker=move.name, was=move.old.value, reason=move.reason)
        if move.new in PASSES:
            self._alarm(f"breaker_open.{move.name}", "")
        elif move.new is not State.HALF_OPEN:  # on trial it has not closed yet
            self._alarm(
                f"breaker_open.{move.name}",
                f"the circuit breaker {move.name} lets no call through ({move.reason}): new orders are "
                "refused, cancels pass; see `hftctl breaker list`",
            )

    def override(self, overrides: Sequence[control.OverrideOnWire], mono_ns: int, boot_ns: int) -> None:
        """All overrides that are in force; a breaker that none names decides for itself again. Both times
        are now, by two clocks: an override ends in boot time, breakers count in monotonic time.
        """
        by_name = {each.name: each for each in overrides}
        for name, breaker in self._all.items():
            wanted = by_name.get(name)
            left_ns = wanted.until_boot_ns - boot_ns if wanted and wanted.until_boot_ns else None
            if wanted is None or (left_ns is not None and left_ns <= 0):
                breaker.auto(mono_ns, "the operator's override was taken back")
                continue
            until_ns = None if left_ns is None else mono_ns + left_ns
            breaker.force(State(wanted.state), mono_ns, wanted.reason, until_ns)

    def rows(self, mono_ns: int, wall_ns: int) -> list[control.BreakerOnWire]:
        return [
            control.BreakerOnWire(
                name=each.name,
                state=each.state.value,
                forced=each.state in FORCED,
                reason=bounds.cut(each.reason),
                until_ns=0 if each.until_ns is None else max(0, wall_ns + each.until_ns - mono_ns),
                calls=each.tally.ok + each.tally.failed + each.tally.slow,
                failures=each.tally.failed,
                slow=each.tally.slow,
                refused=each.tally.refused,
            )
            for each in self._all.values()
        ]

    def each_second(self, now_ns: int) -> None:
        """Do what is due, and bring the metrics up to date."""
        for each in self._all.values():
            each.look(now_ns)
            tally = each.tally
            self._gauges[f'breaker_state{{breaker="{each.name}"}}'] = _NUMBERS[each.state]
            for kind, count in (
                ("ok", tally.ok),
                ("failed", tally.failed),
                ("slow", tally.slow),
                ("ignored", tally.ignored),
                ("refused", tally.refused),
                ("late", tally.late),
            ):
                self._counters[f'breaker_calls{{breaker="{each.name}",kind="{kind}"}}'] = count
