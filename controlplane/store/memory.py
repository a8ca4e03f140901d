"""The store in one process: the twin that tests and drills run on, under the same conformance suite as etcd.

`Memory` is the server, `MemoryStore` a client of it; several clients share one server, and each can be cut
off by itself (`cut`, `heal`) or lose the answer of its next write (`lose_next_answer`). Leases end by the
injected clock: with a FakeClock call `Memory.expire` after moving it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane import clock as clocks
from controlplane.errors import LeaseLost, Unavailable
from controlplane.host.system_clock import SystemClock
from controlplane.store import limits
from controlplane.store.base import (
    Committed,
    Compare,
    Condition,
    Delete,
    Entry,
    Health,
    Lease,
    Lost,
    Member,
    Put,
    Snapshot,
)
from controlplane.store.latest import Latest

EXPIRY_BOUND_S = 0.1
"""The server looks at its leases at least this often while a watch is read, and at each request."""


@dataclass(slots=True)
class _Grant:
    ttl_s: float
    deadline_boot_ns: int
    keys: set[str]


@dataclass(slots=True)
class _Watched:
    """A watch as the server knows it."""

    prefix: str
    latest: Latest
    store: MemoryStore
    listed: bool = False
    missed: set[str] = field(default_factory=set)
    """Keys that changed while its client was cut off."""


class Memory:
    """Keys, revisions and leases, shared by the clients of one process and event loop."""

    def __init__(self, clock: clocks.Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.revision = 1
        self.up = True
        """False: every client gets Unavailable and watches are silent, as with a killed server."""
        self._entries: dict[str, Entry] = {}
        self._lease_of: dict[str, str] = {}
        self._grants: dict[str, _Grant] = {}
        self._granted = 0
        self._watches: list[_Watched] = []

    def expire(self) -> None:
        """End the leases whose time is over."""
        now_ns = self.clock.boot_ns()
        for lease_id in [
            lease_id for lease_id, grant in self._grants.items() if grant.deadline_boot_ns <= now_ns
        ]:
            self.end_lease(lease_id)

    def snapshot(self, prefix: str) -> Snapshot:
        return Snapshot(
            self.revision,
            {key: entry for key, entry in sorted(self._entries.items()) if key.startswith(prefix)},
        )

    def entry(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def commit(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        for operation in then:
            if (
                isinstance(operation, Put)
                and operation.lease is not None
                and operation.lease.id not in self._grants
            ):
                raise LeaseLost(f'key "{operation.key}": the store does not know lease {operation.lease.id}')
        for compare in compares:
            entry = self._entries.get(compare.key)
            if (entry.revision if entry is not None else 0) != compare.revision:
                return Lost()
        if any(isinstance(operation, Put) or operation.key in self._entries for operation in then):
            self.revision += 1
        for operation in then:
            self._detach(operation.key)
            if isinstance(operation, Put):
                self._entries[operation.key] = Entry(
                    operation.key, operation.value, self.revision, operation.lease is not None
                )
                if operation.lease is not None:
                    self._lease_of[operation.key] = operation.lease.id
                    self._grants[operation.lease.id].keys.add(operation.key)
            else:
                self._entries.pop(operation.key, None)
        self._tell({operation.key for operation in then})
        return Committed(self.revision)

    def _detach(self, key: str) -> None:
        lease_id = self._lease_of.pop(key, None)
        if lease_id is not None:
            self._grants[lease_id].keys.discard(key)

    def _tell(self, keys: set[str]) -> None:
        for watched in list(self._watches):
            touched = [key for key in keys if key.startswith(watched.prefix)]
            if touched:
                watched.missed.update(touched)
                if watched.store.reachable:
                    self._show(watched)

    def _show(self, watched: _Watched) -> None:
        """Bring one watch up to date: costs what it has missed."""
        if not watched.listed:
            watched.listed = True
            watched.latest.replace(self.snapshot(watched.prefix))
        elif watched.missed:
            for key in watched.missed:
                entry = self._entries.get(key)
                if entry is None:
                    watched.latest.delete(key)
                else:
                    watched.latest.put(entry)
            watched.latest.touch(self.revision)
        watched.missed.clear()
        watched.latest.confirmed_boot_ns = self.clock.boot_ns()

    # --- leases ---------------------------------------------------------------------------------------------

    def grant(self, ttl_s: float) -> tuple[str, int]:
        self._granted += 1
        lease_id = f"{self._granted:x}"
        deadline_boot_ns = self.clock.boot_ns() + int(ttl_s * 1e9)
        self._grants[lease_id] = _Grant(ttl_s, deadline_boot_ns, set())
        return lease_id, deadline_boot_ns

    def renew(self, lease_id: str) -> int:
        grant = self._grants.get(lease_id)
        if grant is None:
            raise LeaseLost(f"lease {lease_id}: the store does not know it (ended or revoked)")
        grant.deadline_boot_ns = self.clock.boot_ns() + int(grant.ttl_s * 1e9)
        return grant.deadline_boot_ns

    def end_lease(self, lease_id: str) -> None:
        grant = self._grants.get(lease_id)
        if grant is None:
            return
        self.commit([], [Delete(key) for key in sorted(grant.keys)])
        del self._grants[lease_id]

    # --- watches --------------------------------------------------------------------------------------------

    def join(self, prefix: str, latest: Latest, store: MemoryStore) -> None:
        self.expire()
        watched = _Watched(prefix, latest, store)
        self._watches.append(watched)
        if store.reachable:
            self._show(watched)

    def leave(self, latest: Latest) -> None:
        self._watches = [watched for watched in self._watches if watched.latest is not latest]

    def catch_up(self, store: MemoryStore) -> None:
        """Bring the watches of a client that can reach the server again to the present state."""
        if not store.reachable:
            return
        self.expire()
        for watched in list(self._watches):
            if watched.store is store:
                self._show(watched)


@dataclass(slots=True)
class MemoryLease:
    store: MemoryStore
    id: str
    ttl_s: float
    deadline_boot_ns: int

    async def keep_alive(self) -> None:
        memory = await self.store.asked()
        self.deadline_boot_ns = memory.renew(self.id)

    async def revoke(self) -> None:
        memory = await self.store.asked()
        memory.end_lease(self.id)


class MemoryWatch:
    def __init__(self, latest: Latest, memory: Memory, store: MemoryStore) -> None:
        self._latest = latest
        self._memory = memory
        self._store = store

    @property
    def confirmed_boot_ns(self) -> int:
        return self._latest.confirmed_boot_ns

    def __aiter__(self) -> MemoryWatch:
        return self

    async def __anext__(self) -> Snapshot:
        while True:
            try:
                async with asyncio.timeout(EXPIRY_BOUND_S / 2):
                    return await self._latest.next()
            except TimeoutError:
                # The watcher's wait is also the server's clock: leases end although nothing is asked.
                self._memory.catch_up(self._store)

    async def aclose(self) -> None:
        self._latest.close()


class MemoryStore:
    """One client. `MemoryStore()` has a server of its own; `MemoryStore(memory)` or `client()` shares one."""

    kind = "memory"
    expiry_bound_s = EXPIRY_BOUND_S
    one_revision = True

    def __init__(self, memory: Memory | None = None, clock: clocks.Clock | None = None) -> None:
        self.memory = memory or Memory(clock)
        self._cut = False
        self._lose_answer = False
        self._closed = False
        self._watches: weakref.WeakSet[Latest] = weakref.WeakSet()

    def __repr__(self) -> str:
        return (
            f"MemoryStore(revision={self.memory.revision}, "
            f"{'reachable' if self.reachable else 'not reachable'})"
        )

    def client(self) -> MemoryStore:
        """Another client of the same server."""
        return MemoryStore(self.memory)

    # --- faults, for tests and drills -----------------------------------------------------------------------

    def cut(self) -> None:
        """From now on this client reaches nothing: calls raise Unavailable (nothing is applied), watches are
        silent.
        """
        self._cut = True

    def heal(self) -> None:
        self._cut = False
        self.memory.catch_up(self)

    def lose_next_answer(self) -> None:
        """The next write is applied, but raises Unavailable(ambiguous=True)."""
        self._lose_answer = True

    @property
    def reachable(self) -> bool:
        return self.memory.up and not self._cut and not self._closed

    # --- the port -------------------------------------------------------------------------------------------

    async def asked(self) -> Memory:
        """The server, after one turn of the loop, as with any call over a wire."""
        await asyncio.sleep(0)
        if not self.reachable:
            raise Unavailable("store memory: closed" if self._closed else "store memory: not reachable")
        self.memory.expire()
        return self.memory

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        return (await self.asked()).entry(key)

    async def range(self, prefix: str) -> Snapshot:
        return (await self.asked()).snapshot(prefix)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: Lease | None = None
    ) -> Committed | Lost:
        return await self.txn([] if expect is None else [Compare(key, expect)], [Put(key, value, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> Committed | Lost:
        return await self.txn([] if expect is None else [Compare(key, expect)], [Delete(key)])

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        limits.check(compares, then)
        outcome = (await self.asked()).commit(compares, then)
        if self._lose_answer:
            self._lose_answer = False
            raise Unavailable("store memory: the answer was lost", ambiguous=True)
        return outcome

    def watch(self, prefix: str) -> MemoryWatch:
        latest = Latest(on_close=self.memory.leave)
        self._watches.add(latest)
        self.memory.join(prefix, latest, self)
        return MemoryWatch(latest, self.memory, self)

    async def lease(self, ttl_s: float) -> MemoryLease:
        lease_id, deadline_boot_ns = (await self.asked()).grant(ttl_s)
        return MemoryLease(self, lease_id, ttl_s, deadline_boot_ns)

    def try_within(self, seconds: float) -> None:
        """It answers at once."""

    async def condition(self) -> Condition:
        await self.asked()
        return Condition((Member("memory", True, True, "1"),), 1, 1)

    async def health(self) -> Health:
        reason = "" if self.reachable else "not reachable"
        return Health("memory", ("memory",), self.reachable, "1", 0.0 if self.reachable else None, reason)

    async def close(self) -> None:
        self._closed = True
        for latest in list(self._watches):
            latest.close()
