"""An event for each finished change of leader, told by the host that has the new leader."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controlplane.model import records
from controlplane.site.view import SiteView


class LeaderEvents:
    def __init__(self, host: str, report: Callable[..., None]) -> None:
        self._host, self._report = host, report
        self._told: dict[str, int] = {}
        """Highest finished epoch of each group that was seen; what was finished at the first look is past."""

    def look(self, site: SiteView, services: Iterable[str]) -> None:
        """`services`: whose history has changed."""
        for service in services:
            rows = site.history.get(service, ())
            told = self._told.get(service)
            finished = [row for row in rows if row.active_ns is not None]
            self._told[service] = max((row.epoch for row in finished), default=told or 0)
            if told is None:
                continue
            for row in finished:
                if row.epoch > told and self._is_here(site, service, row):
                    self._tell(service, row)

    def _is_here(self, site: SiteView, service: str, row: records.HistoryRow) -> bool:
        spec = site.specs.get(service)
        slots = spec.slots() if spec is not None else []
        return any(slot.instance == row.to_instance and slot.host == self._host for slot in slots)

    def _tell(self, service: str, row: records.HistoryRow) -> None:
        took_ms = round(max(0, (row.active_ns or 0) - row.started_ns) / 1e6, 1)
        ends = {"from": row.from_instance, "to": row.to_instance}
        why = {"cause": row.cause, "actor": row.actor, "reason": row.reason}
        self._report("leader.changed", service=service, epoch=row.epoch, took_ms=took_ms, **why, **ends)
