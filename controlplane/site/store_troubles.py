"""What is wrong with the store's own cluster, in an operator's words: what it means for the floor, and what
to do. Pure: looks in, troubles out. Who looks: agents/store_watch.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from controlplane.store import Health

SIZE_WARNING = 0.6
"""Share of its quota; at all of it etcd takes no more writes."""
SLOW_MS = 50.0
"""Median of a read. A lease of 1.5 s is renewed ten times in it."""
LOOKS = 30
"""Of which the median is taken."""
BEHIND_WARNING = 5_000
"""Entries of its log: a follower that keeps up is tens behind."""
ELECTIONS_S = 600.0
ELECTIONS_WARNING = 3
"""New leaders within ELECTIONS_S; each of them is a second without writes."""


@dataclass(frozen=True, slots=True)
class Trouble:
    id: str
    severity: str
    """warning or critical."""
    text: str


class Judge:
    """Remembers what it needs of earlier looks."""

    def __init__(self) -> None:
        self.leader_changes = 0
        """Since the first look."""
        self._known: tuple[int, str] | None = None
        """Term and leader, as last seen."""
        self._changes: deque[float] = deque(maxlen=100)
        """When each was seen, s."""
        self._latencies: deque[float] = deque(maxlen=LOOKS)

    def look(self, health: Health, now_s: float) -> list[Trouble]:
        """`now_s`: of a clock that only goes forward."""
        if health.latency_ms is not None:
            self._latencies.append(health.latency_ms)
        self._count_elections(health, now_s)
        return [*self._of_health(health, now_s), *_of_condition(health)]

    def _count_elections(self, health: Health, now_s: float) -> None:
        condition = health.condition
        if condition is None or not (condition.leader or condition.term):
            return
        now = (condition.term, condition.leader or (self._known[1] if self._known else ""))
        if self._known is not None and now != self._known:
            self.leader_changes += 1
            self._changes.append(now_s)
        self._known = now

    def _of_health(self, health: Health, now_s: float) -> Iterator[Trouble]:
        if len(self._latencies) == LOOKS and (typical_ms := median(self._latencies)) > SLOW_MS:
            yield Trouble(
                "store.slow",
                "warning",
                f"{health.kind} answers slowly: half of the reads of the last {LOOKS} looks took more than "
                f"{typical_ms:.0f} ms. Leases are renewed by writes, which take longer still: look at the "
                "disks of its servers (a sync should take below 10 ms) and at the network to them",
            )
        recent = sum(now_s - at_s <= ELECTIONS_S for at_s in self._changes)
        if recent >= ELECTIONS_WARNING:
            yield Trouble(
                "store.elections",
                "warning",
                f"{health.kind} has elected {recent} leaders in {ELECTIONS_S / 60:.0f} minutes. Nothing is "
                "written during an election, and a lease that ends meanwhile is lost: look at the load, the "
                "disks and the network of its servers",
            )


def _of_condition(health: Health) -> Iterator[Trouble]:
    kind, condition = health.kind, health.condition
    if condition is None:
        return  # it could not be asked; the health says why
    yield from _of_faults(health)
    lost = [member for member in condition.members if not member.answers]
    quorum = condition.size // 2 + 1
    if not condition.leader:
        yield Trouble(
            "store.no_leader",
            "critical",
            f"{kind} has no leader: {quorum} of its {condition.size} servers must agree on one. Nothing can "
            "be written: daemons trade until their leases end, nobody takes over, nothing is changed. "
            f"Bring servers of {kind} back; what was written is not lost",
        )
    elif lost:
        names = "; ".join(f"{member.name}: {member.reason}" for member in lost)
        spare = condition.answering - quorum
        left = "one more lost, and nothing can be written" if spare <= 0 else f"{spare} more may be lost"
        yield Trouble(
            "store.members",
            "warning",
            f"{len(lost)} of the {condition.size} servers of {kind} do not answer ({names}); {left}. Bring "
            "them back, or replace them",
        )
    unwell = [member for member in condition.members if member.answers and member.reason]
    behind = [member for member in condition.members if member.behind > BEHIND_WARNING]
    if unwell or behind:
        names = "; ".join(
            f"{member.name}: {member.reason or f'{member.behind} entries behind'}"
            for member in (unwell or behind)
        )
        yield Trouble(
            "store.member_lags",
            "warning",
            f"a server of {kind} does not keep up ({names}). It does not count while another is lost: look "
            "at its disk, its load and its network",
        )


def _of_faults(health: Health) -> Iterator[Trouble]:
    kind, condition = health.kind, health.condition
    assert condition is not None, "the caller has looked"
    size = size_of(condition.size_bytes, condition.size_max_bytes)
    for fault in condition.faults:
        if "NOSPACE" in fault:
            yield Trouble(
                "store.full",
                "critical",
                f"etcd takes no more writes: its database is full ({size}). No lead can be renewed, so "
                "leaders stop sending when their leases end, and nobody takes over. On one of its servers: "
                "`etcdctl compact` to the newest revision, `etcdctl defrag` on each, `etcdctl alarm disarm`; "
                "then raise --quota-backend-bytes or turn --auto-compaction-retention on",
            )
        elif "CORRUPT" in fault:
            yield Trouble(
                "store.corrupt",
                "critical",
                "etcd has found that its members hold different data (CORRUPT). Do not let it go on: stop "
                "the member that differs, remove it, and add it anew with empty data",
            )
        elif "no leader" not in fault:  # said by store.no_leader
            yield Trouble("store.fault", "critical", f"{kind} says of itself: {fault}")
    if condition.size_bytes and condition.size_max_bytes:
        share = condition.size_bytes / condition.size_max_bytes
        if share > SIZE_WARNING and not any("NOSPACE" in fault for fault in condition.faults):
            yield Trouble(
                "store.size",
                "warning",
                f"{kind}'s database has {size}, {share:.0%}; when it is full, nothing can be written. "
                "Compact and defragment it now, and see that it compacts by itself "
                "(--auto-compaction-retention)",
            )


def size_of(size_bytes: int | None, max_bytes: int | None) -> str:
    """Of its database, in words."""
    if size_bytes is None:
        return "size unknown"
    found = f"{size_bytes / 1e6:.0f} MB"
    return f"{found} of {max_bytes / 1e6:.0f}" if max_bytes else found
