"""The store port: what the control plane may ask of etcd or Consul, cut at the weaker of the two.

A lost compare-and-swap is a result (`Lost`), not an error. A watch gives snapshots, not events: changes may
be coalesced, never lost; each snapshot names the keys that changed, so that its reader does work for those
alone. Every back end passes tests/contract/test_store.py. The story goes on in keys.py (every key) and etcd/,
memory.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: bytes
    revision: int
    """Of the last write to this key. Only equality is meaningful across back ends."""
    leased: bool = field(default=False, compare=False)
    """It ends with a lease."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a prefix at one revision.

    The snapshots of one watch share one mapping: `entries` is this state until the reader asks the watch for
    the next one, and that one from then on. Whoever needs an old state copies what it needs of it before.
    The snapshot of a `range` is the caller's own.
    """

    revision: int
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """In no particular order."""
    changed: frozenset[str] | None = None
    """From a watch: the keys put or deleted since the snapshot that its reader got before; all keys in the
    first. Empty when what was put was deleted again in between. None from a `range`, which has none before.
    """


@dataclass(frozen=True, slots=True)
class Compare:
    """The key's revision must be this; 0: the key must not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


@dataclass(frozen=True, slots=True)
class Committed:
    revision: int | None
    """The revision that every key written by it now has; None when it put none (Consul does not say then)."""

    @property
    def of_puts(self) -> int:
        """Of a write that put something."""
        assert self.revision is not None, "only a write that puts nothing has no revision"
        return self.revision


@dataclass(frozen=True, slots=True)
class Lost:
    """A compare did not hold; nothing was written."""


class Lease(Protocol):
    """Keys put under it vanish when it ends. Ours for life of the holder, never for leadership (that is a
    record).
    """

    @property
    def id(self) -> str: ...

    @property
    def ttl_s(self) -> float:
        """As granted, which may be more than was asked."""

    @property
    def deadline_boot_ns(self) -> int:
        """Counted from BEFORE the last good request: never later than the store's own."""

    async def keep_alive(self) -> None:
        """Renew for one more TTL. Raises LeaseLost, Unavailable."""

    async def revoke(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the store's cluster."""

    name: str
    """The endpoint that we know it by, else what the store calls it."""
    answers: bool
    leads: bool = False
    version: str = ""
    behind: int = 0
    """Log entries by which it is behind the furthest."""
    reason: str = ""
    """Why it does not answer, or is not well."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How the store's own cluster is: asked of every member, so less often than `health`."""

    members: tuple[Member, ...]
    size: int
    """Voting members that there are, those without an endpoint of ours too."""
    term: int
    """Of the election that the present leader won."""
    size_bytes: int | None = None
    """Of its database on disk; None where it does not say."""
    size_max_bytes: int | None = None
    faults: tuple[str, ...] = ()
    """What it says is wrong with it, in its own words."""

    @property
    def answering(self) -> int:
        return sum(member.answers for member in self.members)

    @property
    def leader(self) -> str:
        """Empty: none is known."""
        return next((member.name for member in self.members if member.leads), "")


@dataclass(frozen=True, slots=True)
class Health:
    kind: str
    endpoints: tuple[str, ...]
    healthy: bool
    version: str
    latency_ms: float | None
    reason: str = ""
    condition: Condition | None = None
    """As it was last looked at, by who keeps looking."""
    leader_changes: int = 0
    """Seen since that one looks."""


class Watch(Protocol):
    """A live view of a prefix, for one reader. Cancelling `__anext__` (a timeout around it) loses nothing:
    the next call goes on.
    """

    @property
    def confirmed_boot_ns(self) -> int:
        """When the view was last known to be the store's own, 0 before the first snapshot: now minus this is
        the view's age.
        """

    def __aiter__(self) -> AsyncIterator[Snapshot]: ...

    async def __anext__(self) -> Snapshot: ...

    async def aclose(self) -> None: ...


class Store(Protocol):
    kind: str
    expiry_bound_s: float
    """A key may outlive its lease's TTL by this much."""
    one_revision: bool
    """Revisions count the writes of the whole store, so that those of two watches, or of a watch and a write,
    can be compared: a watch at revision N shows every write up to N under its prefix. False: only equality
    means anything, and a reader that must not miss a write reads a range after it.
    """

    async def get(self, key: str) -> Entry | None: ...

    async def range(self, prefix: str) -> Snapshot: ...

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: Lease | None = None
    ) -> Committed | Lost:
        """Write; with `expect`, only when the key's revision is that (0: absent)."""

    async def delete(self, key: str, *, expect: int | None = None) -> Committed | Lost:
        """Deleting what is not there is Committed, unless a revision was expected."""

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        """All or nothing. Raises TooLarge over limits.OPERATIONS_MAX, Unavailable(ambiguous=True) when the
        answer was lost.
        """

    def watch(self, prefix: str) -> Watch:
        """First the present snapshot, then one after each change (coalesced when the reader is slow).

        Reconnects and relists by itself, for as long as it is iterated; it never raises Unavailable and ends
        only when it or the store is closed. The revision goes back only when the store itself did (restored
        from a backup).
        """

    async def lease(self, ttl_s: float) -> Lease: ...

    async def health(self) -> Health: ...

    async def condition(self) -> Condition:
        """Ask every member; a member that hangs costs one try, all of them at once.

        Raises:
            Unavailable: none answers. Denied: we may not ask.
        """

    def try_within(self, seconds: float) -> None:
        """Deadline of each try at one member from now on; of calls that are under way nothing changes."""

    async def close(self) -> None: ...
