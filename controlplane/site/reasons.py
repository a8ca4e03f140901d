"""Why a site is not healthy: one line for each thing, what it is and where to look. None: it is healthy.

Pure. `healthy` is a conclusion from what is known, never a default: what nobody reports is a reason. Who
builds the rest of the status document, and hands in what is asked for here: status.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.model import Mode, records
from controlplane.site import document, look


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


def why_not_healthy(known: Known) -> list[str]:
    lines = [] if known.store_healthy else ["the store does not answer"]
    if not known.services:
        lines.append("no services are applied")
    if known.controller_url is None:
        lines.append("no controller is elected: `hftctl logs controld`")
    lines += [f"{service}: {fault}" for service, fault in sorted(known.faults.items())]
    for service in known.services:
        lines += _of_instances(service)
        if service.mode == Mode.ACTIVE_STANDBY:
            lines += _of_group(service, known)
    lines += [f"{alarm.subject}: {alarm.text}" for alarm in known.alarms if alarm.severity == "critical"]
    return lines


def _of_instances(service: document.ServiceRow) -> Iterator[str]:
    if len(service.instances) < service.desired:
        yield f"{service.name}: {len(service.instances)} of {service.desired} instances are known"
    for instance in service.instances[: service.desired]:
        if not look.well(instance):
            yield f"{instance.id}: {instance.state}, {instance.health}: {instance.reason or 'not ready'}"


def _of_group(service: document.ServiceRow, known: Known) -> Iterator[str]:
    if not service.leader:
        yield f"{service.name}: no instance leads"
        return
    phase = known.phases.get(service.leader, "unknown")
    if phase != "active":
        yield f"{service.name}: {service.leader} leads and is not active yet ({phase})"
    others = [each.id for each in service.instances[: service.desired] if each.id != service.leader]
    record = known.electable.get(service.name)
    able = {process.instance for process in record.processes} if record else set()
    if others and able.isdisjoint(others):
        yield (
            f"{service.name}: no standby can take over from {service.leader}: `hftctl logs {others[0]}` says "
            "why"
        )
