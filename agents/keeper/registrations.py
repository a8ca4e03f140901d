"""Registrations, kept: every ready instance of this host stands in the store under one lease of the keeper,
and is gone at once when it dies.

What it promises: what the store lost (its lease ended, a key was deleted) is put again within a keep-alive's
interval; a keeper that is gone leaves discovery by the lease's TTL. Leadership does not hang on this lease:
it is a record (handover.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controlplane import model
from controlplane.clock import Clock
from controlplane.errors import HftctlError, LeaseLost
from controlplane.host import log
from controlplane.model import Registration
from controlplane.store.base import Lease, Snapshot, Store
from controlplane.store.keys import Keys

RETRY_S = 0.5
"""After an error; the store is away or refuses, and a registration may wait."""


class Registrar:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        ttl_s: float,
        keep_s: float,
        seen: Callable[[], Snapshot | None],
    ) -> None:
        """`seen`: the newest view of the site; what it lacks is put again."""
        self._store = store
        self._keys = keys
        self._clock = clock
        self._ttl_s = ttl_s
        self._keep_s = keep_s
        self._seen = seen
        self._wanted: dict[str, bytes] = {}
        self._written: dict[str, tuple[bytes, int]] = {}
        """Key -> (value, revision) as put by this keeper."""
        self._strays: set[str] = set()
        """Keys to delete that an earlier keeper may have put."""
        self._lease: Lease | None = None
        self._news = asyncio.Event()
        self._complained = ""
        self._closed = False

    def want(self, registrations: list[Registration], others: list[tuple[str, str]]) -> None:
        """These and no others of this host; `others` are (service, instance) that shall not be registered."""
        if self._closed:
            return
        self._wanted = {
            self._keys.registration(each.service, each.instance): model.encode(each) for each in registrations
        }
        self._strays = {self._keys.registration(service, instance) for service, instance in others} - set(
            self._wanted
        )
        self._news.set()

    def drop(self, service: str, instance: str) -> None:
        """It died: out of discovery now."""
        key = self._keys.registration(service, instance)
        self._wanted.pop(key, None)
        self._strays.add(key)
        self._news.set()

    @property
    def registered(self) -> list[str]:
        """Instance ids that stand in the store by this keeper's own writes."""
        return sorted(key.rpartition("/")[2] for key in self._written if key in self._wanted)

    async def run(self) -> None:
        kept_ns = self._clock.boot_ns()
        while True:
            try:
                if self._lease is None and self._wanted:
                    self._lease, kept_ns = await self._store.lease(self._ttl_s), self._clock.boot_ns()
                if self._lease and self._clock.boot_ns() - kept_ns >= self._keep_s * 0.9e9:
                    await self._lease.keep_alive()
                    kept_ns = self._clock.boot_ns()
                    self._forget_lost()
                await self._reconcile()
                self._complained = ""
                wait_s = self._keep_s
            except LeaseLost as exc:
                log.warning("registrations.lease_lost", reason=str(exc))
                self._lease, self._written = None, {}
                continue
            except HftctlError as exc:
                if str(exc) != self._complained:
                    log.warning("registrations.not_written", reason=str(exc))
                    self._complained = str(exc)
                wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    async def close(self) -> None:
        """Take every registration back, for good. Raises Unavailable."""
        self._closed, self._wanted, self._strays = True, {}, set()
        if self._lease is not None:
            await self._lease.revoke()
            self._lease = None
        self._written = {}

    async def _reconcile(self) -> None:
        for key in [key for key in (*self._written, *self._strays) if key not in self._wanted]:
            await self._store.delete(key)
            self._written.pop(key, None)
            self._strays.discard(key)
        for key, value in list(self._wanted.items()):
            if self._lease is not None and self._written.get(key, (b"", 0))[0] != value:
                outcome = await self._store.put(key, value, lease=self._lease)
                self._written[key] = (value, getattr(outcome, "revision", 0))

    def _forget_lost(self) -> None:
        """A key that a view newer than its put does not show, or shows with another's value, was lost: put it
        again.
        """
        seen = self._seen()
        if seen is None:
            return
        for key, (value, revision) in list(self._written.items()):
            entry = seen.entries.get(key)
            if seen.revision >= revision and (entry is None or entry.value != value):
                del self._written[key]
