"""A group of two whose configuration is rolled out, for the tests of its rules: its spec, its instances as
their hosts report them, and its leader's record.
"""

from __future__ import annotations

from typing import Any

from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.observed import InstanceStatus

OMSD = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("a", "b"))
LEADER, STANDBY = "omsd-a-1", "omsd-b-1"
BASE, NEW = 3, 4


def status(id: str, service: str = "omsd", **more: Any) -> InstanceStatus:
    known: dict[str, Any] = {
        "daemon": service,
        "host": id.split("-")[-2],
        "pid": 7,
        "state": "running",
        "role": None,
        "phase": "active",
        "epoch": 1,
        "health": "passing",
        "reason": "",
        "ready": True,
        "started_ns": 0,
        "restarts": 0,
        "cpus": (),
        "sched": "other",
        "endpoints": {},
        "version": "1",
        "config_revision": BASE,
    }
    return InstanceStatus(id=id, service=service, **(known | more))


def process(instance: str) -> Process:
    return Process(instance, "boot", 7, 7)


def lead(instance: str | None, home: str | None = None) -> records.LeaderRecord:
    return records.LeaderRecord(process(instance) if instance else None, 1, 1, home or instance, "n")
