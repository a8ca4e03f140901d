"""Desired state: services, the slots of their instances, removed services, and what a kind of daemon says of
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

from controlplane.model.bounds import HOSTS_MAX, INSTANCES_MAX, Count, Name, Port, Text, Word
from controlplane.model.checks import CHECKS_MAX, AnyCheck


class Mode(StrEnum):
    ACTIVE_STANDBY = "active_standby"
    """One leader with an epoch, warm standbys."""
    REPLICAS = "replicas"
    SINGLETON = "singleton"
    """One at a time, no epoch: nothing downstream has to refuse it."""
    PER_HOST = "per_host"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one instance: `<service>-<host>-<n>`."""

    instance: str
    service: str
    host: str


REAL_TIME = ("fifo", "rr")
"""Scheduling policies that need a privilege (host/sched.py)."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """Desired state of one service. The derived fields are filled in from the daemon's own schema when a file
    is read (specs/read.py).
    """

    name: Name
    daemon: Name
    mode: Mode
    hosts: Annotated[tuple[Name, ...], msgspec.Meta(max_length=HOSTS_MAX)]
    instances_per_host: Annotated[int, msgspec.Meta(ge=1, le=INSTANCES_MAX)] = 1
    cpus: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)] = ()
    """CPUs to pin to; empty: no pinning."""
    sched: Word = "other"
    settings: Mapping[str, object] = field(default_factory=dict)
    """Complete: defaults of the daemon's schema are filled in."""
    uses: tuple[Name, ...] = ()
    """Derived: services that this one has to find."""
    fences: tuple[Name, ...] = ()
    """Derived: groups that this one fences or serves; its keeper writes their tokens beside the lease
    page."""
    health_port: Port = 0
    """Of the first instance; each further one has the next. There its agent answers health and metrics for
    it. 0: none."""
    restart: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] | None = None
    """Derived: the settings that only a restart changes; the others reach a running daemon. None: an earlier
    release wrote the spec, and every setting restarts."""
    checks: Annotated[tuple[AnyCheck, ...], msgspec.Meta(max_length=CHECKS_MAX)] = ()
    """Carried out for each instance by its host's agent, beside `process` and `heartbeat`. A change of them
    restarts no instance."""

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
class Tombstone:
    """Stands at a removed service's key, in place of its spec, until every host has confirmed the stop or an
    apply names the service again. Nothing of the service is started while it stands.
    """

    by: Text
    reason: Text
    at: Word
    """ISO 8601, UTC."""
    hosts: Annotated[tuple[Name, ...], msgspec.Meta(max_length=HOSTS_MAX)] = ()
    """Those that have not confirmed yet. Each host's agent takes its own out once no instance of the service
    is left there; the last one deletes the key."""
    removed: Literal[True] = True
    """Tells it from a spec; a reader that knows only specs finds neither name nor daemon, and takes it for
    none."""


@dataclass(frozen=True, slots=True)
class DaemonKind:
    """What a daemon says of itself; found by the entry point group `hftctl.daemons`, so that others can bring
    their own.
    """

    name: str
    settings: type
    """A frozen dataclass. A field with metadata {"service": DAEMON} names a service that must run that
    daemon; with "fence": True too, its group's token is written to the fence file."""
    modes: frozenset[Mode]
    module: str
    """Where `build(context, settings) -> Loop` is; imported only in the daemon's own process."""
    check: Callable[[Any], None] | None = None
    """What only the machine that reads a services file can say of these settings, before anything is started
    or changed: raises InvalidInput."""
    live: bool = False
    """Its running process takes changed settings (`Loop.on_settings`), but for the fields with metadata
    {"restart": True} and those that name a service. False: every changed setting restarts it."""
    hot: bool = False
    """It is on the way from tick to order: woken before the others where the scheduler lets it ask
    (hftd/sched/slice.py)."""
