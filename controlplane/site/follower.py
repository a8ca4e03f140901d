"""Keeps the newest view of the site by a watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from controlplane import clock as clocks
from controlplane.host.system_clock import SystemClock
from controlplane.leadership import budget
from controlplane.model.records import LeaderRecord
from controlplane.site.view import SiteView, decode_snapshot
from controlplane.store.base import Store
from controlplane.store.keys import Keys

GATHER_S = 0.05
"""The least between two views of a Follower. Renewals change the store ten times a second, and a failover
some eight times within 30 ms, in which keepers (who have a view of their own) need the CPU."""


class Follower:
    """Keeps the newest view of the site; `run` is a task of its owner.

    `changed` is set at each new view and then replaced: take the event, look at the view, wait for the event,
    and no change is missed.
    """

    def __init__(self, store: Store, keys: Keys, clock: clocks.Clock | None = None) -> None:
        self.view: SiteView | None = None
        """None until the store has been read once."""
        self.changed = asyncio.Event()
        self._store = store
        self._keys = keys
        self._clock = clock or SystemClock()
        self._started_boot_ns = self._clock.boot_ns()
        self._watch = store.watch(keys.root)
        self._leader_seen: dict[str, tuple[LeaderRecord, int]] = {}

    def __repr__(self) -> str:
        return (
            f"<Follower {self._keys.root}: revision {self.view.revision if self.view else 'none'}, "
            f"{self.age_s():.1f} s old>"
        )

    def age_s(self) -> float:
        """How long ago the view was last known to be the store's own (before the first: how long it has been
        waited for).
        """
        return (self._clock.boot_ns() - (self._watch.confirmed_boot_ns or self._started_boot_ns)) / 1e9

    def lease_remaining_ms(self, lease_s: float = budget.DEFAULT.lease_s) -> dict[str, int]:
        """Of each led group, by when its leader record was last seen to change here (R4's clock); 0: nobody
        can be leading by it any more.
        """
        now_ns = self._clock.boot_ns()
        return {
            service: max(0, seen_ns + int(lease_s * 1e9) - now_ns) // 1_000_000
            for service, (_, seen_ns) in self._leader_seen.items()
        }

    async def changes(self) -> AsyncGenerator[SiteView, None]:
        """Follow until the store is closed or this is cancelled; gives each new view (one follower, one
        caller).
        """
        try:
            async for snapshot in self._watch:
                self.view = decode_snapshot(self._keys, snapshot, self.view)
                self._look_at_leaders(self.view)
                told, self.changed = self.changed, asyncio.Event()
                told.set()
                yield self.view
                await asyncio.sleep(GATHER_S)
        finally:
            await self._watch.aclose()

    async def run(self) -> None:
        """The same, for an owner that looks at `view` and `changed`."""
        async with contextlib.aclosing(self.changes()) as changes:
            async for _ in changes:
                pass

    def _look_at_leaders(self, view: SiteView) -> None:
        now_ns = self._clock.boot_ns()
        seen = {}
        for service, leader in view.leaders.items():
            if leader.holder is not None:
                old = self._leader_seen.get(service)
                seen[service] = old if old is not None and old[0] == leader else (leader, now_ns)
        self._leader_seen = seen
