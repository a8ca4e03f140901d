"""Who runs what, where, in which role: what is under `hft/<site>/`, decoded and typed, and how each record
is decoded.

Pure. A `SiteView` never changes: the next one shares with it what has not changed, so that making one costs
what has changed and a reader may keep its own over an await. Each noun in it is a state that the store had;
two nouns may be from different moments (they come over watches of their own, follower.py), and nothing here
decides about leadership: keepers read the store by themselves. The caches that make views are nouns.py; what
is made of a view for people is status.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import Any

from controlplane import model
from controlplane.model import ServiceSpec, config, records
from controlplane.model.observed import Alarm, HostRecord
from controlplane.model.records import Registration
from controlplane.model.specs import Tombstone
from controlplane.site import document
from controlplane.store import Keys

GROUP_RECORDS: dict[str, type[Any]] = {
    "leader": records.LeaderRecord,
    "epoch": records.EpochRecord,
    "electable": records.ElectableRecord,
    "request": records.RequestRecord,
}


Named = tuple[str, tuple[str, ...]]
"""What a key is: its kind ("hosts", "leader", ...) and the names in it."""


PARTS = 16
"""In how many parts a service's registrations are kept: a changed one costs a copy of its part, some dozen
references for a service of 500."""

Parts = Mapping[int, Mapping[str, Registration]]
"""`part_of(instance)` -> instance -> registration."""


def part_of(instance: str) -> int:
    return hash(instance) % PARTS


class Registrations(Mapping[str, Registration]):
    """By instance, in no particular order; kept by service and in parts, which views share."""

    def __init__(self, by_service: Mapping[str, Parts] | None = None) -> None:
        self._by_service: Mapping[str, Parts] = by_service or {}

    def __repr__(self) -> str:
        return f"Registrations({list(self)})"

    def of(self, service: str) -> list[Registration]:
        """In order of instance."""
        parts = self._by_service.get(service, {}).values()
        return [found for _, found in sorted(each for part in parts for each in part.items())]

    def services(self) -> list[str]:
        """Those that somebody is registered for."""
        return sorted(self._by_service)

    def values(self) -> ValuesView[Registration]:
        return _Values(self)  # Mapping's own would look each one up by name

    def __getitem__(self, instance: str) -> Registration:
        number = part_of(instance)
        for parts in self._by_service.values():
            found = parts.get(number, {}).get(instance)
            if found is not None:
                return found
        raise KeyError(instance)

    def __iter__(self) -> Iterator[str]:
        for parts in self._by_service.values():
            for part in parts.values():
                yield from part

    def __len__(self) -> int:
        return sum(len(part) for parts in self._by_service.values() for part in parts.values())


class _Values(ValuesView[Registration]):
    _mapping: Registrations

    def __iter__(self) -> Iterator[Registration]:
        for parts in self._mapping._by_service.values():
            for part in parts.values():
                yield from part.values()


@dataclass(frozen=True, slots=True)
class SiteView:
    """The site as it was last seen; see above for what holds between its parts."""

    site: str
    revision: int = 0
    """The highest among the nouns'."""
    specs: Mapping[str, ServiceSpec] = field(default_factory=dict)
    """By service."""
    spec_revisions: Mapping[str, int] = field(default_factory=dict)
    """Store revision of each spec."""
    tombstones: Mapping[str, Tombstone] = field(default_factory=dict)
    """Of removed services, by service; none of them is in `specs`."""
    registrations: Registrations = field(default_factory=Registrations)
    hosts: Mapping[str, HostRecord] = field(default_factory=dict)
    leaders: Mapping[str, records.LeaderRecord] = field(default_factory=dict)
    """By service, as are the next five."""
    epochs: Mapping[str, records.EpochRecord] = field(default_factory=dict)
    electable: Mapping[str, records.ElectableRecord] = field(default_factory=dict)
    requests: Mapping[str, records.RequestRecord] = field(default_factory=dict)
    history: Mapping[str, tuple[records.HistoryRow, ...]] = field(default_factory=dict)
    """Oldest first."""
    audit_heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Mapping[str, records.BreakerOverride] = field(default_factory=dict)
    """By breaker."""
    configs: Mapping[str, config.ServiceConfig] = field(default_factory=dict)
    """By service; one that has none runs what services.yml said of it last."""
    plain: Mapping[str, config.PlainKey] = field(default_factory=dict)
    """Plain keys, by key."""
    operations: tuple[records.OperationRecord, ...] = ()
    paused: document.Paused | None = None
    incarnation: int | None = None
    controller: records.ControllerRecord | None = None
    undecodable: Mapping[str, str] = field(default_factory=dict)
    """Key -> why. What the view has of these is what the key held before that, if anything."""

    spec_faults: Mapping[str, str] = field(default_factory=dict)
    """Service -> why its spec in the store cannot be used. In `specs` is then the last good one, if known."""

    @property
    def controller_url(self) -> str | None:
        return self.controller.url if self.controller else None

    @property
    def controller_alarms(self) -> tuple[Alarm, ...]:
        return self.controller.alarms if self.controller else ()

    def registered(self, service: str) -> list[Registration]:
        """Who serves it, in order of instance."""
        return self.registrations.of(service)

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
        case ["config", key]:
            return "plain", (key,)
        case ["config", service, row]:
            return "config", (service, row)
        case ["breakers", breaker, "override"]:
            return "overrides", (breaker,)
        case ["groups", service, "history", row]:
            return "history", (service, row)
        case [("pause" | "incarnation" | "controller") as kind]:
            return kind, ()
    return None


