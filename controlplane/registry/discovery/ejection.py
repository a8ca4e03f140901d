"""Outlier ejection: an instance whose calls fail one after another is left out for a time. Pure: time is an
argument.

The caller says how each call ended (`report`). The time out grows with each ejection that follows soon on the
last. How many may be out is resilience/ejection.py's to say, at each failure and again at each choice: when
others have left meanwhile, only the longest out stay out. What is held against a process ends with it: its
successor starts anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from controlplane.errors import InvalidSettings
from controlplane.model import Process
from controlplane.registry.discovery.serving import Serving
from controlplane.resilience import ejection
from controlplane.resilience.ejection import Limits


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    failures: int = 5
    """In a row, of one process; 0: nothing is ever ejected."""
    first_s: float = 30.0
    """Out for so long, twice as long after each ejection that follows within `forget_s`."""
    max_s: float = 300.0
    """And never longer."""
    forget_s: float = 300.0
    """One that was in again for so long starts with `first_s`."""
    limits: Limits = field(default_factory=Limits)
    """Of the instances that could be called; rounded down, so that of one none is ejected and of two or three
    one."""

    def __post_init__(self) -> None:
        if not (self.failures >= 0 and 0 < self.first_s <= self.max_s and self.forget_s > 0):
            raise InvalidSettings(
                f"ejection: failures {self.failures}, first_s {self.first_s}, max_s {self.max_s}, forget_s "
                f"{self.forget_s}; expected failures of at least 0 and 0 < first_s <= max_s, 0 < forget_s"
            )


@dataclass(slots=True)
class _Record:
    failures: int = 0
    times: int = 0
    """Ejected so often, each soon after the one before."""
    since_ns: int = 0
    until_ns: int = 0
    """Out until then; 0: never was."""


class Ejections:
    """Of all services of one cache."""

    def __init__(self, settings: EjectionSettings) -> None:
        self._settings = settings
        self._records: dict[str, dict[Process, _Record]] = {}
        """Service -> process -> what is held against it."""

    def report(
        self, service: str, process: Process, ok: bool, among: Collection[Process], now_ns: int
    ) -> float:
        """How a call ended. `among`: the processes that serve now. Returns the seconds for which the process
        is out from now on; 0: it is not, or was already.
        """
        known = self._records.get(service)
        record = known.get(process) if known else None
        if ok:
            if record is not None:
                record.failures = 0
            return 0.0
        settings = self._settings
        if not settings.failures or process not in among:
            return 0.0
        if record is None:
            record = self._records.setdefault(service, {}).setdefault(process, _Record())
        if record.until_ns > now_ns:
            return 0.0  # a call from before
        record.failures += 1
        if record.failures < settings.failures:
            return 0.0
        out = self._longest_out(service, now_ns)
        if process not in ejection.left_out(among, (), [*out, process], settings.limits):
            return 0.0  # and the next failure asks again
        soon = record.until_ns and now_ns - record.until_ns < settings.forget_s * 1e9
        record.times = record.times + 1 if soon else 1
        record.failures = 0
        out_s: float = min(settings.max_s, settings.first_s * 2.0 ** min(record.times - 1, 32))
        record.since_ns, record.until_ns = now_ns, now_ns + int(out_s * 1e9)
        return out_s

    def holds(self, service: str) -> bool:
        """Something against a process of it."""
        return service in self._records

    def usable(self, service: str, candidates: Sequence[Serving], now_ns: int) -> tuple[Serving, ...]:
        """The candidates that are not out."""
        if not self.holds(service):
            return tuple(candidates)
        there = [each.process for each in candidates]
        out = ejection.left_out(there, (), self._longest_out(service, now_ns), self._settings.limits)
        return tuple(each for each in candidates if each.process not in out)

    def out(self, service: str, now_ns: int) -> dict[Process, int]:
        """Who is out, and until when."""
        known = self._records.get(service, {})
        return {who: record.until_ns for who, record in known.items() if record.until_ns > now_ns}

    def next_end_ns(self, now_ns: int) -> int | None:
        """When the next of those that are out is in again."""
        ends = [
            record.until_ns
            for known in self._records.values()
            for record in known.values()
            if record.until_ns > now_ns
        ]
        return min(ends, default=None)

    def ended(self, after_ns: int, now_ns: int) -> list[str]:
        """The services in which somebody has come in again since."""
        return [
            service
            for service, known in self._records.items()
            if any(after_ns < record.until_ns <= now_ns for record in known.values())
        ]

    def keep(self, service: str, processes: Collection[Process]) -> None:
        """Forget the processes that are not registered any more."""
        known = self._records.get(service)
        if known:
            for gone in known.keys() - set(processes):
                del known[gone]
            if not known:
                del self._records[service]

    def _longest_out(self, service: str, now_ns: int) -> list[Process]:
        known = self._records.get(service, {})
        return sorted(self.out(service, now_ns), key=lambda process: known[process].since_ns)
