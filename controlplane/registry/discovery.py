"""Who serves a service: instances, endpoints, role and epoch, out of what the store shows. Local and pure.

`resolve` reads a view of the site that somebody else keeps fresh, so it answers at once and also while the
store is away. It says all that serve; choosing one of them (balancing, sticky by venue, round robin) comes
after it and has its place in this room. Registrations get into the store by leased.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from controlplane.model import Mode, ServiceSpec, records
from controlplane.model.records import LeaderRecord, Registration
from controlplane.store import Entry


class View(Protocol):
    """The part of a site's view that discovery reads."""

    def registered(self, service: str) -> Iterable[Registration]: ...

    @property
    def leaders(self) -> Mapping[str, LeaderRecord]: ...

    @property
    def specs(self) -> Mapping[str, ServiceSpec]: ...


@dataclass(frozen=True, slots=True)
class Serving:
    """One instance that serves."""

    instance: str
    endpoints: Mapping[str, str]
    """Socket name -> endpoint."""
    role: str
    """leader or standby; empty in a service that has no roles."""
    epoch: int
    """Of the group; 0 in a service that has no roles, or before its first leader."""


def resolve(view: View, service: str) -> list[Serving]:
    """Who serves it, in order of instance; empty when no instance does, or the service is not known."""
    return serving(view.registered(service), view.specs.get(service), view.leaders.get(service))


def serving(
    registered: Iterable[Registration], spec: ServiceSpec | None = None, leader: LeaderRecord | None = None
) -> list[Serving]:
    """The same for the registrations of one service; without its spec there are no roles.

    A leader record counts for exactly the process that it names (R2): one that was restarted since is a
    standby.
    """
    led = spec is not None and spec.mode is Mode.ACTIVE_STANDBY
    epoch = leader.epoch if led and leader is not None else 0
    found = []
    for registration in sorted(registered, key=lambda registration: registration.instance):
        leads = led and leader is not None and leader.holder == registration.process
        role = ("leader" if leads else "standby") if led else ""
        found.append(Serving(registration.instance, dict(registration.endpoints), role, epoch))
    return found


def decode(entries: Iterable[Entry]) -> list[Registration]:
    """The registrations among the entries under a service's key; what does not decode is left out: it is of
    another writer, and no reason not to find the others.
    """
    found = []
    for entry in entries:
        try:
            found.append(records.decode_registration(entry.value, *entry.key.split("/")[-2:]))
        except msgspec.DecodeError:
            continue
    return found
