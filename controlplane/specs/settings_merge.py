"""Three sides of a service's settings: the services file as it was applied last, the document that the store
wants, and the file now. The store wins: what was changed in one place only is taken from there, and what was
changed in both is a conflict until an operator says whose is right.

Pure. planning.py asks it for each service whose spec differs; apply.py writes what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.config import documents, revisions
from controlplane.config.documents import shown
from controlplane.config.revisions import Standing
from controlplane.errors import InvalidInput, Refused
from controlplane.model import ServiceSpec
from controlplane.model.config import ConfigRevision, RolloutRecord

FILE, STORE = "file", "store"
SETTLE = (FILE, STORE)
"""What `--settings` may be: whose side a conflict is settled for."""


@dataclass(frozen=True, slots=True)
class SettingsConflict:
    """A setting that was changed in the file and in the store, to different values."""

    service: str
    path: str
    base: Any
    """In the file when it was applied last."""
    ours: Any
    """In the store."""
    theirs: Any
    """In the file now."""
    row: ConfigRevision | None = None
    """The store's revision."""

    def __str__(self) -> str:
        has = f"the store has {shown(self.ours)}"
        by = f", {revisions.said(self.row)}" if self.row is not None else ""
        return (
            f"! {self.service}.settings.{self.path}: changed on both sides: the file had {shown(self.base)} "
            f"when it was applied last and has {shown(self.theirs)} now, {has}{by}"
        )


@dataclass(frozen=True, slots=True)
class SettingsStep:
    """What an apply does to a service's configuration beside its spec."""

    stands: Standing
    document: Mapping[str, Any] | None
    """To be written as a new revision; None: the one that is wanted stays."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Of one service."""

    before: Mapping[str, Any]
    """Its document now, for the lines of the plan."""
    after: Mapping[str, Any]
    step: SettingsStep | None = None
    """None: it has no records, and needs none."""
    conflicts: tuple[SettingsConflict, ...] = ()
    notes: tuple[str, ...] = ()
    """Lines about what does not change although the file did; none beside conflicts."""
    rollout: RolloutRecord | None = None
    """Under way, so that nothing can be written."""


def settle(
    stands: Standing,
    base: Mapping[str, Any] | None,
    wanted: ServiceSpec,
    side: str,
    check: Callable[[Mapping[str, Any]], object],
) -> Settled:
    """`stands`: the service's configuration; `base`: the file's settings as they were applied last, None when
    they were none of this daemon's (then the file says all of it, and nothing is merged). `side`: of
    conflicts; empty: none. `check` raises InvalidInput for a merged document that the daemon does not allow.

    Raises:
        Refused: it does not, or the store's own document is damaged and no side is named.
    """
    current = stands.config.current
    ours, theirs = stands.document, wanted.settings
    if base is not None and ours is None and (stands.damaged or current is not None):
        if documents.same(base, theirs):
            return Settled(theirs, theirs)
        if side != FILE:
            raise Refused(
                f"{stands.service}: the document of revision {stands.revision} is not in the store, or "
                "damaged, so that the file cannot be held against it; --settings file puts the file's there"
            )
    if base is None or ours is None:
        return _whole(stands, wanted)
    if documents.same(base, theirs):
        return Settled(ours, ours)
    merged = documents.merge(base, ours, theirs)
    row = stands.config.revisions.get(current.revision) if current is not None else None
    conflicts = tuple(
        SettingsConflict(stands.service, each.path, each.base, each.ours, each.theirs, row)
        for each in merged.conflicts
    )
    document: Mapping[str, Any] = merged.document
    if side == FILE:
        document = documents.merge(base, theirs, ours).document
    if not documents.same(document, theirs) and (side or not conflicts):
        try:
            check(document)
        except InvalidInput as exc:
            raise Refused(f"the file's settings and the store's do not fit together: {exc}") from exc
    changed = not documents.same(ours, document)
    blocked = conflicts and not side
    step = SettingsStep(stands, document if changed else None)
    return Settled(
        ours,
        document,
        step,
        () if side else conflicts,
        tuple(_notes(stands.service, documents.difference(base, theirs), document)) if not blocked else (),
        stands.config.rollout if changed else None,
    )


def _whole(stands: Standing, wanted: ServiceSpec) -> Settled:
    """The file's document, whatever stood before."""
    if not stands.rows and stands.config.current is None:
        return Settled(stands.document or {}, wanted.settings)
    before = stands.document or {}
    same = stands.config.current is not None and documents.same(before, wanted.settings)
    step = SettingsStep(stands, None if same else wanted.settings)
    return Settled(before, wanted.settings, step, rollout=None if same else stands.config.rollout)


def _notes(service: str, changes: Sequence[documents.Change], document: Mapping[str, Any]) -> Iterator[str]:
    for change in changes:
        try:
            stays = documents.get(document, change.path)
        except InvalidInput:
            stays = None
        if not documents.same(stays, change.new):
            line = f"= {service}.settings.{change.path}: {shown(stays)} stays, as in the store"
            yield f"{line} (the file has {shown(change.new)})"
