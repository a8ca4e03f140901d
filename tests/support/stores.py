"""Waiting for what a store shows, also when it is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controlplane import store
from controlplane.errors import Unavailable

SOON_S = 20.0
"""More than any outage of a test takes."""


async def until(watch: store.Watch, key: str, value: bytes) -> store.Snapshot:
    async with asyncio.timeout(SOON_S):
        while True:
            snapshot = await anext(watch)
            if key in snapshot.entries and snapshot.entries[key].value == value:
                return snapshot


async def put_until_done(client: store.Store, key: str, value: bytes) -> None:
    """Through an outage; the same value twice does no harm."""
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                await client.put(key, value)
                return
            except Unavailable:
                await asyncio.sleep(0.02)


async def seen(watch: store.Watch, wanted: Callable[[store.Snapshot], bool]) -> store.Snapshot:
    async with asyncio.timeout(SOON_S):
        while True:
            snapshot = await anext(watch)
            if wanted(snapshot):
                return snapshot


def values(snapshot: store.Snapshot) -> dict[str, bytes]:
    return {key.rpartition("/")[2]: entry.value for key, entry in snapshot.entries.items()}


async def until_true(found: Callable[[], bool]) -> None:
    """For what no watch shows."""
    async with asyncio.timeout(SOON_S):
        while not found():  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.01)
