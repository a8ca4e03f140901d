"""May an instance be restarted now, for a changed spec or setting, or for lost pages? Standbys first: the
lead is not given up before another member has the new spec and the settings that it is to have, is seen, and
may take it. Pure; the supervisor asks, and waits a bounded time for a yes.
"""

from __future__ import annotations

from agents.supervisor.supervisor import Instance
from controlplane.model import Mode, Phase
from controlplane.model.config import ServiceConfig
from controlplane.site.view import SiteView

UNSEEN = Phase.STARTING.name.lower()
"""Of a ready instance: its heartbeat page cannot be read (agents/health.py)."""


def may_restart(instance: Instance, site: SiteView | None) -> bool:
    desired = instance.desired
    if desired is None or site is None or desired.spec.mode is not Mode.ACTIVE_STANDBY:
        return True
    leader = site.leaders.get(desired.spec.name)
    if leader is None or leader.holder != instance.process:
        return True
    others = {slot.instance for slot in desired.spec.slots()} - {instance.id}
    if not others:
        return True
    observed = [found for record in site.hosts.values() for found in record.instances if found.id in others]
    config = site.configs.get(desired.spec.name, ServiceConfig())
    current = [
        each
        for each in observed
        if each.ready
        and each.spec_revision >= desired.spec_revision
        and each.config_revision == config.wanted_revision(each.id)
        and each.phase != UNSEEN
    ]
    electable = site.electable.get(desired.spec.name)
    # Its process before this one may stand there still, and nobody hands a lead over to that.
    pids = {each.id: each.pid for each in current}
    able = electable.processes if electable else ()
    can_lead = any(pids.get(process.instance) == process.pid for process in able)
    return len(current) == len(others) and can_lead
