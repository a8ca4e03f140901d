"""What the ended processes of this host had counted: a new process counts from zero, the site's flow must
not.

By daemon and not by instance, so that it holds for an instance that is no longer wanted too. In the memory of
the agent: a new agent hears the whole count of each process that runs, and begins here with nothing.
Prometheus does not see this: it knows a counter that begins again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from controlplane.model.bounds import INT64_MAX
from controlplane.model.observed import EndedCounters
from controlplane.site import histogram


class Ledger:
    def __init__(self) -> None:
        self._counters: dict[str, Counter[str]] = {}
        self._histograms: dict[str, dict[str, histogram.Histogram]] = {}

    def __repr__(self) -> str:
        return f"<Ledger of {', '.join(sorted(self._counters)) or 'none'}>"

    def take(
        self, daemon: str, counters: Mapping[str, int], histograms: Mapping[str, Mapping[int, int]]
    ) -> None:
        """The last report of a process that has ended; what it counted after that nobody knows."""
        counted, kept = self._counters.setdefault(daemon, Counter()), self._histograms.setdefault(daemon, {})
        for name, value in counters.items():
            counted[name] = min(counted[name] + value, INT64_MAX)
        for name, counts in histograms.items():
            kept.setdefault(name, histogram.Histogram()).merge(counts)

    def all(self) -> tuple[EndedCounters, ...]:
        return tuple(
            EndedCounters(
                daemon,
                dict(counted),
                {name: dict(one.counts) for name, one in self._histograms[daemon].items()},
            )
            for daemon, counted in sorted(self._counters.items())
        )
