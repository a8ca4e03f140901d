"""Why a site is not healthy: one line for each thing, what it is and where to look. None: it is healthy.

Pure. `healthy` is a conclusion from what is known, never a default: what nobody reports is a reason. Who
builds the rest of the status document, and hands in what is asked for here: status.py. A reason has a key
beside its text, so that who looks again (agents/reason_events.py) knows it by more than words that change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane import health
from controlplane.model import Mode, records
from controlplane.site import document, look

ALARM = "alarm"
"""Kind of the reasons that are alarms: whoever raised one tells its own beginning and end."""


@dataclass(frozen=True, slots=True)
class Reason:
    kind: str
    """store, services, controller, spec, host, instance, config, group, standby, or ALARM."""
    subject: str
    """What the text is about: the name of a service, a host or an instance, or the id of an alarm."""
    text: str
    host: str = ""
    """Of an instance: its host, whose agent knows most about it."""

    @property
    def brief(self) -> str:
        """As any local user may read it: of an alarm no text, of a check no output and of a refusal no
        setting, which may have what only the owner may see.
        """
        if self.kind == "config":
            return f"{self.subject}: the configuration that is wanted is not in force"
        return f"alarm {self.subject}" if self.kind == ALARM else health.without_outputs(self.text)

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.subject


@dataclass(frozen=True, slots=True)
class Known:
    """What the reasons are drawn from."""

    store_healthy: bool
    controller_url: str | None
    services: Sequence[document.ServiceRow]
    faults: Mapping[str, str]
    """Service -> what is wrong with its spec."""
    phases: Mapping[str, str]
    """Instance -> the phase that its heartbeat page says."""
    electable: Mapping[str, records.ElectableRecord]
    """Service -> who may take its lead over."""
    alarms: Sequence[document.AlarmState]
    silent: Mapping[str, str]
    """Host whose agent does not report -> since when, in words."""
    late: Sequence[tuple[str, str, str]] = ()
    """Instance that has not had the configuration that is wanted for too long, its host, and what to say."""


def why_not_healthy(known: Known) -> list[Reason]:
    found = [] if known.store_healthy else [Reason("store", "store", "the store does not answer")]
    if not known.services:
        found.append(Reason("services", "services", "no services are applied"))
    if known.controller_url is None:
        text = (
            "no controller is elected: hft-controld is dead, hung, or cut off from the store; failover and "
            "trading do without it: `hftctl logs controld`"
        )
        found.append(Reason("controller", "controller", text))
    found += [
        Reason("spec", service, f"{service}: {fault}") for service, fault in sorted(known.faults.items())
    ]
    for host, silence in sorted(known.silent.items()):
        text = (
            f"{silence}: it is dead, hung, or cut off from the store; what runs there goes on, and nobody "
            f"restarts it or knows how it is: `hftctl logs agent-{host}`"
        )
        found.append(Reason("host", host, text))
    for service in known.services:
        found += _of_instances(service, known)
        if service.mode == Mode.ACTIVE_STANDBY:
            found += _of_group(service, known)
    found += [Reason("config", instance, text, host) for instance, host, text in known.late]
    found += [
        Reason(ALARM, f"{alarm.id} of {alarm.subject}", _of_alarm(alarm))
        for alarm in known.alarms
        if alarm.severity == "critical"
    ]
    return found


def _of_alarm(alarm: document.AlarmState) -> str:
    """Its subject and its text, which may begin with the subject already."""
    named = alarm.text.startswith(f"{alarm.subject}:")
    return alarm.text if named else f"{alarm.subject}: {alarm.text}"


def _of_instances(service: document.ServiceRow, known: Known) -> Iterator[Reason]:
    if len(service.instances) < service.desired:
        text = f"{service.name}: {len(service.instances)} of {service.desired} instances are known"
        yield Reason("services", service.name, text)
    for instance in service.instances[: service.desired]:
        if look.well(instance) or _only_unheard(instance, known):
            continue
        text = f"{instance.id}: {instance.state}, {instance.health}: {instance.reason or 'not ready'}"
        yield Reason("instance", instance.id, text, instance.host)


def _only_unheard(instance: document.InstanceRow, known: Known) -> bool:
    """Nothing worse is known of it than that its agent does not report; the host is the reason then."""
    return instance.host in known.silent and (instance.state == "unknown" or instance.health == "warning")


def _of_group(service: document.ServiceRow, known: Known) -> Iterator[Reason]:
    if not service.leader:
        yield Reason("group", service.name, f"{service.name}: no instance leads")
        return
    phase = known.phases.get(service.leader, "unknown")
    if phase != "active":
        text = f"{service.name}: {service.leader} leads and is not active yet ({phase})"
        yield Reason("group", service.name, text)
    others = [each.id for each in service.instances[: service.desired] if each.id != service.leader]
    record = known.electable.get(service.name)
    able = {process.instance for process in record.processes} if record else set()
    if others and able.isdisjoint(others):
        text = (
            f"{service.name}: no standby can take over from {service.leader}: `hftctl logs {others[0]}` says "
            "why"
        )
        yield Reason("standby", service.name, text)
