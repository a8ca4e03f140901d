"""The revisions of a service's document in the store: read, written, staged for a rollout (staged.py goes on
from there).

`read` says what stands; each write is one transaction that compares what was read, so that of two writers one
learns of the other. A document that services.yml alone has said is revision 1 and has no row; the first
change writes its row beside the new one. A write whose answer was lost is settled by reading: its own rows
tell it from another's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from controlplane import model
from controlplane.config import documents
from controlplane.errors import Refused, Unavailable
from controlplane.model import ServiceSpec, bounds, records
from controlplane.model.config import (
    FIRST_REVISION,
    ConfigRevision,
    CurrentConfig,
    RolloutRecord,
    ServiceConfig,
    check_sendable,
)
from controlplane.store import Committed, Compare, Delete, Entry, Keys, Put, Store
from controlplane.store.limits import VALUES_BYTES_MAX

T = TypeVar("T")

KEPT_MAX = 100
"""Revisions of one service."""
KEPT_BYTES_MAX = 1024 * 1024
"""The same in bytes: every agent holds them, and Consul sends it all of them again at each change."""
DELETED_MAX = 8
"""In one transaction; what is too much after it goes with the next ones."""
WRITE_TRIES = 3
"""Of one transaction whose answers are lost; each try has the store client's own deadline."""
READ_TRIES = 3
"""Of the read after it."""
SERVICES_FILE = "services_file"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store had of a service's configuration, with what a write of it compares."""

    service: str
    spec: ServiceSpec | None
    """None: there is no such service."""
    config: ServiceConfig
    at: Mapping[str, int]
    """Store revision of the spec, of `current` and of `rollout`, by key; 0: not there."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """Bytes of each revision's record, those that do not decode too."""
    damaged: tuple[str, ...] = ()
    """Keys whose records do not decode, of `current` and `rollout`."""

    @property
    def newest(self) -> int:
        """The highest revision that has a row; 0: none has."""
        return max(self.rows, default=0)

    @property
    def first(self) -> int:
        """What services.yml's document gets as its number while no `current` stands."""
        return self.newest + 1

    @property
    def revision(self) -> int:
        """That is wanted."""
        return self.config.current.revision if self.config.current is not None else FIRST_REVISION

    @property
    def document(self) -> Mapping[str, Any] | None:
        """That is wanted; None: its row is gone or damaged."""
        if self.config.current is None:
            return self.spec.settings if self.spec is not None and not self.damaged else None
        row = self.config.revisions.get(self.config.current.revision)
        return row.document if row is not None else None

    def document_of(self, revision: int) -> Mapping[str, Any] | None:
        """None: it is not kept."""
        row = self.config.revisions.get(revision)
        if row is not None:
            return row.document
        return self.document if revision == self.revision else None


@dataclass(frozen=True, slots=True)
class New:
    """A revision to be written; its number follows from what stands."""

    document: Mapping[str, Any]
    kind: str
    actor: str
    reason: str
    at_ns: int
    operation: str
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    revision: int
    base: int
    """What it followed on; written with it where it had no row."""
    rollout: RolloutRecord | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another hand changed the service's configuration since it was read."""

    service: str
    planned_on: int
    """Revision."""
    theirs: tuple[ConfigRevision, ...] = ()
    """Since then, oldest first; empty: the spec or a rollout changed."""
    both: tuple[str, ...] = ()
    """Paths that both touched."""
    rollout: RolloutRecord | None = None
    """That is under way."""

    def __str__(self) -> str:
        if self.rollout is not None:
            return under_way(self.rollout)
        if not self.theirs:
            return f"{self.service}: its spec changed while the change was checked against it; ask again"
        last = self.theirs[-1]
        touched = f"both changed {', '.join(self.both)}" if self.both else "no path was changed by both"
        return (
            f"{self.service}: asked on revision {self.planned_on}, and {said(last)} stands since; {touched}; "
            f"look at it (config diff {self.service} {self.planned_on} {last.revision}) and ask again"
        )


