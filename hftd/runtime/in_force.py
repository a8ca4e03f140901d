"""The settings that a daemon runs by: one frozen object that is replaced whole, between two messages, when
its agent says that others are wanted (Reload).

Taken whole or not at all. What is wanted is converted by the schema of the daemon's kind first; a bad value,
or a field that only a restart changes, refuses the whole. Then those who follow are called in the order in
which they registered. One that raises, whatever it raises, refuses the whole too: it and those before it are
called again with the settings that stand. What is refused changes nothing, and Status says why (`refused`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import reduce
from typing import Any

from controlplane.errors import HftctlError, InvalidInput
from controlplane.model.bounds import cut

RUNTIME_FOLLOWS = frozenset({"log_level"})
"""Settings that no daemon need follow, because the runtime does."""

Read = Callable[[Mapping[str, Any]], Any]
"""The settings as the daemon's kind has them. Raises InvalidInput naming the field."""


def restarts(settings: Any) -> frozenset[str]:
    """Names of the fields that a running daemon does not take: those marked so, and those that name a
    service.
    """
    marked = (each for each in fields(settings) if each.metadata.get("restart") or "service" in each.metadata)
    return frozenset(each.name for each in marked)


def changes(old: Any, new: Any) -> list[str]:
    """Names of the fields that differ, in their order; of settings that are no dataclass: all of them."""
    if not is_dataclass(old) or type(old) is not type(new):
        return [] if old == new else ["settings"]
    return [each.name for each in fields(old) if getattr(old, each.name) != getattr(new, each.name)]


class InForce:
    def __init__(self, revision: int) -> None:
        self.revision = revision
        """Of the configuration that `settings` come from."""
        self.settings: Any = None
        self.refused = ""
        """Why the settings that were wanted last are not in force; empty: they are."""
        self._read: Read | None = None
        self._followers: list[Callable[[Any, Any], None]] = []
        self._follows_all = False
        self._followed = set(RUNTIME_FOLLOWS)

    def __repr__(self) -> str:
        return f"<InForce {self.revision}{f', refused: {self.refused}' if self.refused else ''}>"

    def begin(self, settings: Any, read: Read) -> None:
        """With these it starts, and `read` converts those that are wanted later."""
        self.settings, self._read = settings, read

    def follow(self, run: Callable[[Any, Any], None]) -> None:
        """Call with the old settings and the new ones at each change."""
        self._followers.append(run)

    def follow_all(self, run: Callable[[Any], None]) -> None:
        """Call with the new settings; it sees to every field that can change."""
        self._follows_all = True
        self.follow(lambda _, new: run(new))

    def follow_one(self, path: str, run: Callable[[Any, Any], None]) -> None:
        """Call with the old and the new value of one field (`breaker.failures`) when it changes. Raises
        InvalidInput: there is no such field.
        """
        if self.settings is not None:
            value_at(self.settings, path)
        self._followed.add(path.split(".")[0])

        def changed(old: Any, new: Any) -> None:
            before, after = value_at(old, path), value_at(new, path)
            if before != after:
                run(before, after)

        self.follow(changed)

    def want(self, revision: int, given: Mapping[str, Any]) -> list[str]:
        """These settings are wanted; returns the names of the fields that changed. When they are refused,
        `refused` says why, and nothing has changed.
        """
        try:
            wanted = self._checked(given)
        except Exception as exc:  # the schema may be somebody else's: whatever it raises, what runs goes on
            self._refuse(revision, _said(exc))
            return []
        changed = changes(self.settings, wanted)
        if revision != self.revision or changed:
            why = self._switch(revision, wanted)
            if why:
                self._refuse(revision, why)
                return []
        self.refused = ""
        return changed

    def _checked(self, given: Mapping[str, Any]) -> Any:
        """Raises InvalidInput: a running daemon does not take them."""
        if self._read is None:
            raise InvalidInput("this process does not know the schema of its settings; restart the instance")
        wanted = self._read(given)
        changed = changes(self.settings, wanted)
        fixed = sorted(restarts(wanted).intersection(changed)) if is_dataclass(wanted) else []
        if fixed:
            raise InvalidInput(f"{', '.join(fixed)}: changes only with a restart of the instance")
        ignored = [] if self._follows_all else [name for name in changed if name not in self._followed]
        if ignored:
            raise InvalidInput(
                f"{', '.join(ignored)}: this daemon does not follow it while it runs (Loop.on_settings); "
                "restart the instance"
            )
        return wanted

    def _switch(self, revision: int, wanted: Any) -> str:
        """Returns why it was taken back, or ""."""
        old = (self.revision, self.settings)
        self.revision, self.settings = revision, wanted
        for called, run in enumerate(self._followers, start=1):
            try:
                run(old[1], wanted)
            except Exception as exc:
                self.revision, self.settings = old
                for each in self._followers[:called]:
                    each(wanted, old[1])
                return _said(exc)
        return ""

    def _refuse(self, revision: int, why: str) -> None:
        self.refused = cut(f"revision {revision}: {why}")


def _said(exc: Exception) -> str:
    return str(exc) if isinstance(exc, HftctlError) else f"{type(exc).__name__}: {exc}"


def value_at(settings: Any, path: str) -> Any:
    """Raises InvalidInput: there is no such field."""
    try:
        return reduce(getattr, path.split("."), settings)
    except AttributeError as exc:
        raise InvalidInput(f"{path}: {type(settings).__name__} has no such setting") from exc
