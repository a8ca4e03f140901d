"""What readers see of registrations: one watch that joins the leased keys, what operators said of
maintenance, and, where there is one, Consul's catalogue (registry/consul/watch.py), as entries
`services/<service>/<instance>`.

A change costs what has changed: an entry that nothing is to be added to is passed on as it stands, undecoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from controlplane import model
from controlplane.model import records
from controlplane.model.records import Registration
from controlplane.registry import maintenance
from controlplane.store import Entry, Keys, Snapshot, Store, Watch
from controlplane.store.followed import FollowedWatch, Latest


class Standing(Protocol):
    """One instance as a catalogue has it."""

    @property
    def registration(self) -> Registration: ...

    @property
    def revision(self) -> int: ...

    def alone(self) -> Registration:
        """As it counts where no leased key vouches for it."""


class Merged:
    """The joined state; what changes goes into the mailbox, once every source has been seen."""

    def __init__(self, keys: Keys, latest: Latest, sources: Iterable[str]) -> None:
        self._keys, self._latest = keys, latest
        self._waiting = set(sources)
        self._leased: Mapping[str, Entry] = {}
        self._reasons: dict[str, str] = {}
        self._catalogue: dict[str, dict[str, Standing]] = {}
        """Service -> key -> what stands there."""
        self._revision = 0

    def seen(self, source: str) -> None:
        """The first state of the source is here, or is not waited for any longer."""
        if self._waiting:
            self._waiting.discard(source)
            if not self._waiting:
                self._latest.touch(self._revision)

    def take_leased(self, snapshot: Snapshot) -> None:
        before, self._leased = self._leased, snapshot.entries
        self._revision = snapshot.revision
        changed = snapshot.changed if snapshot.changed is not None else {*before, *snapshot.entries}
        self._show(changed)
        self.seen("leased")

    def take_maintenance(self, snapshot: Snapshot) -> None:
        start = len(self._keys.maintenance)
        fresh = {
            self._keys.services + key[start:]: maintenance.reason(entry)
            for key, entry in snapshot.entries.items()
        }
        before, self._reasons = self._reasons, fresh
        self._show(key for key in {**before, **fresh} if before.get(key) != fresh.get(key))
        self.seen("maintenance")

    def take_catalogue(self, service: str, rows: Mapping[str, Standing]) -> None:
        """All of one service, by key; none: it is gone."""
        before = self._catalogue.pop(service, {})
        if rows:
            self._catalogue[service] = dict(rows)
        self._show(key for key in {**before, **rows} if before.get(key) != rows.get(key))

    def _show(self, keys: Iterable[str]) -> None:
        changed = False
        for key in keys:
            changed = True
            entry = self._entry(key)
            if entry is None:
                self._latest.delete(key)
            else:
                self._latest.put(entry)
        if changed and not self._waiting:
            self._latest.touch(self._revision)

    def _entry(self, key: str) -> Entry | None:
        leased, reason = self._leased.get(key), self._reasons.get(key, "")
        service, _, instance = key.removeprefix(self._keys.services).partition("/")
        standing = self._catalogue.get(service, {}).get(key)
        if standing is None and not reason:
            return leased
        if leased is None:
            if standing is None:
                return None  # in maintenance, and registered nowhere
            found = standing.alone()
        else:
            try:
                found = records.decode_registration(leased.value, service, instance)
            except (msgspec.DecodeError, ValueError):
                return leased  # its reader says that it does not decode
            if standing is not None and standing.registration.process == found.process:
                catalogued = standing.registration
                found = dataclasses.replace(
                    found, health=catalogued.health, maintenance=catalogued.maintenance
                )
        if reason:
            found = dataclasses.replace(found, maintenance=reason)
        revision = leased.revision if leased is not None else standing.revision if standing else 0
        return Entry(key, model.encode(found), revision)


class JoinedWatch(FollowedWatch):
    """Leased keys and maintenance; Consul's is built on it."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        name: str = "",
        more: Callable[[Merged], contextlib.AbstractAsyncContextManager[Callable[[], int]]] | None = None,
    ) -> None:
        """`more` follows another source while it is entered, and says by when it was last confirmed (boot
        ns); its name is "catalogue".
        """
        self._sources: list[Callable[[], int]] = []
        super().__init__(
            name or f"watch of {keys.services}",
            lambda latest: _follow(store, keys, latest, more, self._sources),
        )

    @property
    def confirmed_boot_ns(self) -> int:
        return min((source() for source in self._sources), default=0)


async def _follow(
    store: Store,
    keys: Keys,
    latest: Latest,
    more: Callable[[Merged], contextlib.AbstractAsyncContextManager[Callable[[], int]]] | None,
    sources: list[Callable[[], int]],
) -> None:
    merged = Merged(keys, latest, ["leased", "maintenance", *(["catalogue"] if more else [])])
    async with contextlib.AsyncExitStack() as stack:
        leased = await stack.enter_async_context(contextlib.aclosing(store.watch(keys.services)))
        maintained = await stack.enter_async_context(contextlib.aclosing(store.watch(keys.maintenance)))
        sources += [lambda: leased.confirmed_boot_ns, lambda: maintained.confirmed_boot_ns]
        if more is not None:
            sources.append(await stack.enter_async_context(more(merged)))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_take(leased, merged.take_leased), name="leased keys")
            tasks.create_task(_take(maintained, merged.take_maintenance), name="maintenance")


async def _take(watch: Watch, take: Callable[[Snapshot], None]) -> None:
    async for snapshot in watch:
        take(snapshot)
