"""The mailbox between what follows a prefix and who reads it: one slot, always the newest state.

A slow reader therefore costs no memory and never sees an old state after a newer one: changes that it missed
are coalesced into one snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controlplane.store.base import Entry, Snapshot


class Latest:
    """The back end changes it in place (`replace`, or `entries` and then `touch`, without an await between);
    one reader iterates.
    """

    def __init__(self, on_close: Callable[[Latest], None] | None = None) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.confirmed_boot_ns = 0
        self._news = asyncio.Event()
        self._unread = False
        self._closed = False
        self._on_close = on_close

    def replace(self, snapshot: Snapshot) -> None:
        """Take a fresh list; readers hear of it only when it is the first or differs from what they have."""
        first = self.confirmed_boot_ns == 0 and not self._unread
        changed = first or snapshot.entries != self.entries
        self.entries = dict(snapshot.entries)
        if changed:
            self.touch(snapshot.revision)
        else:
            self.revision = snapshot.revision

    def touch(self, revision: int) -> None:
        self.revision = revision
        self._unread = True
        self._news.set()

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
        while not self._closed:
            if self._unread:
                self._unread = False
                self._news.clear()
                return Snapshot(self.revision, dict(self.entries))
            await self._news.wait()
        raise StopAsyncIteration
