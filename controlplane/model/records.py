"""The records that the store holds, and how they are written there.

They are stored as JSON by `encode` and `decode`; unknown fields are ignored, so a
newer writer does not break an older reader. Who writes which record, and what a write compares, is in
docs/protocol.md and, rule by rule, in leadership/transactions.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from controlplane.model.process import Process
from controlplane.model.specs import ServiceSpec, Tombstone


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
class ControllerRecord:
    """`controller`: which controller is elected, and where it answers."""

    url: str
    process: Process
    since_ns: int


T = TypeVar("T")


def encode(record: object) -> bytes:
    return msgspec.json.encode(record)


def decode(kind: type[T], value: bytes) -> T:
    """Raises msgspec.DecodeError or msgspec.ValidationError; callers that read foreign data translate it."""
    return msgspec.json.decode(value, type=kind)


class _Mark(msgspec.Struct):
    removed: bool = False


def decode_spec(value: bytes) -> ServiceSpec | Tombstone:
    """What stands under `specs/<service>`. Raises as `decode` does."""
    if msgspec.json.decode(value, type=_Mark).removed:
        return decode(Tombstone, value)
    return decode(ServiceSpec, value)
