"""Who a process is for certain, and the fencing token that it may act with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from controlplane.model.bounds import EPOCH_MAX, INCARNATION_MAX, Count, Name, Pid, Word


@dataclass(frozen=True, slots=True)
class Process:
    """One process for certain (rule R2): a pid alone comes back with another meaning."""

    instance: Name
    boot_id: Word
    pid: Pid
    start_time: Count
    """Field 22 of /proc/PID/stat, clock ticks since boot."""


def in_range(incarnation: int, epoch: int) -> bool:
    """Can a store have given this out? What is outside was made up, or damaged."""
    return 0 <= incarnation <= INCARNATION_MAX and 0 <= epoch <= EPOCH_MAX


def host_of(instance: str, service: str) -> str:
    """The host in an instance id `<service>-<host>-<n>`; empty when it is not an id of that service."""
    if not instance.startswith(f"{service}-"):
        return ""
    return instance[len(service) + 1 :].rpartition("-")[0]


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


class Phase(IntEnum):
    """What a daemon is doing; written by it, read by its keeper."""

    STARTING = 0
    STANDBY = 1
    FENCING = 2
    RECONCILING = 3
    ACTIVE = 4
    DRAINING = 5
