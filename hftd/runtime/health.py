"""What a daemon says of its own health. Not ready means not yet; not healthy means that something is wrong,
and an operator should look.

The agent makes `critical` of it, which is the 503 that health checks get; an instance that is not healthy is
not ready either, so no new client finds it. That a daemon's loop turns at all is not said here: the agent
sees it by the status that comes, or does not.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.model.bounds import cut


class Health:
    __slots__ = ("_changed", "healthy", "reason")

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called after each change."""
        self._changed = changed
        self.healthy, self.reason = True, ""

    def __repr__(self) -> str:
        return f"<Health {'healthy' if self.healthy else self.reason}>"

    def set_healthy(self, healthy: bool, reason: str = "") -> None:
        """Say it as often as you like; told at once when it changes. `reason` is what an operator reads, and
        is dropped when all is well.
        """
        said = (healthy, "" if healthy else cut(reason) or "says that it is not healthy")
        if said != (self.healthy, self.reason):
            self.healthy, self.reason = said
            self._changed()
