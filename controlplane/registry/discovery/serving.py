"""Who serves a service: instances, endpoints, role and epoch, out of registrations and the group's leader.
Pure.

`serving` says all that are registered; `Only` is which of them somebody wants. Choosing one is balancing.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.model import Mode, Process, ServiceSpec
from controlplane.model.records import LeaderRecord, Registration


@dataclass(frozen=True, slots=True)
class Serving:
    """One instance that is registered."""

    instance: str
    endpoints: Mapping[str, str]
    """Socket name -> endpoint."""
    role: str
    """leader or standby; empty in a service that has no roles."""
    epoch: int
    """Of the group; 0 in a service that has no roles, or before its first leader."""
    registration: Registration
    """All that it says of itself: host, address and port, zone, version, tags, health, maintenance."""

    def __hash__(self) -> int:
        return hash(self.registration.process)

    @property
    def process(self) -> Process:
        return self.registration.process


@dataclass(frozen=True, slots=True)
class Only:
    """Which instances somebody wants. What is critical or in maintenance is never given, whatever this
    says.
    """

    tags: tuple[str, ...] = ()
    """It has each of them."""
    version: str = ""
    """Exactly this one; empty: any."""
    zone: str = ""
    """Its host stands there; empty: anywhere."""
    role: str = ""
    """leader or standby; empty: any."""
    passing: bool = False
    """Not those with a warning either."""

    def admits(self, found: Serving) -> bool:
        of = found.registration
        return (
            (not self.version or of.version == self.version)
            and (not self.zone or of.zone == self.zone)
            and (not self.role or found.role == self.role)
            and all(tag in of.tags for tag in self.tags)
        )

    def well(self, found: Serving) -> bool:
        of = found.registration
        return of.serves and (of.health == "passing" or not self.passing)


ANY = Only()


def serving(
    registered: Iterable[Registration], spec: ServiceSpec | None = None, leader: LeaderRecord | None = None
) -> tuple[Serving, ...]:
    """All that are registered for one service, in order of instance; without its spec there are no roles.

    A leader record counts for exactly the process that it names (R2): one that was restarted since is a
    standby.
    """
    led = spec is not None and spec.mode is Mode.ACTIVE_STANDBY
    epoch = leader.epoch if led and leader is not None else 0
    found = []
    for registration in sorted(registered, key=lambda registration: registration.instance):
        leads = led and leader is not None and leader.holder == registration.process
        role = ("leader" if leads else "standby") if led else ""
        found.append(Serving(registration.instance, registration.endpoints, role, epoch, registration))
    return tuple(found)


def linked(found: Sequence[Serving]) -> Sequence[Serving]:
    """Those to which a daemon keeps its links open.

    In a group with roles all of them, whatever their health: who leads is decided by leadership, and a check
    that fails must not cut the leader off. Else those that serve; and all when none does, because a bad link
    is better than none.
    """
    if any(each.role for each in found):
        return found
    return [each for each in found if each.registration.serves] or found
