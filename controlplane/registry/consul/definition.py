"""How a registration is said to Consul, and how one is read out of its answers. Pure.

ID = instance, Name = service; address, port, tags and weight are Consul's own; what it has no field for is
Meta, under names that begin with `hft-`. An operator's own metadata keeps its names. Our services carry one
more tag, `site-<site>`: a list of the catalogue names services and tags and no Meta.

What stands in the catalogue was written by anybody with a token: each part is read within the bounds of a
`Registration`, and what is outside of them makes the row none of ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from controlplane.errors import InvalidSettings
from controlplane.model.bounds import cut
from controlplane.model.records import Registration

SITE, HOST, PROCESS = "hft-site", "hft-host", "hft-process"
ENDPOINT = "hft-endpoint-"
"""Followed by a number: a name of a socket may hold what a Meta key may not. Value: NAME=ENDPOINT."""
VERSION, ZONE, TIMESTAMP, CHECK = "hft-version", "hft-zone", "hft-timestamp-ns", "hft-check"
OURS = "hft-"
SERVICE_MAINTENANCE, NODE_MAINTENANCE = "_service_maintenance:", "_node_maintenance"
MARK = "hftctl: "
"""In front of a reason that was written here: what an operator said by `consul maint` has none, and stays."""
NO_REASON = "no reason given"
RANK = {"passing": 0, "warning": 1, "critical": 2}
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]", "": "127.0.0.1"}
"""Listening address -> where the agent of the same host asks."""


@dataclass(frozen=True, slots=True)
class CheckTimes:
    """When Consul asks, and what it makes of the answers."""

    interval_s: float = 10.0
    timeout_s: float = 5.0
    failures_before_critical: int = 3
    """In a row: so that an agent's restart takes nobody out."""
    deregister_after_s: float = 90.0
    """Critical for so long; Consul looks each 30 s, and takes no less than a minute."""

    def __post_init__(self) -> None:
        if not 0.05 <= self.interval_s <= 3600 or not 0.05 <= self.timeout_s <= 3600:
            raise InvalidSettings(
                f"registry: check interval {self.interval_s} s, timeout {self.timeout_s} s; wanted 0.05 to "
                "3600 s"
            )
        if not 1 <= self.failures_before_critical <= 100:
            raise InvalidSettings(
                f"registry: {self.failures_before_critical} failures before critical; wanted 1 to 100"
            )


def site_tag(site: str) -> str:
    return f"site-{site}"


def check_url(registration: Registration) -> str:
    """What Consul probes: the registration's own, else the health route of who answers at its address."""
    if registration.check:
        return registration.check
    address = WILDCARDS.get(registration.address, registration.address)
    if ":" in address and not address.startswith("["):
        address = f"[{address}]"
    return f"http://{address}:{registration.port}/v1/instances/{quote(registration.instance)}/health"


def check_id(instance: str) -> str:
    return f"service:{instance}"


def check(registration: Registration, times: CheckTimes, status: str) -> dict[str, Any]:
    """`status`: what it begins with, until Consul's own first probe."""
    url = check_url(registration)
    probe = {"TCP": url.removeprefix("tcp://")} if url.startswith("tcp://") else {"HTTP": url}
    return {
        "CheckID": check_id(registration.instance),
        "Name": f"health of {registration.instance}",
        **probe,
        "Interval": f"{times.interval_s:g}s",
        "Timeout": f"{times.timeout_s:g}s",
        "DeregisterCriticalServiceAfter": f"{times.deregister_after_s:g}s",
        "FailuresBeforeCritical": times.failures_before_critical,
        "Status": status,
    }


def service(registration: Registration, site: str) -> dict[str, Any]:
    """Without its check."""
    process = registration.process
    meta = {
        SITE: site,
        HOST: registration.host,
        TIMESTAMP: str(registration.timestamp_ns),
        VERSION: registration.version,
        ZONE: registration.zone,
        CHECK: registration.check,
        PROCESS: f"{process.boot_id}/{process.pid}/{process.start_time}",
        **dict(registration.meta),
    }
    for number, (name, endpoint) in enumerate(sorted(registration.endpoints.items())):
        meta[f"{ENDPOINT}{number}"] = f"{name}={endpoint}"
    return {
        "ID": registration.instance,
        "Name": registration.service,
        "Address": registration.address,
        "Port": registration.port,
        "Tags": [*registration.tags, site_tag(site)],
        "Meta": {name: value for name, value in meta.items() if value},
        "Weights": {"Passing": registration.weight, "Warning": 1},
        "EnableTagOverride": False,
    }


# --- reading ------------------------------------------------------------------------------------------------


class Weights(msgspec.Struct, rename="pascal"):
    passing: int = 1