def said(row: ConfigRevision) -> str:
    """Who made a revision, when and why, in a message."""
    at = datetime.fromtimestamp(row.at_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"revision {row.revision} ({row.kind} by {row.actor} at {at}: {bounds.cut(row.reason, 200)})"


def under_way(rollout: RolloutRecord) -> str:
    return (
        f"{rollout.service}: a rollout of revision {rollout.revision} by {rollout.actor} is under way "
        f"(operation {rollout.operation}, {rollout.stage}); wait for its end, or take it back with `hftctl "
        f"config rollback {rollout.service} {rollout.base}`"
    )


# --- reading ------------------------------------------------------------------------------------------------


async def read(store: Store, keys: Keys, service: str) -> Standing:
    """Raises Unavailable."""
    spec = await store.get(keys.spec(service))
    found = await store.range(keys.config_of(service))
    return standing(keys, service, spec, found.entries)


def standing(keys: Keys, service: str, spec: Entry | None, entries: Mapping[str, Entry]) -> Standing:
    """Pure: from what stands under its keys. What does not decode counts as not there."""
    rows: dict[int, int] = {}
    revisions: dict[int, ConfigRevision] = {}
    for key, entry in sorted(entries.items()):
        name = key.removeprefix(keys.config_of(service))
        if key.startswith(keys.config_of(service)) and name.isascii() and name.isdigit():
            rows[int(name)] = len(entry.value)
            row = _row(entry)
            if row is not None and (row.service, row.revision) == (service, int(name)):
                revisions[row.revision] = row
    current, rollout = entries.get(keys.config_current(service)), entries.get(keys.config_rollout(service))
    at = {
        keys.spec(service): spec.revision if spec is not None else 0,
        keys.config_current(service): current.revision if current is not None else 0,
        keys.config_rollout(service): rollout.revision if rollout is not None else 0,
    }
    config = ServiceConfig(decoded(CurrentConfig, current), decoded(RolloutRecord, rollout), revisions)
    read = {keys.config_current(service): config.current, keys.config_rollout(service): config.rollout}
    damaged = tuple(key for key, record in read.items() if at[key] and record is None)
    return Standing(service, _spec(spec, service), config, at, rows, damaged)


def decoded(kind: type[Any], entry: Entry | None) -> Any:
    try:
        return model.decode(kind, entry.value) if entry is not None else None
    except msgspec.DecodeError:
        return None


def _row(entry: Entry) -> ConfigRevision | None:
    row: ConfigRevision | None = decoded(ConfigRevision, entry)
    try:
        check_sendable(row.document if row is not None else None)
    except ValueError:
        return None
    return row


def _spec(entry: Entry | None, service: str) -> ServiceSpec | None:
    try:
        found = records.decode_spec(entry.value) if entry is not None else None
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, ServiceSpec) and found.name == service else None


# --- what a new revision writes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Writes:
    """A part of a transaction."""

    compares: tuple[Compare, ...]
    then: tuple[Put | Delete, ...]
    revision: int
    base: int
    row: Put
    """Of the new revision: tells the write from another's."""

    @property
    def operations(self) -> int:
        return len(self.compares) + len(self.then)


def writes(keys: Keys, stands: Standing, new: New, rollout: RolloutRecord | None = None) -> Writes:
    """Pure: what makes `new` the wanted revision, or with `rollout` the one that its instances run. Its
    `revision`, `base` and `service` are filled in. Where there is no spec yet, `new` is the services file's.
    """
    service = stands.service
    base = stands.revision
    rows: list[Put] = []
    current: CurrentConfig | None = None
    if stands.spec is not None and not stands.at[keys.config_current(service)]:
        base = stands.first
        first = ConfigRevision(
            service,
            base,
            stands.spec.settings,
            SERVICES_FILE,
            "system",
            "as the services file had it",
            new.at_ns,
        )
        rows.append(Put(keys.config_revision(service, base), model.encode(first)))
        current = CurrentConfig(service, base, new_nonce())
    number = max(stands.newest, base if rows else 0) + 1
    made = ConfigRevision(
        service,
        number,
        new.document,
        new.kind,
        bounds.cut(new.actor),
        bounds.cut(new.reason),
        new.at_ns,
        new.operation,
        new.restored,
    )
    row = Put(keys.config_revision(service, number), model.encode(made))
    rows.append(row)
    then: list[Put | Delete] = [*rows]
    if rollout is not None:
        begun = dataclasses.replace(rollout, service=service, revision=number, base=base)
        then.append(Put(keys.config_rollout(service), model.encode(begun)))
    else:
        current = CurrentConfig(service, number, new_nonce())
    if current is not None:
        then.append(Put(keys.config_current(service), model.encode(current)))
    sizes = {**stands.rows, **{_number(put.key): len(put.value) for put in rows}}
    then += [Delete(keys.config_revision(service, old)) for old in surplus(sizes, {base, number})]
    under_way = keys.config_rollout(service)  # none may be, whatever was seen
    compares = [Compare(key, at) for key, at in stands.at.items() if key != under_way]
    compares.append(Compare(under_way, 0))
    compares += [Compare(put.key, 0) for put in rows]
    return Writes(tuple(compares), tuple(then), number, base, row)


