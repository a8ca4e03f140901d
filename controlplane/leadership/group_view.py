"""All that a decision about a group's lead depends on: its records as they were last read, the lead that is
held here, and what the keeper sees of its own process and of its peers. Pure; read by group_records.py,
decided on by decide.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.leadership.budget import Budget
from controlplane.model import Process, records

Rank = tuple[int, int]
"""(incarnation, epoch): the order of a group's tokens."""


class Cause(StrEnum):
    FIRST = "first"
    PROCESS_LOST = "process_lost"
    STOPPED = "stopped"
    LEASE_EXPIRED = "lease_expired"
    FAILOVER = "failover"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Group:
    """The records of one group as last read, each with the revision that a write compares (0: absent)."""

    service: str
    revision: int = 0
    """Of the store when this was read: orders two views of one store."""
    leader: records.LeaderRecord | None = None
    leader_revision: int = 0
    epoch: records.EpochRecord | None = None
    epoch_revision: int = 0
    electable: records.ElectableRecord | None = None
    electable_revision: int = 0
    request: records.RequestRecord | None = None
    request_revision: int = 0
    paused: bool = False
    pause_revision: int = 0
    incarnation: int | None = None
    incarnation_revision: int = 0
    row: records.HistoryRow | None = None
    """History of the present epoch."""
    row_revision: int = 0
    begun: records.HistoryRow | None = None
    """History of the next epoch, begun by the keeper that released the lead after a death; the taker
    completes it."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Key -> why, of records that do not decode. What stands in their place: group_records.group_of."""

    @property
    def epoch_number(self) -> int:
        return self.epoch.epoch if self.epoch else 0

    @property
    def rank(self) -> Rank:
        return (self.incarnation or 0, self.epoch_number)

    @property
    def holder(self) -> Process | None:
        return self.leader.holder if self.leader else None

    @property
    def candidates(self) -> tuple[Process, ...]:
        return self.electable.processes if self.electable else ()

    @property
    def pending(self) -> records.RequestRecord | None:
        """The request, while it is to be acted on (R15)."""
        return self.request if self.request and self.request.state == "pending" else None


@dataclass(frozen=True, slots=True)
class Lead:
    """The lead that this keeper holds, or held and has closed, for one process. Replaced, never changed:
    identity tells a late answer apart.
    """

    process: Process
    incarnation: int
    epoch: int
    closed: Cause | None = None
    """R7: why the epoch is closed; a closed one is never renewed, only handed over."""
    closed_ns: int = 0
    killed: bool = False

    @property
    def rank(self) -> Rank:
        return (self.incarnation, self.epoch)


@dataclass(frozen=True, slots=True)
class GroupView:
    """All that a decision depends on."""

    group: Group | None
    """None: this keeper has not seen the store yet."""
    me: Process
    """The process that the instance has now."""
    budget: Budget
    runs: bool
    """By its pidfd."""
    fresh: bool = True
    """Its heartbeat."""
    ready: bool = True
    """Its agent wants it registered."""
    home_ok: bool = True
    """Its agent allows R14."""
    slots: frozenset[str] = frozenset()
    """Instances that the service's spec has now; empty: not known, then none counts as moved away."""
    lead: Lead | None = None
    word_closed: Rank | None = None
    """The epoch that the lease word, addressed to `me`, says is handed over: a closing survives a keeper's
    restart (R7)."""
    word_armed: Rank | None = None
    """The epoch in which the lease word tells `me` to lead, whether that has run out or not."""
    changed_ns: int = 0
    """When this keeper first saw the present revision of the leader record (R4)."""
    request_ns: int = 0
    """When it first saw the present revision of the request."""
    renew_ns: int = 0
    """When the next renewal is due."""
    holder_runs: bool = True
    """The process that the record names, when it is of this instance and not `me`."""
    successors: frozenset[Process] = frozenset()
    """Passing, by an answer of their keepers that is not older than 200 ms (R9)."""
    seen: Rank = (0, 0)
    """The highest token on this keeper's disk."""
    electable: tuple[Process, ...] | None = None
    """What the leading daemon's list says, when it differs from the record."""
    active: bool = False
    """The alive word says active under the epoch that is led."""
    stopping: bool = False
    """The keeper: what it leads is closed."""
    leaving: bool = False
    """The keeper stops, or its whole host goes down: a death is no loss, and nothing is taken."""
    ending: bool = False
    """Its agent stops this process alone: its death is not a loss, and the lead goes to another member that
    may have it."""
    free: bool = True
    """No transaction is in flight, and none has just failed."""
