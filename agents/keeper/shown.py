"""What the store shows a keeper: the newest snapshot of each of its watches, one a noun, and what may be
believed of them after a take (R11).

A keeper decides on a group's records as they are here, each noun at a moment of its own: a group's records
are under one watch and fit together, pause and incarnation come over two others and may be older or newer.
That is safe, because every transaction compares all that it was decided on (leadership/transactions.py): what
has been overtaken is lost there, and read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.leadership import group_records
from controlplane.leadership.group_view import Group
from controlplane.store import Entry, Keys, Snapshot, Store


@dataclass(slots=True)
class Shown:
    """None: not seen yet. Their entries are live (base.Snapshot), which is why nothing of them is kept."""

    groups: Snapshot | None = None
    registrations: Snapshot | None = None
    specs: Snapshot | None = None
    hosts: Snapshot | None = None
    pause: Snapshot | None = None
    incarnation: Snapshot | None = None

    @property
    def complete(self) -> bool:
        """All that a decision rests on has been seen: before that, a group would look unpaused or without an
        incarnation.
        """
        return not any(
            snapshot is None
            for snapshot in (self.groups, self.registrations, self.specs, self.pause, self.incarnation)
        )

    def group(
        self, keys: Keys, service: str, before: Group | None, *, held: bool, one_revision: bool
    ) -> Group:
        """The group as it is shown; its revision is the one that a transaction's own answer is measured
        against: that of the watch of groups, or of the group's newest record where the store has not
        `one_revision`. `held`: the lease of one's own lead stands. Raises InvalidInput.
        """
        assert self.groups is not None and self.pause is not None and self.incarnation is not None
        site = {
            key: entry
            for snapshot, key in ((self.pause, keys.pause), (self.incarnation, keys.incarnation))
            if (entry := snapshot.entries.get(key)) is not None
        }
        return group_records.group_of(
            self.groups, site, keys, service, before, held=held, one_revision=one_revision
        )


def prefixes(keys: Keys) -> Mapping[str, str]:
    """Field of `Shown` -> what to watch for it."""
    return {
        "groups": keys.groups,
        "registrations": keys.services,
        "specs": keys.specs,
        "hosts": keys.hosts,
        "pause": keys.pause,
        "incarnation": keys.incarnation,
    }


def services_in(prefix: str, changed: Iterable[str]) -> set[str]:
    """Services whose keys, below `groups/` or `services/`, are among those that changed."""
    return {key[len(prefix) :].partition("/")[0] for key in changed}


@dataclass(frozen=True, slots=True)
class Read:
    """A fenced group and its registrations, read from the store itself after a take."""

    group: Snapshot
    registrations: Snapshot
    asked: int
    """Which question this answers, in order of asking."""


@dataclass(slots=True)
class AfterTake:
    """Where the fence file of one lead may come from (R11).

    What the watches show counts for a fenced group only when BOTH that it is joined from, groups and
    registrations, have reached the revision of the take; one of them alone would name a new execd without its
    endpoints, or the endpoints of the one before. Until then the group is read from the store once. Of a
    watch that is behind that read, the read holds: nothing of the watch is newer. Where revisions of two
    watches cannot be compared (`Store.one_revision`), only what was read counts.
    """

    revision: int
    """Of the take."""
    _read: dict[str, Read] = field(default_factory=dict)
    """By fenced group."""
    _asked: int = 0

    def missing(self, shown: Shown, services: Sequence[str], one_revision: bool) -> list[str]:
        """The fenced groups that have to be read."""
        if not one_revision:
            return list(services)
        if reached(shown, self.revision):
            return []
        return [service for service in services if service not in self._read]

    async def fetch(self, store: Store, keys: Keys, services: Sequence[str]) -> None:
        """Read these groups; of two calls at a time the later one stands. Raises Unavailable."""
        self._asked += 1
        asked = self._asked

        async def fetch(service: str) -> None:
            group, registrations = await asyncio.gather(
                store.range(keys.group(service)), store.range(keys.registration(service, ""))
            )
            held = self._read.get(service)
            if held is None or held.asked < asked:
                self._read[service] = Read(group, registrations, asked)

        await asyncio.gather(*(fetch(service) for service in services))

    def entries(
        self, shown: Shown, service: str, one_revision: bool
    ) -> tuple[Mapping[str, Entry], Mapping[str, Entry]]:
        """Of the group and of its registrations, each from where it is newest."""
        groups, registrations = shown.groups, shown.registrations
        assert groups is not None and registrations is not None
        read = self._read.get(service)
        if read is None:
            return groups.entries, registrations.entries
        if not one_revision:
            return read.group.entries, read.registrations.entries
        return (
            (groups if groups.revision >= read.group.revision else read.group).entries,
            (
                registrations if registrations.revision >= read.registrations.revision else read.registrations
            ).entries,
        )


def reached(shown: Shown, revision: int) -> bool:
    """Every watch that a fence file is joined from shows what the store held at this revision."""
    return all(
        snapshot is not None and snapshot.revision >= revision
        for snapshot in (shown.groups, shown.registrations)
    )
