"""Who runs what, where, in which role: everything under `hft/<site>/`, decoded and typed.

`decode_snapshot` is pure: one snapshot of the store in, one `SiteView` out; a record that does not decode is
listed in the view and is never fatal to the rest. `Follower` keeps the newest view by a watch. Both stores
are read the same way. What is made of it for people: status.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane import model
from controlplane.model import HostRecord, Registration, ServiceSpec, records
from controlplane.site import document
from controlplane.store.base import Entry, Snapshot
from controlplane.store.keys import Keys

GROUP_RECORDS: dict[str, type[Any]] = {
    "leader": records.LeaderRecord,
    "epoch": records.EpochRecord,
    "electable": records.ElectableRecord,
    "request": records.RequestRecord,
}


Named = tuple[str, tuple[str, ...]]
"""What a key is: its kind ("hosts", "leader", ...) and the names in it."""


@dataclass(frozen=True, slots=True)
class SiteView:
    """The site at one revision of the store. Mappings are in order of their keys."""

    site: str
    revision: int = 0
    specs: Mapping[str, ServiceSpec] = field(default_factory=dict)
    """By service."""
    spec_revisions: Mapping[str, int] = field(default_factory=dict)
    """Store revision of each spec: the configuration revision of its instances."""
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    """By instance."""
    hosts: Mapping[str, HostRecord] = field(default_factory=dict)
    leaders: Mapping[str, records.LeaderRecord] = field(default_factory=dict)
    """By service, as are the next five."""
    epochs: Mapping[str, records.EpochRecord] = field(default_factory=dict)
    electable: Mapping[str, records.ElectableRecord] = field(default_factory=dict)
    requests: Mapping[str, records.RequestRecord] = field(default_factory=dict)
    history: Mapping[str, tuple[records.HistoryRow, ...]] = field(default_factory=dict)
    """Oldest first."""
    audit_heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    operations: tuple[records.OperationRecord, ...] = ()
    paused: document.Paused | None = None
    incarnation: int | None = None
    controller: records.ControllerRecord | None = None
    undecodable: Mapping[str, str] = field(default_factory=dict)
    """Key -> why. What is listed here is nowhere else."""
    decoded: Mapping[str, tuple[Entry, object]] = field(default_factory=dict, repr=False, compare=False)
    """What the next view does not have to decode again."""

    @property
    def controller_url(self) -> str | None:
        return self.controller.url if self.controller else None

    def registered(self, service: str) -> list[Registration]:
        """Who serves it, in order of instance."""
        return [
            registration for registration in self.registrations.values() if registration.service == service
        ]

    def with_host(self, record: HostRecord) -> SiteView:
        """The same view with a fresher record of one host, such as the reader's own."""
        return dataclasses.replace(self, hosts=dict(sorted({**self.hosts, record.host: record}.items())))


def name(keys: Keys, key: str) -> Named | None:
    """What the key is; None for one that this version does not know."""
    match key.removeprefix(keys.root).split("/"):
        case ["services", service, instance]:
            return "services", (service, instance)
        case [("specs" | "hosts" | "ops" | "audit") as kind, subject]:
            return kind, (subject,)
        case ["groups", service, ("leader" | "epoch" | "electable" | "request") as kind]:
            return kind, (service,)
        case ["groups", service, "history", row]:
            return "history", (service, row)
        case [("pause" | "incarnation" | "controller") as kind]:
            return kind, ()
    return None


def decode_record(named: Named, value: bytes) -> object:
    """The record of a key. Raises msgspec.DecodeError or ValueError with the reason."""
    kind, names = named
    match kind:
        case "services":
            registration = model.decode(Registration, value)
            _agree("service and instance", (registration.service, registration.instance), names)
            return registration
        case "specs":
            spec = model.decode(ServiceSpec, value)
            _agree("name", (spec.name,), names)
            return spec
        case "hosts":
            host = model.decode(HostRecord, value)
            _agree("host", (host.host,), names)
            return host
        case "ops":
            operation = model.decode(records.OperationRecord, value)
            _agree("id", (operation.id,), names)
            return operation
        case "history":
            row = model.decode(records.HistoryRow, value)
            _agree("epoch", (f"{row.epoch:08d}",), names[1:])
            return row
        case "incarnation":
            return int(value)
        case "pause":
            return msgspec.json.decode(value, type=document.Paused)
        case "controller":
            return model.decode(records.ControllerRecord, value)
        case "audit":
            return msgspec.json.decode(value, type=dict[str, Any])
    return model.decode(GROUP_RECORDS[kind], value)


def _agree(what: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """A record that names another subject than its key would be shown in the wrong place."""
    if tuple(found) != tuple(wanted):
        raise ValueError(f"{what} {'/'.join(found)} under the key of {'/'.join(wanted)}")


def decode_snapshot(keys: Keys, snapshot: Snapshot, before: SiteView | None = None) -> SiteView:
    """The view of a snapshot of `keys.root`. With the view `before`, records that did not change are not
    decoded again.
    """
    known = before.decoded if before is not None else {}
    decoded: dict[str, tuple[Entry, object]] = {}
    undecodable: dict[str, str] = {}
    tables: dict[str, dict[Any, Any]] = {}
    spec_revisions: dict[str, int] = {}
    history: dict[str, list[records.HistoryRow]] = {}
    for key, entry in sorted(snapshot.entries.items()):
        named = name(keys, key)
        if named is None:
            continue  # a newer version's; not ours to judge
        old = known.get(key)
        try:
            record = old[1] if old is not None and old[0] == entry else decode_record(named, entry.value)
        except (msgspec.DecodeError, ValueError) as exc:
            undecodable[key] = str(exc)
            continue
        decoded[key] = (entry, record)
        kind, names = named
        if kind == "history":
            assert isinstance(record, records.HistoryRow)
            history.setdefault(names[0], []).append(record)
            continue
        if kind == "specs":
            spec_revisions[names[0]] = entry.revision
        tables.setdefault(kind, {})[names[-1] if names else ""] = record
    return SiteView(
        site=keys.site,
        revision=snapshot.revision,
        specs=tables.get("specs", {}),
        spec_revisions=spec_revisions,
        registrations=tables.get("services", {}),
        hosts=tables.get("hosts", {}),
        leaders=tables.get("leader", {}),
        epochs=tables.get("epoch", {}),
        electable=tables.get("electable", {}),
        requests=tables.get("request", {}),
        history={service: tuple(rows) for service, rows in history.items()},
        audit_heads=tables.get("audit", {}),
        operations=tuple(tables.get("ops", {}).values()),
        paused=tables.get("pause", {}).get(""),
        incarnation=tables.get("incarnation", {}).get(""),
        controller=tables.get("controller", {}).get(""),
        undecodable=undecodable,
        decoded=decoded,
    )
