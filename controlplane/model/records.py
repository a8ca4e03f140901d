"""The records that the store holds, and how they are written there.

They are stored as JSON by `encode` and `decode`; unknown fields are ignored, so a newer writer does not break
an older reader. What a field may hold is bounded by its type (bounds.py). Who writes which record, and what a
write compares, is in docs/protocol.md and, rule by rule, in leadership/transactions.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from controlplane.model.bounds import (
    Count,
    Endpoints,
    Epoch,
    ForcedState,
    Incarnation,
    Meta,
    Name,
    Port,
    Probe,
    Tags,
    Text,
    Url,
    WallNs,
    Weight,
    Word,
    one_of,
)
from controlplane.model.observed import Alarm
from controlplane.model.process import Process
from controlplane.model.specs import ServiceSpec, Tombstone

OVERRIDE_MAX_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Registration:
    """`services/<service>/<instance>`: this instance serves. Held by the keeper's store lease."""

    service: Name
    instance: Name
    host: Name
    process: Process
    endpoints: Endpoints
    address: Word
    port: Port
    timestamp_ns: WallNs
    version: Word
    tags: Tags = ("hft", "trading", "python")
    zone: Word = ""
    """Where its host stands (a rack, a data centre), for who prefers the near one; empty: not said."""
    weight: Weight = 1
    """Share of the calls that it is given beside the others of its service."""
    meta: Meta = field(default_factory=dict)
    health: Annotated[str, one_of("passing", "warning", "critical")] = "passing"
    """As the registry's checks have it: on leased keys what its agent says, on Consul its own checks."""
    maintenance: Text = ""
    """Why an operator took it out of service for a time; empty: he did not."""
    check: Probe = ""
    """What Consul probes for it; empty: the health route of the agent that answers at its address."""

    @property
    def serves(self) -> bool:
        """May be called: neither critical nor in maintenance."""
        return self.health != "critical" and not self.maintenance


@dataclass(frozen=True, slots=True)
class MaintenanceRecord:
    """`maintenance/<service>/<instance>`: out of service until the key is deleted."""

    reason: Text
    actor: Text
    operation: Name
    since_ns: WallNs


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """`groups/<service>/leader`."""

    holder: Process | None
    incarnation: Incarnation
    epoch: Epoch
    home: Name | None
    """Instance id of the last holder; it may lead again when nobody electable can (R14)."""
    nonce: Word
    """New at each renewal and take: tells one's own write from another's when an answer was lost."""
    forced: bool = False
    lease_ms: Count = 0
    """The lease of the writer's profile: a follower waits for the longer of this and its own (R1), so that
    hosts with different profiles cannot make two leaders. 0: an earlier release wrote it."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """`groups/<service>/epoch`: never deleted, raised only in a take."""

    incarnation: Incarnation
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ElectableRecord:
    """`groups/<service>/electable`: who may campaign; written by the leader's keeper in a transaction that
    also rewrites `leader`.
    """

    processes: Annotated[tuple[Process, ...], msgspec.Meta(max_length=1024)]
    writer_epoch: Epoch


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """`groups/<service>/request`: an operator's wish, settled by the next take (R15)."""

    operation: Name
    kind: Word
    to: Name | None
    epoch: Epoch
    """Epoch at creation."""
    state: Word
    """pending, succeeded, refused, failed, cancelled."""
    actor: Text
    reason: Text
    created_ns: WallNs
    outcome: Text = ""
    """Why, when it did not succeed."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """`groups/<service>/history/<epoch, 8 digits>`: one role change (I4). Wall-clock ns; None where it has
    not happened yet.
    """

    epoch: Epoch
    from_instance: Name | None
    to_instance: Name | None
    cause: Word
    """first, process_lost, stopped, lease_expired, failover, released."""
    actor: Text
    reason: Text
    operation: Name | None
    started_ns: WallNs
    """When the cause was seen (a failover: when it was asked for)."""
    taken_ns: WallNs | None = None
    active_ns: WallNs | None = None


STEPS_MAX = 128
"""Of one operation: an apply of 128 services in batches is six, a reset of fences one a receiver."""


@dataclass(frozen=True, slots=True)
class OperationStep:
    name: Text
    state: Word
    """As an operation's; a step that was never begun is not there."""
    started_ns: WallNs
    finished_ns: WallNs | None = None
    detail: Text = ""
    """Why, when it did not succeed."""


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """`ops/<id>`: one change made by an operator or the system."""

    id: Name
    kind: Word
    subject: Text
    state: Word
    """running, succeeded, refused, failed, unknown, cancelled."""
    actor: Text
    reason: Text
    created_ns: WallNs
    finished_ns: WallNs | None = None
    outcome: Text = ""
    """Why, when it did not succeed."""
    steps: Annotated[tuple[OperationStep, ...], msgspec.Meta(max_length=STEPS_MAX)] = ()
    """In the order in which they began."""


