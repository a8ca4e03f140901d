"""Observed state: what an agent says of its host, its instances and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from controlplane.model.bounds import (
    BreakerState,
    Count,
    Counters,
    Endpoints,
    Epoch,
    Histograms,
    Metric,
    Name,
    PhaseName,
    Pid,
    Severity,
    Text,
    Url,
    WallNs,
    Word,
    one_of,
)


@dataclass(frozen=True, slots=True)
class Alarm:
    id: Text
    severity: Severity
    subject: Text
    text: Text
    since_ns: WallNs


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A circuit breaker of an instance; calls since its process began."""

    name: Name
    state: BreakerState
    forced: bool
    """By an operator."""
    reason: Text
    until_ns: WallNs
    """When an open one is tried, or what was forced ends; 0: never by itself."""
    calls: Count
    failures: Count
    slow: Count
    refused: Count


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """Observed state of one instance, as its agent sees it."""

    id: Name
    service: Name
    daemon: Name
    host: Name
    pid: Pid | None
    state: Annotated[str, one_of("stopped", "starting", "running", "stopping", "backoff")]
    role: Annotated[str, one_of("leader", "standby")] | None
    """leader or standby in an active_standby group; None elsewhere. From the heartbeat page: what the process
    does."""
    phase: PhaseName
    """Of the heartbeat page."""
    epoch: Epoch
    health: Annotated[str, one_of("passing", "warning", "critical")]
    reason: Text
    ready: bool
    started_ns: WallNs | None
    restarts: Count
    cpus: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)]
    sched: Word
    endpoints: Endpoints
    version: Word
    config_revision: Count
    """Of the settings in force, as the daemon has said; where it does not say, those that it was started
    with."""
    counters: Counters = field(default_factory=dict)
    rates: Mapping[Metric, float] = field(default_factory=dict)
    """Counters' change a second over the last report."""
    histograms: Histograms = field(default_factory=dict)
    crashes: Count = 0
    """Of `restarts`, and of failed starts: how often it ended unasked."""
    spec_revision: Count = 0
    """Store revision of the spec that it runs as."""
    config_refused: Text = ""
    """Why the daemon did not take the settings that are wanted; empty: it did."""
    breakers: Annotated[tuple[BreakerStatus, ...], msgspec.Meta(max_length=64)] = ()


@dataclass(frozen=True, slots=True)
class EndedCounters:
    """What a host's ended processes of one daemon had counted, as far as their agent heard it; `flow` counts
    on from there.
    """

    daemon: Name
    counters: Counters
    histograms: Histograms


@dataclass(frozen=True, slots=True)
class HostRecord:
    """`hosts/<host>`: written by the agent once a second and at each change, under its own store lease."""

    host: Name
    address: Word
    url: Url
    """Of the agent's HTTP."""
    keeper: Word
    """UDP address host:port on which the host's keeper answers pings of its peers; empty until known."""
    boot_id: Word
    updated_ns: WallNs
    state: Word = "up"
    instances: tuple[InstanceStatus, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    ended_counters: tuple[EndedCounters, ...] = ()
    """Since this agent began."""