def key_of(keys: Keys, kind: str, subject: str) -> str:
    """The other way round, for the kinds with at most one name."""
    if kind in GROUP_RECORDS:
        return f"{keys.group(subject)}{kind}"
    if kind == "overrides":
        return keys.breaker_override(subject)
    if kind == "plain":
        return keys.plain_key(subject)
    return f"{keys.root}{kind}/{subject}" if subject else f"{keys.root}{kind}"


def decode_record(named: Named, value: bytes) -> object:
    """The record of a key. Raises msgspec.DecodeError or ValueError with the reason."""
    kind, names = named
    match kind:
        case "services":
            registration = records.decode_registration(value, *names)
            _agree("service and instance", (registration.service, registration.instance), names)
            return registration
        case "specs":
            spec = records.decode_spec(value)
            if isinstance(spec, ServiceSpec):
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
        case "overrides":
            override = model.decode(records.BreakerOverride, value)
            _agree("name", (override.name,), names)
            return override
        case "history":
            row = model.decode(records.HistoryRow, value)
            _agree("epoch", (f"{row.epoch:08d}",), names[1:])
            return row
        case "config":
            return _config_record(value, *names)
        case "plain":
            return config.plain_key(value, names[0])
        case "incarnation":
            return records.decode_incarnation(value)
        case "pause":
            return model.decode(document.Paused, value)
        case "controller":
            return model.decode(records.ControllerRecord, value)
        case "audit":
            return model.decode(dict[str, Any], value)
    return model.decode(GROUP_RECORDS[kind], value)


def _config_record(
    value: bytes, service: str, row: str
) -> config.CurrentConfig | config.RolloutRecord | config.ConfigRevision:
    record: config.CurrentConfig | config.RolloutRecord | config.ConfigRevision
    match row:
        case "current":
            record = model.decode(config.CurrentConfig, value)
        case "rollout":
            record = model.decode(config.RolloutRecord, value)
        case _:
            record = model.decode(config.ConfigRevision, value)
            _agree("revision", (f"{record.revision:08d}",), (row,))
            config.check_sendable(record.revision)
            config.check_sendable(record.document)
    _agree("service", (record.service,), (service,))
    return record


def _agree(what: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """A record that names another subject than its key would be shown in the wrong place."""
    if tuple(found) != tuple(wanted):
        raise ValueError(f"{what} {'/'.join(found)} under the key of {'/'.join(wanted)}")