def same_document(found: Entry, put: Put) -> bool:
    """Whether a revision's record that stands says what this write of one would, whoever wrote it."""
    if found.value == put.value:
        return True
    row, ours = _row(found), model.decode(ConfigRevision, put.value)
    return row is not None and documents.same(row.document, ours.document)


def surplus(sizes: Mapping[int, int], kept: Iterable[int]) -> list[int]:
    """The oldest revisions beyond what is kept of a service, never one of `kept`; some at a time."""
    needed = set(kept)
    count, size = len(sizes), sum(sizes.values())
    found: list[int] = []
    for number in sorted(sizes):
        if (count <= KEPT_MAX and size <= KEPT_BYTES_MAX) or len(found) == DELETED_MAX:
            break
        if number not in needed:
            found.append(number)
            count, size = count - 1, size - sizes[number]
    return found


async def after(look: Callable[[], Awaitable[T]], failed: Unavailable | None) -> T:
    """Read what became of a write. `failed`: its answer was lost; the first reads may be lost on the same
    connection. Raises Unavailable: no answer, `ambiguous` then.
    """
    for left in reversed(range(READ_TRIES)):
        try:
            return await look()
        except Unavailable as exc:
            if failed is None:
                raise
            if not left:
                raise Unavailable(f"{failed}; it could not be read: {exc}", ambiguous=True) from exc
    raise AssertionError("the last try has raised")


def new_nonce() -> str:
    return os.urandom(8).hex()


def _number(key: str) -> int:
    return int(key.rpartition("/")[2])


# --- writing ------------------------------------------------------------------------------------------------


async def write(store: Store, keys: Keys, stands: Standing, new: New) -> Written | Conflict:
    """Make `new` the service's wanted revision, once.

    Raises:
        Unavailable: no answer; with `ambiguous` the revision may stand. Refused: the record of a rollout is
        damaged. TooLarge.
    """
    return await _commit(store, keys, stands, new, writes(keys, stands, new))


async def stage(
    store: Store, keys: Keys, stands: Standing, new: New, rollout: RolloutRecord
) -> Written | Conflict:
    """Write `new` and the record of its rollout; what is wanted stays. `rollout` is told its revision and
    base, and comes back as it was written. Raises as `write` does.
    """
    made = writes(keys, stands, new, rollout)
    outcome = await _commit(store, keys, stands, new, made)
    if isinstance(outcome, Conflict):
        return outcome
    begun = dataclasses.replace(rollout, service=stands.service, revision=made.revision, base=made.base)
    return dataclasses.replace(outcome, rollout=begun)


async def _commit(store: Store, keys: Keys, stands: Standing, new: New, made: Writes) -> Written | Conflict:
    if stands.config.rollout is not None:
        return Conflict(stands.service, stands.revision, rollout=stands.config.rollout)
    if stands.at[keys.config_rollout(stands.service)]:
        raise Refused(
            f"{stands.service}: the record of a rollout does not decode; delete the key "
            f"{keys.config_rollout(stands.service)}"
        )
    if sum(len(put.value) for put in made.then if isinstance(put, Put)) > VALUES_BYTES_MAX:
        documents.encoded(new.document, f"configuration of {stands.service}")  # says which is too large
    written = Written(made.revision, made.base)
    failed: Unavailable | None = None
    for _ in range(WRITE_TRIES):
        try:
            if isinstance(await store.txn(made.compares, made.then), Committed):
                return written
        except Unavailable as exc:
            if not exc.ambiguous and failed is None:
                raise
            if not exc.ambiguous:
                break
            failed = exc
        now = await after(lambda: read(store, keys, stands.service), failed)
        row = await after(lambda: store.get(made.row.key), failed)
        if row is not None and row.value == made.row.value:
            return written
        if now.at != stands.at or now.newest >= made.revision:
            return conflict(stands, now, new.document)
        # It did not happen, and may still: the compares let it happen only once.
    why = f"has no answer: {failed}" if failed is not None else f"was overtaken {WRITE_TRIES} times"
    message = f"{stands.service}: the write of revision {made.revision} {why}"
    raise Unavailable(message, ambiguous=failed is not None) from failed


def conflict(stands: Standing, now: Standing, document: Mapping[str, Any]) -> Conflict:
    """Pure: both sides, of a change that was made on `stands` and finds `now`."""
    theirs = tuple(
        row
        for number, row in sorted(now.config.revisions.items())
        if number > stands.newest and number != stands.revision and number <= now.revision
    )
    before = stands.document or {}
    mine = documents.difference(before, document)
    others = documents.difference(before, now.document or {})
    both = documents.touched_by_both(mine, others)
    return Conflict(stands.service, stands.revision, theirs, both, now.config.rollout)
