"""What a host's agent is to run: the specs of the store, and where the store cannot say, the last good ones
from its own disk (`hosts/<host>/specs.json`).

Promises: a spec that does not decode, or that names a daemon which is not installed here, stops nothing: the
last good spec of that service stays in force, and the agent's alarm names it. An agent that restarts while
the store is away waits some seconds for it (store_watch.VIEW_OLD_S) and then keeps running, and starts again,
what the disk says; it does not begin with the disk, which may be older than what the store would say a moment
later. A removed service is stopped and stays stopped; once no instance of it is left on the host,
`confirm_stops` says so in the store. `decide` is pure. A disk that cannot be written costs the next agent its
memory, and nothing now.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import anyio
import msgspec

from agents import settings
from controlplane import model
from controlplane.errors import HftctlError
from controlplane.host import files
from controlplane.model import ServiceSpec
from controlplane.model.specs import Tombstone
from controlplane.site.view import SiteView
from controlplane.specs import apply as specs_apply
from controlplane.store import Keys, Store

DAEMONS_GROUP = "hftctl.daemons"


@dataclass(frozen=True, slots=True)
class GoodSpec:
    """A good spec, and its revision in the store."""

    spec: ServiceSpec
    spec_revision: int


class _OnDisk(msgspec.Struct):
    spec: ServiceSpec
    spec_revision: int | None = None
    config_revision: int | None = None
    """What an earlier release called it."""

    def good(self) -> GoodSpec:
        revision = self.config_revision if self.spec_revision is None else self.spec_revision
        return GoodSpec(self.spec, revision if revision is not None else 1)


@dataclass(frozen=True, slots=True)
class SpecsInForce:
    in_force: Mapping[str, GoodSpec]
    """By service; those of other hosts too, whose daemons this host's have to find."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Service -> why what the store has for it is not in force."""

    def sentence(self) -> str:
        """What is refused, and what is in force instead; empty: nothing is refused."""
        return "; ".join(
            f"{service}: {why}, "
            + (
                f"its last good spec (revision {kept.spec_revision}) stays in force"
                if (kept := self.in_force.get(service)) is not None
                else "and no earlier spec of it is known here: it is not started"
            )
            for service, why in sorted(self.refused.items())
        )


ABSENT = "no spec of it is in the store, and no tombstone that says who removed it"


def decide(host: str, last: Mapping[str, GoodSpec], view: SiteView, daemons: Collection[str]) -> SpecsInForce:
    """What is in force for `host`, from the view and from what was in force before.

    A spec that is not there stops nothing: a service ends by a tombstone. What stays in force then ends here
    too once the hosts that had it all report that they run none of it, as after a tombstone that came and
    went unseen.
    """
    in_force: dict[str, GoodSpec] = {}
    refused: dict[str, str] = {}
    for service, spec in view.specs.items():
        if host in spec.hosts and spec.daemon not in daemons:
            refused[service] = f'daemon "{spec.daemon}" is not installed on {host}'
        else:
            in_force[service] = GoodSpec(spec, view.spec_revisions.get(service, 1))
    refused |= view.spec_faults
    for service, good in last.items():
        known = service in view.specs or service in view.tombstones or service in refused
        if not known and (host in good.spec.hosts or _may_run(service, good.spec, view)):
            refused[service] = ABSENT
    in_force |= {service: last[service] for service in refused if service in last}
    return SpecsInForce(in_force, refused)


def _may_run(service: str, spec: ServiceSpec, view: SiteView) -> bool:
    """True unless each of its hosts reports, and reports no instance of it."""
    reports = [view.hosts.get(host) for host in spec.hosts]
    return any(
        report is None or any(instance.service == service for instance in report.instances)
        for report in reports
    )


class LastSpecs:
    """The specs in force on one host, and their copy on its disk."""

    def __init__(self, path: Path, host: str, daemons: Collection[str] | None = None) -> None:
        self.path, self.host = path, host
        self.daemons = installed_daemons() if daemons is None else daemons
        self.trouble = ""
        """What was wrong with the file at the start, and what was done; empty: nothing."""
        self.decision = SpecsInForce(self._read())
        """Until the store has been seen: what the disk says."""
        self._over: tuple[SiteView, SiteView] | None = None

    def __repr__(self) -> str:
        return f"<LastSpecs {self.host}: {', '.join(self.decision.in_force) or 'none'}>"

    def _read(self) -> dict[str, GoodSpec]:
        """A file that is not there is none, and one that does not decode is set aside: then the store is
        waited for, and what it says is written here again.
        """
        try:
            found = model.decode(dict[str, _OnDisk], self.path.read_bytes())
            return {service: each.good() for service, each in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as exc:
            self.trouble = f"{self.path}: expected the last good specs: {exc}"
        with contextlib.suppress(OSError):
            self.trouble += f"; set aside as {files.set_aside(self.path).name}"
        self.trouble += "; specs come from the store alone"
        return {}

    def take(self, view: SiteView) -> SpecsInForce:
        """What is in force from now on; kept on disk when it has changed."""
        decision = decide(self.host, self.decision.in_force, view, self.daemons)
        changed = decision.in_force != self.decision.in_force
        self.decision, self._over = decision, None
        if changed:
            with contextlib.suppress(OSError):
                # Wanted most when everything has been away: it survives a power cut.
                content = msgspec.json.format(model.encode(decision.in_force)) + b"\n"
                files.replace(self.path, content, files.Durability.POWER)
        return decision

    def over(self, view: SiteView) -> SiteView:
        """The view with what is in force in place of what is refused: peers, health ports and status of a
        service do not end because its spec cannot be read.
        """
        if not self.decision.refused:
            return view
        if self._over is None or self._over[0] is not view:
            kept = {s: k for s, k in self.decision.in_force.items() if s in self.decision.refused}
            specs = {**view.specs, **{service: each.spec for service, each in kept.items()}}
            revisions = {service: each.spec_revision for service, each in kept.items()}
            shown = dataclasses.replace(
                view,
                specs=dict(sorted(specs.items())),
                spec_revisions={**view.spec_revisions, **revisions},
                spec_faults=self.decision.refused,
            )
            self._over = (view, shown)
        return self._over[1]

    @property
    def missing(self) -> bool:
        """A service is in force without a spec in the store: what its hosts report decides how long."""
        return ABSENT in self.decision.refused.values()

    def forget(self) -> None:
        """The host goes down in order: nothing is in force on it."""
        self.decision = SpecsInForce({})
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def installed_daemons() -> frozenset[str]:
    """Names only: the daemons' modules are imported in their own processes."""
    return frozenset(metadata.entry_points(group=DAEMONS_GROUP).names)


async def confirm_stops(
    host: str,
    tombstones: Callable[[], Mapping[str, Tombstone]],
    services: Callable[[], Iterable[str]],
    store: Store,
    keys: Keys,
) -> None:
    """For each removed service of which no instance is left here, say so; once a second, until cancelled.

    `services`: those with an instance on this host, whatever its state. A store that does not answer is asked
    again in the next second.
    """
    while True:
        await anyio.sleep(settings.STATUS_EVERY_S)
        here = set(services())
        for service, tombstone in tombstones().items():
            if service not in here and (host in tombstone.hosts or not tombstone.hosts):
                with contextlib.suppress(HftctlError):
                    await specs_apply.confirm_stop(store, keys, service, host)
