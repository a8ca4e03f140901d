"""Observed state: what an agent says of its host, its instances and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    """leader or standby in an active_standby group; None elsewhere. From the heartbeat page: what the process
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
class EndedCounters:
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
    ended_counters: tuple[EndedCounters, ...] = ()
    """Since this agent began."""
