"""A watch of the store that drops changes, as no back end of ours does, and as a mistake in one would."""

from __future__ import annotations

from typing import Any

from controlplane.store import Snapshot


class Dropping:
    """A watch that says nothing of some keys."""

    def __init__(self, watch: Any, dropped: set[str]) -> None:
        self._watch, self._dropped = watch, dropped

    @property
    def confirmed_boot_ns(self) -> int:
        return int(self._watch.confirmed_boot_ns)

    def __aiter__(self) -> Dropping:
        return self

    async def __anext__(self) -> Snapshot:
        found: Snapshot = await self._watch.__anext__()
        changed = frozenset() if found.changed is None else found.changed - self._dropped
        return Snapshot(found.revision, found.entries, changed)

    async def aclose(self) -> None:
        await self._watch.aclose()
