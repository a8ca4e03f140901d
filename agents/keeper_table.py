"""What the keeper has to know of this host's instances, as one table (keeper/protocol.py). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agents.bus import Reported
from agents.keeper import protocol
from agents.paths import Paths
from agents.supervisor import states
from agents.supervisor.supervisor import Instance
from controlplane.model import Mode, Process
from controlplane.model.checks import State
from controlplane.model.records import Registration


def table(
    instances: Iterable[tuple[Instance, Reported | None]],
    paths: Paths,
    *,
    address: str,
    port: int,
    profile: str,
    leaving: bool,
    health: Callable[[str], State | None] = lambda instance: "passing",
) -> protocol.Table:
    """`address` and `port` are the agent's HTTP: where an instance without a health port of its own is
    checked. `profile` names the lease profile in force. `health(instance)`: as its registration says it;
    None: a check of it has been critical for so long that it is not registered.
    """
    entries = [
        _entry(instance, report, paths, address, port, health(instance.id)) for instance, report in instances
    ]
    return protocol.Table(tuple(entry for entry in entries if entry is not None), profile, leaving)


def _entry(
    instance: Instance,
    report: Reported | None,
    paths: Paths,
    address: str,
    port: int,
    health: State | None,
) -> protocol.WantedProcess | None:
    """None while it has no process, or while its spec is not known."""
    process, desired = instance.process, instance.desired
    if process is None or desired is None:
        return None
    led = desired.spec.mode is Mode.ACTIVE_STANDBY
    if led and health is None:
        health = "critical"  # without a registration its keeper takes it for not ready, and nobody fences it
    return protocol.WantedProcess(
        process=process,
        service=desired.spec.name,
        mode=desired.spec.mode,
        lease=str(paths.lease(instance.id)) if led else None,
        alive=str(paths.alive(instance.id)),
        registration=_registration(instance, process, report, address, port, health),
        fences=desired.spec.fences,
        ending=instance.state is states.State.STOPPING,
        home_ok=True,  # its data folder is where it was: the same disk is by definition not behind (R14)
    )


def _registration(
    instance: Instance,
    process: Process,
    report: Reported | None,
    address: str,
    port: int,
    health: State | None,
) -> Registration | None:
    """None while it does not serve: not running, not ready, taken out by a check, or its present process has
    said nothing yet.
    """
    if health is None:
        return None
    if report is None or report.process != process or report.status is None or instance.desired is None:
        return None
    if not report.status.ready or instance.state is not states.State.RUNNING:
        return None
    own_port = next(
        (own for slot, own in instance.desired.spec.health_ports() if slot == instance.slot), port
    )
    return Registration(
        service=instance.slot.service,
        instance=instance.id,
        host=instance.slot.host,
        process=process,
        endpoints=report.endpoints,
        address=address,
        port=own_port,
        # Of the process, not of this moment: the same row is the same registration.
        timestamp_ns=instance.running.started_ns if instance.running else 0,
        version=report.version,
        health=health,
    )
