"""The records of configuration: the revisions of a service's document, which one is wanted, a rollout that is
under way, and plain keys.

Who writes them: controlplane/config/ and operations/config_rollout.py. Who obeys them: agents, which hand the
wanted document to their daemons. A document is the `settings` of a service, complete. While a service has no
record here, its document is what services.yml said of it last, as revision 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from controlplane.model.bounds import INSTANCES_MAX, Count, Name, Text, WallNs, Word, one_of
from controlplane.model.records import decode

FIRST_REVISION = 1
"""Of each service: what services.yml says."""
KILL_SWITCH = "kill_switch"
"""The plain key, yes or no, at which every omsd refuses new orders and replaces."""

ROLLOUT_S_MAX = 3600.0
RolloutSeconds = Annotated[float, msgspec.Meta(gt=0, le=ROLLOUT_S_MAX)]
"""Of one stage. Bounded, as the controller counts with what any writer of the store says."""

ChangeKind = Annotated[str, one_of("services_file", "set", "edit", "apply", "rollback")]
KeyType = Annotated[str, one_of("bool", "int", "float", "string", "json")]


@dataclass(frozen=True, slots=True)
class ConfigRevision:
    """`config/<service>/<revision>`: what a service's document was from this revision on; never changed."""

    service: Name
    revision: Annotated[int, msgspec.Meta(ge=1)]
    document: Mapping[str, Any]
    kind: ChangeKind
    actor: Text
    reason: Text
    at_ns: WallNs
    operation: Word = ""
    restored: Count = 0
    """Of a rollback: the revision whose document this is."""


@dataclass(frozen=True, slots=True)
class CurrentConfig:
    """`config/<service>/current`: the revision that is wanted; every change of it compares the key."""

    service: Name
    revision: Annotated[int, msgspec.Meta(ge=1)]
    nonce: Word
    """Of the write: tells one's own from another's when an answer was lost."""


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """`config/<service>/rollout`: a revision that only some instances shall run yet. It stands beside
    `current`, which moves when the rollout has succeeded; deleting it takes the revision back everywhere.
    """

    service: Name
    revision: Annotated[int, msgspec.Meta(ge=1)]
    """Its document stands under its own key already."""
    base: Annotated[int, msgspec.Meta(ge=1)]
    """Wanted when it began: what a revert goes back to."""
    operation: Name
    actor: Text
    reason: Text
    began_ns: WallNs
    instances: Annotated[tuple[Name, ...], msgspec.Meta(max_length=INSTANCES_MAX * 64)] = ()
    """That shall run `revision` now."""
    stage: Annotated[str, one_of("canary", "rest", "revert")] = "canary"
    why: Text = ""
    """Of a revert."""
    cancelled: bool = False
    """An operator took it back."""
    crashes: Mapping[Name, Count] = field(default_factory=dict)
    """How often each of `instances` had crashed when its stage began: one more reverts, whichever controller
    sees it."""
    watch_s: RolloutSeconds = 10.0
    """For how long each stage has to stay good."""
    timeout_s: RolloutSeconds = 60.0
    """In which each stage's instances have to be in force and ready."""
    metric: Text = ""
    """`NAME > VALUE` or `NAME < VALUE`, of each instance's counters' rates: reverted when it holds; empty:
    health alone is watched (config/condition.py)."""


@dataclass(frozen=True, slots=True)
class PlainKey:
    """`config/<key>`: one value of the site, such as a feature flag. A value that another client wrote is its
    JSON, else its text; `type` is then what it looks like and there is no actor.
    """

    value: Any
    type: KeyType
    actor: Text = ""
    reason: Text = ""
    set_ns: WallNs = 0
    ttl_s: float | None = None
    """The store deletes it this long after `set_ns`; None: it stays."""


TYPES: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "string": str, "json": object}


VALUE_BYTES_MAX = 4096
"""Of a plain key: each daemon of the site has all of them in memory."""
LEVELS_MAX = 20
"""Of a value or a document; the deepest settings have three. Who encodes or compares one calls itself for
each level."""


def plain_key(value: bytes, key: str) -> PlainKey:
    """What a plain key holds. Raises msgspec.DecodeError or ValueError: it is not text, not of its type, or
    too large; the site's kill switch is yes or no.
    """
    found: Any
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        found = value.decode()
    if isinstance(found, dict) and {"value", "type"} <= found.keys():
        record = decode(PlainKey, value)
    else:
        record = PlainKey(found, type_of(found))
    check_sendable(record.value)
    if (size := len(msgspec.json.encode(record.value))) > VALUE_BYTES_MAX:
        raise ValueError(f"{size} bytes, more than {VALUE_BYTES_MAX}")
    wanted = "bool" if key == KILL_SWITCH else record.type
    if not fits(record.value, wanted):
        raise ValueError(f"{str(record.value)[:60]!r} is no {wanted}")
    return record


def check_sendable(value: object) -> None:
    """Raises ValueError: it holds what no message to a daemon can, a whole number beyond 64 bits, or more
    levels inside each other than any of ours has.
    """
    waiting = [(value, 0)]
    while waiting:
        each, level = waiting.pop()
        if level > LEVELS_MAX:
            raise ValueError(f"more than {LEVELS_MAX} levels inside each other")
        if isinstance(each, Mapping):
            waiting += [(inner, level + 1) for inner in each.values()]
        elif isinstance(each, list | tuple):
            waiting += [(inner, level + 1) for inner in each]
    try:
        msgspec.msgpack.encode(value)
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc


def type_of(value: object) -> str:
    """The narrowest type that a value of JSON fits."""
    return next(name for name in TYPES if fits(value, name))


def fits(value: object, type: str) -> bool:
    wanted = TYPES[type]
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted) and (wanted is not int or not isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the site's view has of a service's configuration."""

    current: CurrentConfig | None = None
    rollout: RolloutRecord | None = None
    revisions: Mapping[int, ConfigRevision] = field(default_factory=dict)
    """Those that are kept, oldest first."""

    def wanted(self, instance: str) -> ConfigRevision | None:
        """What this instance shall run; None: what services.yml said (revision 1), or the revision's document
        is not there, and the last good one stays in force.
        """
        rollout = self.rollout
        if rollout is not None and rollout.stage != "revert" and instance in rollout.instances:
            return self.revisions.get(rollout.revision)
        return self.revisions.get(self.current.revision) if self.current is not None else None

    def wanted_revision(self, instance: str) -> int:
        """Of `wanted`, whether its document is there or not."""
        rollout = self.rollout
        if rollout is not None and rollout.stage != "revert" and instance in rollout.instances:
            return rollout.revision
        return self.current.revision if self.current is not None else FIRST_REVISION
