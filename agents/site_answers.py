"""What this agent answers for the whole site, from memory: host record, leases, the status document."""

from __future__ import annotations

from typing import Protocol

from agents.alarms import Alarms
from agents.instances import Instances
from agents.settings import AgentSettings
from controlplane.clock import Clock
from controlplane.host import identity
from controlplane.model.observed import HostRecord
from controlplane.site import document, status
from controlplane.site.follower import Follower
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
        known, site = self._known, self._known.site
        if site is None:
            return None
        here = self.host_record()  # fresher than the store's copy of it
        leases = self.lease_remaining_ms()
        silent_ms = {**known.follower.silent_ms(), here.host: 0}
        now = status.Now(known.clock.wall_ns(), known.store_health, leases, here.alarms, silent_ms)
        return status.build(site.with_host(here), now)
