"""What others have to know of this host's instances: the peers that a daemon is told of, the rows of the
keeper's table. Pure.
"""

from __future__ import annotations

from typing import Any

from agents import paths
from agents.bus import Reported
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane.model import Mode, Registration
from controlplane.site import status
from hftd.wire import control


def peers_of(site: status.Site, service: str) -> list[control.Peer]:
    """Who is registered for the service, in order of instance id."""
    spec, record = site.specs.get(service), site.leaders.get(service)
    led = spec is not None and spec.mode is Mode.ACTIVE_STANDBY
    found = []
    for registration in sorted(site.registrations.values(), key=lambda registration: registration.instance):
        if registration.service != service:
            continue
        leads = led and record is not None and record.holder == registration.process
        role = ("leader" if leads else "standby") if led else ""
        found.append(
            control.Peer(
                registration.instance,
                dict(registration.endpoints),
                role,
                record.epoch if led and record else 0,
            )
        )
    return found


def keeper_row(
    instance: Instance, report: Reported | None, folders: paths.Paths, address: str, port: int
) -> dict[str, Any] | None:
    """The instance as its keeper has to know it; None while it has no process, or while its spec is not
    known.
    """
    process, desired = instance.process, instance.desired
    if process is None or desired is None:
        return None
    heard = report if report is not None and report.process == process else None
    ready = (
        heard is not None
        and heard.status is not None
        and heard.status.ready
        and instance.state is State.RUNNING
    )
    registration = None
    if heard is not None and ready:
        registration = Registration(
            service=instance.slot.service,
            instance=instance.id,
            host=instance.slot.host,
            process=process,
            endpoints=heard.endpoints,
            address=address,
            port=next((own for slot, own in desired.spec.health_ports() if slot == instance.slot), port),
            timestamp_ns=instance.running.started_ns
            if instance.running
            else 0,  # of the process: the same row is the same registration
            version=heard.version,
        )
    led = desired.spec.mode is Mode.ACTIVE_STANDBY
    return {
        "process": process,
        "service": desired.spec.name,
        "mode": desired.spec.mode,
        "lease": str(folders.lease(instance.id)) if led else None,
        "alive": str(folders.alive(instance.id)),
        "registration": registration,
        "fences": list(desired.spec.fences),
        "ending": instance.state is State.STOPPING,
        "home_ok": True,  # its data folder is where it was: the same disk is by definition not behind (R14)
    }
