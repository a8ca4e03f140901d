"""Tells each daemon of this host its settings and the site's plain keys, over its link: at its hello and at
each change. What it makes of them it says in its next status; who asks for what: wanted_config.py.

A daemon that is to be restarted for a changed spec or setting is sent no settings: its successor starts with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.bus import Bus
from agents.supervisor.supervisor import Instance


class ConfigNews:
    """The bus sends only what is news to a daemon."""

    def __init__(
        self,
        bus: Bus,
        find: Callable[[str], Instance | None],
        flags: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        """`flags`: None until the store has answered; what a daemon knows may be newer than the disk."""
        self._bus, self._find, self._flags = bus, find, flags
        self._acknowledged: dict[str, tuple[int, str]] = {}

    def tell(self, name: str) -> None:
        flags, instance = self._flags(), self._find(name)
        if flags is None:
            return
        self._bus.flags(name, flags)
        if instance is not None and instance.desired is not None and instance.same:
            self._bus.reload(name, instance.desired.config.revision, instance.desired.config.settings)

    def tell_all(self) -> None:
        for name in list(self._bus.reports):
            self.tell(name)

    def acknowledged(self, name: str) -> bool:
        """Whether this daemon's last status says another word on its settings than the one before."""
        report = self._bus.reports.get(name)
        if report is None or report.status is None:
            return False
        said = report.status.config_revision, report.status.config_refused
        before, self._acknowledged[name] = self._acknowledged.get(name), said
        return before != said

    def settled(self) -> bool:
        """Every daemon that was sent settings has said what it made of them."""
        return all(
            report.settings is None
            or (
                report.status is not None
                and (report.status.config_revision == report.settings[0] or report.status.config_refused)
            )
            for report in self._bus.reports.values()
        )

    def refused(self) -> str:
        """Which daemons did not take the settings that they were sent, and why; empty: none."""
        lines = []
        for name, report in sorted(self._bus.reports.items()):
            status, instance = report.status, self._find(name)
            if status is None or not status.config_refused or instance is None or instance.desired is None:
                continue
            desired = instance.desired
            lines.append(
                f"{name} does not take revision {desired.config.revision} of its settings and goes on with "
                f"{status.config_revision}: {status.config_refused}: `hftctl config rollback "
                f"{desired.spec.name}` takes it back"
            )
        return "; ".join(lines)