class Service(msgspec.Struct, rename="pascal"):
    """As `agent/services` and `health/service` show one."""

    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: Weights = msgspec.field(default_factory=Weights)
    modify_index: int = 0


class Check(msgspec.Struct, rename="pascal"):
    check_id: str = msgspec.field(default="", name="CheckID")
    status: str = ""
    notes: str = ""
    service_id: str = msgspec.field(default="", name="ServiceID")
    type: str = ""


class Node(msgspec.Struct, rename="pascal"):
    node: str = ""
    address: str = ""


class Row(msgspec.Struct, rename="pascal"):
    """One instance, as `health/service/NAME` shows it."""

    service: Service
    node: Node = msgspec.field(default_factory=Node)
    checks: list[Check] = msgspec.field(default_factory=list)


rows = msgspec.json.Decoder(list[Row])
services = msgspec.json.Decoder(dict[str, Service])
checks = msgspec.json.Decoder(dict[str, Check])
names = msgspec.json.Decoder(dict[str, list[str]])


@dataclass(frozen=True, slots=True)
class Standing:
    """One instance as the catalogue has it."""

    registration: Registration
    """With the state of its own checks, and its maintenance."""
    node_health: str
    """Of its node, which is critical too when only the node's Consul agent is gone."""
    revision: int

    def alone(self) -> Registration:
        """Where nothing else vouches for the instance, the node counts as well."""
        worst = max(self.registration.health, self.node_health, key=RANK.__getitem__)
        return dataclasses.replace(self.registration, health=worst)


def standing(row: Row, site: str) -> Standing | None:
    """None: it is not of this site, or no registration can hold what it says."""
    found = registration(row.service, site, row.node)
    if found is None:
        return None
    own = [each for each in row.checks if each.service_id and not _is_maintenance(each)]
    of_node = [each for each in row.checks if not each.service_id and not _is_maintenance(each)]
    health, maintenance = worst(own), maintenance_of(row.checks)
    found = dataclasses.replace(found, health=health, maintenance=maintenance)
    return Standing(found, worst(of_node), row.service.modify_index)


def registration(found: Service, site: str, node: Node | None = None) -> Registration | None:
    """Of a service as an agent or the catalogue shows it; its checks are not in it. None as `standing`."""
    meta = found.meta or {}
    tag = site_tag(site)
    if tag not in (found.tags or ()) or meta.get(SITE, site) != site:
        return None
    endpoints = dict(
        value.split("=", 1) for name, value in meta.items() if name.startswith(ENDPOINT) and "=" in value
    )
    made = {
        "service": found.service,
        "instance": found.id,
        "host": meta.get(HOST, ""),
        "process": _process(found.id, meta.get(PROCESS, "")),
        "endpoints": endpoints,
        "address": found.address or (node.address if node else ""),
        "port": found.port,
        "timestamp_ns": _number(meta.get(TIMESTAMP, "")),
        "version": meta.get(VERSION, ""),
        "tags": [each for each in found.tags or () if each != tag],
        "zone": meta.get(ZONE, ""),
        "weight": found.weights.passing,
        "meta": {name: value for name, value in meta.items() if not name.startswith(OURS)},
        "check": meta.get(CHECK, ""),
    }
    try:
        return msgspec.convert(made, Registration)
    except msgspec.ValidationError:
        return None


def _process(instance: str, text: str) -> dict[str, object]:
    boot_id, _, rest = text.partition("/")
    pid, _, start_time = rest.partition("/")
    return {
        "instance": instance,
        "boot_id": boot_id,
        "pid": _number(pid),
        "start_time": _number(start_time),
    }


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def worst(found: Iterable[Check]) -> str:
    """Of no check at all: passing, as DNS has it. A state that nobody knows counts as critical."""
    states = [each.status if each.status in RANK else "critical" for each in found]
    return max(states, key=RANK.__getitem__, default="passing")


def _is_maintenance(found: Check) -> bool:
    return found.check_id.startswith((SERVICE_MAINTENANCE, NODE_MAINTENANCE))


def maintenance_of(found: Iterable[Check]) -> str:
    """Why it is in maintenance, its node included; empty: it is not."""
    for each in found:
        if _is_maintenance(each):
            return cut(each.notes.removeprefix(MARK)) or NO_REASON
    return ""


def said(wanted: Mapping[str, Any], found: Service) -> bool:
    """Whether the agent holds the service as it is wanted."""
    meta, tags = found.meta or {}, found.tags or []
    return (
        (wanted["Name"], wanted["Address"], wanted["Port"], wanted["Weights"]["Passing"])
        == (found.service, found.address, found.port, found.weights.passing)
        and wanted["Meta"] == meta
        and wanted["Tags"] == tags
    )
