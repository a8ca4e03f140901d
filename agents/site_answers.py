"""What this agent answers for the whole site, from memory: host record, leases, the status document."""

from __future__ import annotations

from typing import Protocol

from agents.alarms import Alarms
from agents.instances import Instances
from agents.settings import AgentSettings
from controlplane import health
from controlplane.clock import Clock
from controlplane.host import identity
from controlplane.model.checks import State
from controlplane.model.observed import HostRecord
from controlplane.site import config_status, document, reasons, status
from controlplane.site.follower import Follower
from controlplane.site.last_heard import LastHeard
from controlplane.site.status import Now
from controlplane.site.view import SiteView
from controlplane.store import Health


class Known(Protocol):
    """What an answer is made of; the agent has it."""

    given: AgentSettings
    clock: Clock
    follower: Follower
    instances: Instances
    alarms: Alarms
    url: str
    keeper_udp: str
    store_health: Health

    @property
    def site(self) -> SiteView | None: ...


class SiteAnswers:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._last_heard = LastHeard()
        self._config_lag = config_status.ConfigLag()

    def host_record(self) -> HostRecord:
        known = self._known
        return HostRecord(
            host=known.given.host,
            address=known.given.http_address,
            url=known.url,
            keeper=known.keeper_udp,
            boot_id=identity.boot_id(),
            updated_ns=known.clock.wall_ns(),
            instances=tuple(known.instances.statuses()),
            alarms=(*known.instances.alarms(), *known.alarms.standing()),
            ended_counters=known.instances.ended_counters(),
        )

    def lease_remaining_ms(self) -> dict[str, int]:
        """Of each led group: by its lease page where the leader is on this host, else by when its record was
        last seen to change (R4's own clock).
        """
        known, site = self._known, self._known.site
        found, now_ns = known.follower.lease_remaining_ms(), known.clock.boot_ns()
        for service, leader in (site.leaders if site else {}).items():
            if leader.holder is None or known.instances.find(leader.holder.instance) is None:
                continue
            page = known.instances.lease_page(leader.holder.instance)
            if page is not None and page.process == leader.holder:
                found[service] = max(0, page.valid_until_ns - now_ns) // 1_000_000
        return found

    def status(self) -> document.StatusDocument | None:
        """None until the site has been seen."""
        seen = self._seen()
        return None if seen is None else status.build(*seen)

    def reasons(self) -> tuple[list[reasons.Reason], set[str]] | None:
        """The reasons of `status` with their keys, and the hosts whose agents report, this one among them;
        None until the site has been seen.
        """
        seen = self._seen()
        if seen is None:
            return None
        site, now = seen
        heard = status.hosts_of(site) - status.silent_hosts(site, now).keys()
        return status.why_not_healthy(site, now), heard

    def health_of_service(self, name: str) -> tuple[State, str]:
        """By the health of its instances, as far as their agents report."""
        known, site = self._known, self._known.site
        spec = site.specs.get(name) if site else None
        if site is None or spec is None:
            return health.of_service(name, (), 0)
        silent_ms = known.follower.silent_ms()
        healths: list[str] = []
        for slot in spec.slots():
            if slot.host == known.given.host:
                found = known.instances.observe(slot.instance)
                healths += [found.health] if found else []
            elif (record := site.hosts.get(slot.host)) and silent_ms.get(
                slot.host, 0
            ) < status.HOST_SILENT_MS:
                healths += [each.health for each in record.instances if each.id == slot.instance]
        return health.of_service(name, healths, len(spec.slots()))

    def _seen(self) -> tuple[SiteView, Now] | None:
        known, site = self._known, self._known.site
        if site is None:
            return None
        here = self.host_record()  # fresher than the store's copy of it
        leases = self.lease_remaining_ms()
        silent_ms = {**known.follower.silent_ms(), here.host: 0}
        site = site.with_host(here)
        gone = self._last_heard.look(site.hosts)
        wall_ns = known.clock.wall_ns()
        lag_ms = self._config_lag.look(site, known.clock.boot_ns())
        return site, Now(wall_ns, known.store_health, leases, here.alarms, silent_ms, gone, lag_ms)