@dataclass(frozen=True, slots=True)
class ControllerRecord:
    """`controller`: which controller is elected, and where it answers."""

    url: Url
    process: Process
    since_ns: WallNs
    alarms: Annotated[tuple[Alarm, ...], msgspec.Meta(max_length=64)] = ()
    """Its own, which the agents show."""


@dataclass(frozen=True, slots=True)
class BreakerOverride:
    """`breakers/<name>/override`: an operator's word on the breakers of that name, on every host. Deleted
    when it ends.
    """

    name: Name
    state: ForcedState
    id: Word
    """Of the operation that set it: the same override keeps its end, another one has its own."""
    actor: Text
    reason: Text
    set_ns: WallNs
    for_s: Annotated[float, msgspec.Meta(gt=0, le=OVERRIDE_MAX_S)] | None = None
    """Each host counts it from when it hears of it, by its own boot clock. None: until it is taken back."""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """`site`: which floor the site is of; put once, by compare-and-swap, and never changed."""

    floor: Word
    """32 hexadecimal digits, as in the site folder's floor.id."""
    by: Word
    """Who brought it up first, and on which machine: for people."""
    host: Word
    created_ns: WallNs


@dataclass(frozen=True, slots=True)
class RestoringRecord:
    """`restoring`: a backup is being put back (backup/restoring.py); deleted with the last write of it."""

    operation: Name
    file: Text
    actor: Text
    host: Word
    started_ns: WallNs
    highest: Incarnation
    """The highest incarnation that was seen before the store's own was deleted: for who goes on with it."""


T = TypeVar("T")


def encode(record: object) -> bytes:
    return msgspec.json.encode(record)


def decode(kind: type[T], value: bytes) -> T:
    """Raises msgspec.DecodeError for whatever the bytes are (ValidationError is one); callers that read
    foreign data translate it.
    """
    try:
        return msgspec.json.decode(value, type=kind)
    except (UnicodeDecodeError, RecursionError) as exc:
        raise msgspec.DecodeError(str(exc)) from exc


class _Bare(msgspec.Struct):
    """A registration by another hand, in the shape that scripts write."""

    address: Annotated[Word, msgspec.Meta(min_length=1)]
    port: Port
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=1e14)] = 0.0
    """UNIX time in seconds, or in ms where it could be no time in seconds."""
    tags: Tags = ()
    meta: Meta = msgspec.field(default_factory=dict)
    version: Word = ""
    zone: Word = ""
    weight: Weight = 1


def encode_registration(registration: Registration) -> bytes:
    """With `timestamp`, in seconds, for readers that know no more of it than address, port and timestamp."""
    plain = msgspec.to_builtins(registration)
    return msgspec.json.encode({**plain, "timestamp": registration.timestamp_ns / 1e9})


def decode_registration(value: bytes, service: str, instance: str) -> Registration:
    """What stands under `services/<service>/<instance>`: ours, or one that says little more than address and
    port and takes service and id from its key. Raises as `decode` does.
    """
    try:
        return decode(Registration, value)
    except msgspec.DecodeError as exc:
        try:
            bare = decode(_Bare, value)
        except msgspec.DecodeError:
            raise exc from None
        if decode(_Shape, value).names_itself:
            raise  # of ours, and damaged: not to be taken for less than it was
    seconds = bare.timestamp if bare.timestamp < SECONDS_MAX else bare.timestamp / 1000
    return msgspec.convert(
        {
            "service": service,
            "instance": instance,
            "host": "",
            "process": Process(instance, "", 0, 0),
            "endpoints": {},
            "address": bare.address,
            "port": bare.port,
            "timestamp_ns": int(seconds * 1e9),
            "version": bare.version,
            "tags": bare.tags,
            "zone": bare.zone,
            "weight": bare.weight,
            "meta": bare.meta,
        },
        Registration,
    )


class _Shape(msgspec.Struct):
    service: object = None
    instance: object = None
    process: object = None

    @property
    def names_itself(self) -> bool:
        return any(each is not None for each in (self.service, self.instance, self.process))


SECONDS_MAX = 1e10

_INCARNATION: type[int] = Incarnation


def decode_incarnation(value: bytes) -> int:
    """What stands under `incarnation`: digits. Raises as `decode` does."""
    return decode(_INCARNATION, value)


class _Mark(msgspec.Struct):
    removed: bool = False


def decode_spec(value: bytes) -> ServiceSpec | Tombstone:
    """What stands under `specs/<service>`. Raises as `decode` does."""
    if decode(_Mark, value).removed:
        return decode(Tombstone, value)
    return decode(ServiceSpec, value)
