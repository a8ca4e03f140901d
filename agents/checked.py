"""This host's instances as subjects of checks: what is configured for each, and where it is to be looked at.

Only what an agent runs has `process` and `heartbeat`. A service that is only registered joins here, as a
Subject that is not `ours`.
"""

from __future__ import annotations

from collections.abc import Iterator

from agents.checks import Subject, Target
from agents.instances import Instances
from agents.supervisor.states import State
from controlplane.model import Mode


def subjects(instances: Instances, address: str) -> Iterator[Subject]:
    """`address`: of this host."""
    for instance in instances:
        desired, report = instance.desired, instances.report_of(instance.id)
        ports = dict(desired.spec.health_ports()) if desired else {}
        heard = report is not None and report.process == instance.process
        target = Target(
            instance.slot.service,
            instance.id,
            instance.slot.host,
            address,
            ports.get(instance.slot, 0),
            report.endpoints if report is not None and heard else {},
            runs=instance.state is State.RUNNING,
        )
        led = desired is not None and desired.spec.mode is Mode.ACTIVE_STANDBY
        yield Subject(target, desired.spec.checks if desired else (), led=led)
