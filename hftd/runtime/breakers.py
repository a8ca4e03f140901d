"""A daemon's circuit breakers: made here, so that each change of state is an event and a line in the log, and
its state and counts are metrics. What they guard: the daemons' own files; how they decide:
controlplane/resilience/breaker.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, MutableMapping

from controlplane.resilience.breaker import Breaker, Settings, State, Transition

_NUMBERS = {state: number for number, state in enumerate(State)}
"""For the gauge: 0 closed, 1 open, 2 half-open, 3 forced open, 4 disabled, 5 metrics only."""


class Breakers:
    def __init__(
        self,
        event: Callable[..., None],
        counters: MutableMapping[str, int],
        gauges: MutableMapping[str, float],
    ) -> None:
        self._event, self._counters, self._gauges = event, counters, gauges
        self._all: dict[str, Breaker] = {}

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._all.values())

    def add(self, name: str, wanted: Settings) -> Breaker:
        made = Breaker(name, wanted, on_transition=self._moved, random=random.random)
        self._all[name] = made
        return made

    def _moved(self, move: Transition) -> None:
        name = f'breaker_transitions{{breaker="{move.name}",to="{move.new.value}"}}'
        self._counters[name] = self._counters.get(name, 0) + 1
        self._event(f"breaker.{move.new.value}", breaker=move.name, was=move.old.value, reason=move.reason)

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
