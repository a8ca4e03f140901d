"""The nouns of a site, frozen: specs, processes, tokens, and the records that the store holds.

Records are stored as JSON (readable with etcdctl) by `encode` and `decode`; unknown fields are ignored, so a
newer writer does not break an older reader. Who writes which record, and what a write compares, is in
docs/protocol.md and, rule by rule, in election.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec


class Mode(StrEnum):
    ACTIVE_STANDBY = "active_standby"
    """One leader with an epoch, warm standbys."""
    REPLICAS = "replicas"
    SINGLETON = "singleton"
    """One at a time, no epoch: nothing downstream has to refuse it."""
    PER_HOST = "per_host"


@dataclass(frozen=True, slots=True)
class Process:
    """One process for certain (rule R2): a pid alone comes back with another meaning."""

    instance: str
    boot_id: str
    pid: int
    start_time: int
    """Field 22 of /proc/PID/stat, clock ticks since boot."""


@dataclass(frozen=True, slots=True)
class Token:
    """The fencing token of one group: (incarnation of the store, group, epoch), ordered by incarnation, then
    epoch.
    """

    incarnation: int
    group: str
    epoch: int

    @property
    def rank(self) -> tuple[int, int]:
        return (self.incarnation, self.epoch)


# --- specs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one instance: `<service>-<host>-<n>`."""

    instance: str
    service: str
    host: str


REAL_TIME = ("fifo", "rr")
"""Scheduling policies that need a privilege (privilege.py)."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """Desired state of one service. The derived fields are filled in from the daemon's own schema when a file
    is read (specs.py).
    """

    name: str
    daemon: str
    mode: Mode
    hosts: tuple[str, ...]
    instances_per_host: int = 1
    cpus: tuple[int, ...] = ()
    """CPUs to pin to; empty: no pinning."""
    sched: str = "other"
    settings: Mapping[str, object] = field(default_factory=dict)
    """Complete: defaults of the daemon's schema are filled in."""
    uses: tuple[str, ...] = ()
    """Derived: services that this one has to find."""
    floors: tuple[str, ...] = ()
    """Derived: groups that this one fences or serves; its keeper writes their tokens beside the lease
    word."""
    health_port: int = 0
    """Of the first instance; each further one has the next. There its agent answers health and metrics for
    it. 0: none."""

    @property
    def real_time(self) -> bool:
        return self.sched.partition(":")[0] in REAL_TIME

    def slots(self) -> list[Slot]:
        return [
            Slot(f"{self.name}-{host}-{n}", self.name, host)
            for host in self.hosts
            for n in range(1, self.instances_per_host + 1)
        ]

    def health_ports(self) -> list[tuple[Slot, int]]:
        return (
            [(slot, self.health_port + n) for n, slot in enumerate(self.slots())] if self.health_port else []
        )


@dataclass(frozen=True, slots=True)
class DaemonKind:
    """What a daemon says of itself; found by the entry point group `hftctl.daemons`, so that others can bring
    their own.
    """

    name: str
    settings: type
    """A frozen dataclass. A field with metadata {"service": DAEMON} names a service that must run that
    daemon; with "floor": True too, its group's token is written to the floors file."""
    modes: frozenset[Mode]
    module: str
    """Where `build(floor, settings) -> Loop` is; imported only in the daemon's own process."""
    binds: tuple[str, ...] = ()
    """Names of the sockets it binds."""
    hot: bool = False
    """It is on the way from tick to order: woken before the others where the scheduler lets it ask
    (native/slice.py)."""


# --- records in the store -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registration:
    """`services/<service>/<instance>`: this instance serves. Held by the keeper's store lease."""

    service: str
    instance: str
    host: str
    process: Process
    endpoints: Mapping[str, str]
    address: str
    port: int
    timestamp_ns: int
    version: str
    tags: tuple[str, ...] = ("hft", "trading", "python")


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """`groups/<service>/leader`."""

    holder: Process | None
    incarnation: int
    epoch: int
    home: str | None
    """Instance id of the last holder; it may lead again when nobody electable can (R14)."""
    nonce: str
    """New at each renewal and take: tells one's own write from another's when an answer was lost."""
    forced: bool = False


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """`groups/<service>/epoch`: never deleted, raised only in a take."""

    incarnation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ElectableRecord:
    """`groups/<service>/electable`: who may campaign; written by the leader's keeper in a transaction that
    also rewrites `leader`.
    """

    processes: tuple[Process, ...]
    writer_epoch: int


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """`groups/<service>/request`: an operator's wish, settled by the next take (R15)."""

    operation: str
    kind: str
    to: str | None
    epoch: int
    """Epoch at creation."""
    state: str
    """pending, succeeded, refused, failed, cancelled."""
    actor: str
    reason: str
    created_ns: int
    outcome: str = ""
    """Why, when it did not succeed."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """`groups/<service>/history/<epoch, 8 digits>`: one role change (I4). Wall-clock ns; None where it has
    not happened yet.
    """

    epoch: int
    from_instance: str | None
    to_instance: str | None
    cause: str
    """first, process_lost, stopped, lease_expired, failover, released."""
    actor: str
    reason: str
    operation: str | None
    started_ns: int
    """When the cause was seen (a failover: when it was asked for)."""
    taken_ns: int | None = None
    active_ns: int | None = None


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """`ops/<id>`: one change made by an operator or the system."""

    id: str
    kind: str
    subject: str
    state: str
    """running, succeeded, refused, failed, unknown, cancelled."""
    actor: str
    reason: str
    created_ns: int
    finished_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    id: str
    severity: str
    """info, warning, critical."""
    subject: str
    text: str
    since_ns: int


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """Observed state of one instance, as its agent sees it."""

    id: str
    service: str
    daemon: str
    host: str
    pid: int | None
    state: str
    """stopped, starting, running, stopping, backoff."""
    role: str | None
    """leader or standby in an active_standby group; None elsewhere. From the alive word: what the process
    does."""
    phase: str
    """The alive word's state: starting, standby, fencing, reconciling, active, draining."""
    epoch: int
    health: str
    """passing, warning, critical."""
    reason: str
    ready: bool
    started_ns: int | None
    restarts: int
    cpus: tuple[int, ...]
    sched: str
    endpoints: Mapping[str, str]
    version: str
    config_revision: int
    counters: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    """Counters' change a second over the last report."""
    histograms: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Sparse log-linear histograms in ns (histogram.py)."""


@dataclass(frozen=True, slots=True)
class Former:
    """What a host's ended processes of one daemon had counted, as far as their agent heard it; `flow` counts
    on from there.
    """

    daemon: str
    counters: Mapping[str, int]
    histograms: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class HostRecord:
    """`hosts/<host>`: written by the agent once a second and at each change, under its own store lease."""

    host: str
    address: str
    url: str
    """Of the agent's HTTP."""
    keeper: str
    """UDP address host:port on which the host's keeper answers pings of its peers; empty until known."""
    boot_id: str
    updated_ns: int
    state: str = "up"
    instances: tuple[InstanceStatus, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    former: tuple[Former, ...] = ()
    """Since this agent began."""


T = TypeVar("T")


def encode(record: object) -> bytes:
    return msgspec.json.encode(record)


def decode(kind: type[T], value: bytes) -> T:
    """Raises msgspec.DecodeError or msgspec.ValidationError; callers that read foreign data translate it."""
    return msgspec.json.decode(value, type=kind)
