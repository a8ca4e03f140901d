"""What changes between two sets of specs, said so that an operator can say yes to it: one line a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import msgspec

from controlplane.model import ServiceSpec
from controlplane.specs.schema import shown

DERIVED = ("uses", "fences", "restart")
"""They follow from the settings and from the daemon's schema: nobody says yes to them."""


@dataclass(frozen=True, slots=True)
class Change:
    service: str
    field: str
    """Empty: the whole service."""
    old: object
    new: object

    def __str__(self) -> str:
        if not self.field:
            return f"+ {self.service}" if self.old is None else f"- {self.service}"
        return f"~ {self.service}.{self.field}: {shown(self.old)} -> {shown(self.new)}"


def diff(old: Sequence[ServiceSpec], new: Sequence[ServiceSpec]) -> list[Change]:
    """Services gone, new and changed, field by field (each setting a field of its own); empty when nothing
    would be done.
    """
    before = {spec.name: spec for spec in old}
    after = {spec.name: spec for spec in new}
    changes = [Change(name, "", name, None) for name in before if name not in after]
    for name, spec in after.items():
        if name not in before:
            changes.append(Change(name, "", None, name))
        else:
            changes.extend(_changed(before[name], spec))
    return changes


def same_but_derived(old: ServiceSpec, new: ServiceSpec) -> bool:
    derived = {name: getattr(new, name) for name in DERIVED}
    return old != new and replace(old, **derived) == new


def _changed(old: ServiceSpec, new: ServiceSpec) -> list[Change]:
    changes = []
    for each in fields(ServiceSpec):
        if each.name in ("name", "settings", "checks", *DERIVED):
            continue
        was, now = getattr(old, each.name), getattr(new, each.name)
        if was != now:
            changes.append(Change(new.name, each.name, was, now))
    keys = dict.fromkeys([*old.settings, *new.settings])
    settings = [
        Change(new.name, f"settings.{key}", old.settings.get(key), new.settings.get(key)) for key in keys
    ]
    checks = _checks_changed(old, new)
    return changes + [change for change in (*settings, *checks) if change.old != change.new]


def _checks_changed(old: ServiceSpec, new: ServiceSpec) -> list[Change]:
    """Each check a field of its own, by its name."""
    before = {check.name: check for check in old.checks}
    after = {check.name: check for check in new.checks}
    return [
        Change(new.name, f"checks.{name}", *_apart(before.get(name), after.get(name)))
        for name in dict.fromkeys([*before, *after])
    ]


def _apart(old: object, new: object) -> tuple[object, object]:
    """Of two checks just the fields that differ, as a line has 60 characters for each."""
    was, now = msgspec.to_builtins(old), msgspec.to_builtins(new)
    if was is None or now is None:
        return was, now
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return {key: was.get(key) for key in keys}, {key: now.get(key) for key in keys}
