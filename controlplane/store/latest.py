"""The mailbox between the back end that follows a prefix and its one reader: always the newest state.

Promises: a slow reader costs one pending entry a key at most and never sees an old state after a newer one;
the changes that it missed are coalesced into one snapshot, which names each of them. A delivery costs what
has changed since the one before, however many keys there are: all snapshots of a watch share one mapping,
and it moves only when the reader asks for the next. The contract is base.Snapshot's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from controlplane.store.base import Entry, Snapshot


class Latest:
    """The back end calls `put` and `delete`, then `touch` (without an await between), or `replace` with a
    fresh list; one reader iterates.
    """

    def __init__(self, on_close: Callable[[Latest], None] | None = None) -> None:
        self.revision = 0
        self.confirmed_boot_ns = 0
        self._delivered: dict[str, Entry] = {}
        """What the reader has."""
        self._shown: Mapping[str, Entry] = MappingProxyType(self._delivered)
        self._pending: dict[str, Entry | None] = {}
        """What it will have next; None: deleted."""
        self._listed = False
        self._news = asyncio.Event()
        self._unread = False
        self._closed = False
        self._on_close = on_close

    def put(self, entry: Entry) -> None:
        self._pending[entry.key] = entry

    def delete(self, key: str) -> None:
        self._pending[key] = None

    def touch(self, revision: int) -> None:
        """The puts and deletes so far are the state at this revision."""
        self.revision = revision
        self._unread = True
        self._news.set()

    def replace(self, snapshot: Snapshot) -> None:
        """Take a fresh list; the reader hears of it only when it is the first or differs from what it has."""
        found, held = snapshot.entries, self._delivered
        self._pending = {
            key: entry
            for key, entry in found.items()
            if (before := held.get(key)) is not entry and before != entry  # is: most are the same object
        }
        self._pending.update((key, None) for key in held if key not in found)
        if self._pending or not self._listed:
            self._listed = True
            self.touch(snapshot.revision)
        else:
            self.revision = snapshot.revision

    @property
    def newest(self) -> Mapping[str, Entry]:
        """The newest state, delivered or not. For the back end, until its next change."""
        if not self._pending:
            return self._delivered
        newest: dict[str, Entry | None] = {**self._delivered, **self._pending}
        return {key: entry for key, entry in newest.items() if entry is not None}

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._news.set()
            if self._on_close is not None:
                self._on_close(self)

    async def next(self) -> Snapshot:
        """The newest state, once there is one that the reader does not have. Cancelling it loses no change:
        there is no await after the pending ones are taken.
        """
        while not self._closed:
            if self._unread:
                self._unread = False
                self._news.clear()
                return Snapshot(self.revision, self._shown, self._deliver())
            await self._news.wait()
        raise StopAsyncIteration

    def _deliver(self) -> frozenset[str]:
        pending, self._pending = self._pending, {}
        held, changed = self._delivered, []
        for key, entry in pending.items():
            if held.get(key) == entry:
                continue  # put and deleted between two deliveries, or set back
            changed.append(key)
            if entry is None:
                del held[key]
            else:
                held[key] = entry
        return frozenset(changed)
