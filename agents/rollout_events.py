"""Events of rollouts of configuration: begun, promoted, reverted with why; told by the host that has the
service's first instance.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.config import rollout
from controlplane.site.view import SiteView

KINDS = {
    "running": "rollout.began",
    "succeeded": "rollout.promoted",
    "failed": "rollout.reverted",
    "cancelled": "rollout.reverted",
    "refused": "rollout.refused",
    "unknown": "rollout.unknown",
}
"""State of the operation -> the event."""


class RolloutEvents:
    def __init__(self, host: str, report: Callable[..., None]) -> None:
        self._host, self._report = host, report
        self._told: dict[str, str] | None = None
        """Operation -> the state in which it was seen last; what was there at the first look is past."""

    def look(self, site: SiteView) -> None:
        told, self._told = self._told, {}
        for operation in site.operations:
            if operation.kind != rollout.KIND:
                continue
            self._told[operation.id] = operation.state
            if told is None or told.get(operation.id) == operation.state:
                continue
            if operation.state in KINDS and self._is_here(site, operation.subject):
                self._report(
                    KINDS[operation.state],
                    service=operation.subject,
                    operation=operation.id,
                    actor=operation.actor,
                    reason=operation.reason,
                    text=operation.outcome,
                )

    def _is_here(self, site: SiteView, service: str) -> bool:
        spec = site.specs.get(service)
        return spec is not None and bool(spec.hosts) and spec.hosts[0] == self._host
