"""From what is known to what is said: pure steps between the site's view, the supervisor, the daemons'
reports and the records.

`observe` makes the InstanceStatus of one slot, `peers_of` the list that a daemon is sent, `keeper_row` what
the keeper has to know of an instance. agent.py calls them; nothing here waits or reads a file.
"""

from __future__ import annotations

from typing import Any

from agents import settings
from agents.bus import Reported
from agents.supervisor import program
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane import privilege, status
from controlplane.model import Alarm, InstanceStatus, Mode, Registration
from hftd.native import word
from hftd.wire import control

LEADING = frozenset({word.Phase.FENCING, word.Phase.RECONCILING, word.Phase.ACTIVE, word.Phase.DRAINING})


def observe(
    instance: Instance, report: Reported | None, alive: word.Alive | None, now_mono_s: float, now_wall_ns: int
) -> InstanceStatus:
    """What its agent says of one instance; `report` and `alive` may be of an earlier process and are ignored
    then.
    """
    process = instance.process
    heard = report if report is not None and report.process == process else None
    if alive is not None and (process is None or alive.pid != process.pid):
        alive = None
    said = heard.status if heard else None
    desired = instance.desired
    phase = alive.phase if alive else word.Phase.STARTING
    led = desired is not None and desired.spec.mode is Mode.ACTIVE_STANDBY
    health, reason = judge(instance, heard, now_mono_s, now_wall_ns)
    return InstanceStatus(
        id=instance.id,
        service=instance.slot.service,
        daemon=desired.spec.daemon if desired else (heard.daemon if heard else ""),
        host=instance.slot.host,
        pid=process.pid if process else None,
        state=str(instance.state),
        role=("leader" if phase in LEADING else "standby") if led else None,
        phase=phase.name.lower(),
        epoch=alive.epoch if alive else 0,
        health=health,
        reason=reason,
        ready=said is not None and said.ready and instance.state is State.RUNNING,
        started_ns=instance.running.started_ns if instance.running else None,
        restarts=instance.restarts,
        cpus=desired.spec.cpus if desired else (),
        sched=program.scheduling(desired.spec, real_time=privilege.may_be_real_time())
        if desired
        else "other",
        endpoints=heard.endpoints if heard else {},
        version=heard.version if heard else "",
        config_revision=revision_of(instance),
        counters=said.counters if said else {},
        rates=heard.rates if heard else {},
        histograms=said.histograms if said else {},
    )


def revision_of(instance: Instance) -> int:
    """Of the config that it runs with: a newer revision with the same content is as good as that."""
    if instance.desired is not None and instance.same:
        return instance.desired.config_revision
    return instance.running.config_revision if instance.running else 0


def judge(
    instance: Instance, report: Reported | None, now_mono_s: float, now_wall_ns: int
) -> tuple[str, str]:
    """Health and the reason when it is not passing."""
    match instance.state:
        case State.STOPPED:
            return "critical", instance.reason or "not started yet"
        case State.BACKOFF:
            return (
                "critical",
                f"{instance.reason}; restart in {max(0.0, instance.due_mono_s - now_mono_s):.1f} s",
            )
        case State.STOPPING:
            return "warning", "stopping"
        case State.STARTING:
            age_s = (now_wall_ns - instance.running.started_ns) / 1e9 if instance.running else 0.0
            if age_s > settings.START_PATIENCE_S:
                return "critical", f"no hello for {age_s:.0f} s"
            return "warning", "starting"
    if report is None or report.status is None:
        return "warning", "no status yet"
    silent_s = now_mono_s - report.status_mono_s
    if silent_s > settings.STATUS_STALE_S:
        return "critical", f"no status for {silent_s:.0f} s"
    if not report.status.healthy:
        return "critical", report.status.reason
    if not report.status.ready:
        return "warning", report.status.reason or "not ready"
    return "passing", ""


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
    instance: Instance, report: Reported | None, folders: program.Folders, address: str, port: int
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
        "floors": list(desired.spec.floors),
        "ending": instance.state is State.STOPPING,
        "home_ok": True,  # its data folder is where it was: the same disk is by definition not behind (R14)
    }


def alarms_of(report: Reported) -> list[Alarm]:
    if report.status is None:
        return []
    return [
        Alarm(alarm.id, alarm.severity, alarm.subject, alarm.text, alarm.since_ns)
        for alarm in report.status.alarms
    ]
