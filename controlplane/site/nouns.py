"""The caches of the site's nouns: one watch, one decoder and one cache each.

A `Noun` takes the snapshots of its watch, decodes the records that changed and no others, says which (in the
words of `Changes`), and keeps all of them in mappings that it replaces and never alters: a view that was made
before stays as it was. `view` joins the nouns to a `SiteView`; it copies no record. A record that does not
decode is named in the view's `undecodable` with the reason and harms nothing, not even what it stands for:
the last one that decoded stays in the view until the key is deleted or holds a good one. No I/O here:
follower.py has the watches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from controlplane.model import config, records
from controlplane.model.bounds import cut
from controlplane.model.specs import Tombstone
from controlplane.site.view import Named, Registrations, SiteView, decode_record, key_of, name, part_of
from controlplane.store import Entry, Keys, Snapshot

REASON_MAX = 200
"""Characters: it may quote the record."""
Changes = dict[str, set[str]]
"""Kind of record -> the names whose records changed: of a service for `specs`, `services` (registrations),
`history` and what a group has; of a host, an operation and so on for theirs; "" where there is one. `led` is
beside `leader`: the services whose leader or epoch is another one, a mere renewal left out. `undecodable` has
the keys of records that do not decode, or do so again."""


def watched(keys: Keys) -> tuple[str, ...]:
    """The prefixes to watch, one a noun."""
    return (
        keys.specs,
        keys.services,
        keys.hosts,
        keys.groups,
        keys.breakers,
        keys.config,
        keys.operations,
        keys.audit_heads,
        keys.pause,
        keys.incarnation,
        keys.controller(),
    )


class Noun:
    def __init__(self, keys: Keys) -> None:
        self.revision = 0
        self.seen = False
        """The first list has come."""
        self.undecodable: Mapping[str, str] = {}
        """Key -> why."""
        self.tables: dict[str, dict[str, Any]] = {}
        """Kind -> name -> record, in order of names. Of `services`: service -> its registrations, in
        view.Parts; of `history`: service -> its rows, oldest first. Each is replaced when it changes."""
        self._keys = keys
        self._rows: dict[str, dict[str, Any]] = {}
        """Service -> epoch as in the key -> history row."""
        self._configs: dict[str, dict[str, Any]] = {}
        """Service -> last name of the key -> record of its configuration."""

    def __repr__(self) -> str:
        return f"<Noun of {', '.join(sorted(self.tables))}: revision {self.revision}>"

    def take(self, snapshot: Snapshot) -> Changes:
        """The next snapshot of the watch. Costs what it names as changed, and a copy of the references of its
        kind (of a part of its service, for a registration); sorts only when a name is new.
        """
        self.revision, self.seen = snapshot.revision, True
        changes: Changes = {}
        fresh = _Fresh(self.tables)
        for key in snapshot.entries if snapshot.changed is None else snapshot.changed:
            named = name(self._keys, key)
            if named is not None:  # else a newer version's; not ours to judge
                self._put(key, named, snapshot.entries.get(key), fresh, changes)
        for service in changes.get("history", ()):
            rows = self._rows.get(service, {})
            fresh.put("history", service, tuple(rows[epoch] for epoch in sorted(rows)) or None)
        for service in changes.get("config", ()):
            fresh.put("config", service, _config_of(self._configs.get(service, {})))
        fresh.finish()
        return changes

    def records(self) -> Iterator[tuple[str, object]]:
        """Key -> record of all that it holds, in no particular order."""
        for kind, table in self.tables.items():
            match kind:
                case "services":
                    for service, parts in table.items():
                        for part in parts.values():
                            for instance, record in part.items():
                                yield self._keys.registration(service, instance), record
                case "history":
                    for service, rows in self._rows.items():
                        yield from ((f"{self._keys.history(service)}{row}", rows[row]) for row in rows)
                case "config":
                    for service, found in self._configs.items():
                        yield from ((f"{self._keys.config_of(service)}{row}", found[row]) for row in found)
                case "spec_revisions":
                    pass  # of the specs themselves
                case "tombstones":
                    yield from ((self._keys.spec(service), record) for service, record in table.items())
                case _:
                    yield from ((key_of(self._keys, kind, name), record) for name, record in table.items())

    def _put(self, key: str, named: Named, entry: Entry | None, fresh: _Fresh, changes: Changes) -> None:
        kind, names = named
        first, last = (names[0], names[-1]) if names else ("", "")
        undecodable = self.undecodable
        record = self._decode(key, named, entry)
        if undecodable is not self.undecodable:
            changes.setdefault("undecodable", set()).add(key)
        if entry is not None and record is None:
            return
        changes.setdefault(kind, set()).add(first)
        match kind:
            case "services":
                fresh.register(first, last, record)
                return
            case "history":
                _set(self._rows.setdefault(first, {}), last, record)
                return
            case "config":
                _set(self._configs.setdefault(first, {}), last, record)
                return
            case "leader" if _leads(self.tables.get(kind, {}).get(first)) != _leads(record):
                changes.setdefault("led", set()).add(first)
            case "specs":
                tombstone, record = (record, None) if isinstance(record, Tombstone) else (None, record)
                fresh.put("tombstones", first, tombstone)
                fresh.put("spec_revisions", first, entry.revision if entry and record is not None else None)
        fresh.put(kind, first, record)

    def _decode(self, key: str, named: Named, entry: Entry | None) -> object | None:
        if key in self.undecodable:
            self.undecodable = {other: why for other, why in self.undecodable.items() if other != key}
        if entry is None:
            return None
        try:
            return decode_record(named, entry.value)
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:
            self.undecodable = {**self.undecodable, key: cut(str(exc), REASON_MAX)}
            return None


class _Fresh:
    """The tables that one snapshot changes: each is copied before its first change."""

    def __init__(self, tables: dict[str, dict[str, Any]]) -> None:
        self._tables = tables
        self._copied: set[str] = set()
        self._parts: dict[str, dict[int, dict[str, Any]]] = {}
        self._copied_parts: dict[str, set[int]] = {}
        self._unsorted: set[str] = set()

    def table(self, kind: str) -> dict[str, Any]:
        if kind not in self._copied:
            self._copied.add(kind)
            self._tables[kind] = dict(self._tables.get(kind, {}))
        return self._tables[kind]

    def put(self, kind: str, name: str, record: object | None) -> None:
        table = self.table(kind)
        if record is not None and name not in table:
            self._unsorted.add(kind)
        _set(table, name, record)

    def register(self, service: str, instance: str, record: object | None) -> None:
        number = part_of(instance)
        if service not in self._parts:
            parts = dict(self.table("services").get(service, {}))
            self.put("services", service, parts)
            self._parts[service] = parts
            self._copied_parts[service] = set()
        parts = self._parts[service]
        if number not in self._copied_parts[service]:
            self._copied_parts[service].add(number)
            parts[number] = dict(parts.get(number, {}))
        _set(parts[number], instance, record)
        if not parts[number]:
            del parts[number]
            self._copied_parts[service].discard(number)

    def finish(self) -> None:
        for service, parts in self._parts.items():
            if not parts:
                del self._tables["services"][service]
        for kind in self._unsorted:
            self._tables[kind] = dict(sorted(self._tables[kind].items()))


def _set(table: dict[str, Any], name: str, record: object | None) -> None:
    if record is None:
        table.pop(name, None)
    else:
        table[name] = record


def _config_of(rows: Mapping[str, Any]) -> config.ServiceConfig | None:
    """None: there is nothing of it."""
    if not rows:
        return None
    revisions = [record for record in rows.values() if isinstance(record, config.ConfigRevision)]
    revisions.sort(key=lambda record: record.revision)
    return config.ServiceConfig(
        rows.get("current"), rows.get("rollout"), {record.revision: record for record in revisions}
    )


def _leads(leader: object | None) -> tuple[object, ...]:
    if not isinstance(leader, records.LeaderRecord):
        return ()
    return leader.holder, leader.incarnation, leader.epoch


def view(keys: Keys, nouns: Iterable[Noun]) -> SiteView:
    """What the nouns hold now, as one view; shares their tables."""
    tables: dict[str, dict[str, Any]] = {}
    undecodable: Mapping[str, str] = {}
    revision = 0
    for noun in nouns:
        tables.update(noun.tables)
        revision = max(revision, noun.revision)
        if noun.undecodable:
            undecodable = {**undecodable, **noun.undecodable}
    return SiteView(
        site=keys.site,
        revision=revision,
        specs=tables.get("specs", {}),
        spec_revisions=tables.get("spec_revisions", {}),
        tombstones=tables.get("tombstones", {}),
        registrations=Registrations(tables.get("services")),
        hosts=tables.get("hosts", {}),
        leaders=tables.get("leader", {}),
        epochs=tables.get("epoch", {}),
        electable=tables.get("electable", {}),
        requests=tables.get("request", {}),
        history=tables.get("history", {}),
        audit_heads=tables.get("audit", {}),
        overrides=tables.get("overrides", {}),
        configs=tables.get("config", {}),
        plain=tables.get("plain", {}),
        operations=tuple(tables.get("ops", {}).values()),
        paused=tables.get("pause", {}).get(""),
        incarnation=tables.get("incarnation", {}).get(""),
        controller=tables.get("controller", {}).get(""),
        undecodable=undecodable,
        spec_faults={
            key.removeprefix(keys.specs): f"its spec does not decode: {why}"
            for key, why in undecodable.items()
            if key.startswith(keys.specs)
        },
    )


def view_of(keys: Keys, snapshot: Snapshot) -> SiteView:
    """The view of one list of everything under `keys.root`."""
    noun = Noun(keys)
    noun.take(snapshot)
    return view(keys, [noun])
