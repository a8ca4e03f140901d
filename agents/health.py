"""From what is known to what is said: pure steps between the site's view, the supervisor, the daemons'
reports and the records.

`observe` makes the InstanceStatus of one slot, `findings` what its checks `process` and `heartbeat` say.
instances.py calls them; nothing here waits or reads a file. The other checks: checks/.
"""

from __future__ import annotations

from collections.abc import Callable

from agents import settings
from agents.bus import Reported
from agents.supervisor import program, supervisor
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane import clock
from controlplane.health import Finding, fold
from controlplane.host import sched
from controlplane.model import Mode, Phase, Process, bounds
from controlplane.model.checks import State as HealthState
from controlplane.model.observed import Alarm, BreakerStatus, InstanceStatus
from hftd.shm import pages
from hftd.wire import control

LOOP_DEATHS = 3
"""One crash or two may be chance, healed by the restart."""
LEADING = frozenset({Phase.FENCING, Phase.RECONCILING, Phase.ACTIVE, Phase.DRAINING})


def observe(
    instance: Instance,
    report: Reported | None,
    page: pages.Alive | str | None,
    now_mono_s: float,
    now_wall_ns: int,
    keeper_trouble: str = "",
    age_ns: int = 0,
    judged: Judged = lambda instance, *found: fold(found),
) -> InstanceStatus:
    """What its agent says of one instance; `report` and `page` may be of an earlier process and are ignored
    then. `page` as text: why the heartbeat page is not believed. `keeper_trouble`: why no lease is renewed.
    `age_ns`: for how long its process has run, whatever the wall clock did. `judged`: with its other checks.
    """
    process, running = instance.process, instance.running
    heard = report if report is not None and report.process == process else None
    alive, _ = _believed(page, process)
    said = heard.status if heard else None
    desired = instance.desired
    phase = alive.phase if alive else Phase.STARTING
    led = desired is not None and desired.spec.mode is Mode.ACTIVE_STANDBY
    health, reason = judged(instance.id, *findings(instance, report, page, now_mono_s, age_ns))
    fresh = heard is not None and now_mono_s - heard.status_mono_s <= settings.STATUS_STALE_S
    if led and keeper_trouble and health != "critical":
        health, reason = "critical", "its keeper is dead or silent: it leads no longer than its lease lasts"
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
        reason=bounds.cut(reason),
        ready=said is not None and fresh and said.ready and instance.state is State.RUNNING,
        started_ns=clock.restamped(running.started_ns, age_ns, now_wall_ns) if running else None,
        restarts=instance.restarts,
        crashes=instance.crashes,
        cpus=desired.spec.cpus if desired else (),
        sched=program.scheduling(desired.spec, real_time=sched.may_be_real_time()) if desired else "other",
        endpoints=heard.endpoints if heard else {},
        version=heard.version if heard else "",
        config_revision=config_of(instance, said),
        counters=said.counters if said else {},
        rates=heard.rates if heard and fresh else {},
        histograms=said.histograms if said else {},
        spec_revision=revision_of(instance),
        config_refused=bounds.cut(refusal_of(instance, said)),
        breakers=breakers_of(said) if said else (),
    )


def _believed(page: pages.Alive | str | None, process: Process | None) -> tuple[pages.Alive | None, str]:
    if page is None or process is None:
        return None, ""
    if isinstance(page, str):
        return None, page
    if (page.pid, page.start_time) != (process.pid, process.start_time):
        return None, f"its heartbeat page names pid {page.pid}, it is pid {process.pid}"
    return page, ""


def revision_of(instance: Instance) -> int:
    """Of the spec that it runs as: a newer revision that asks for no restart is as good as that."""
    if instance.desired is not None and instance.same:
        return instance.desired.spec_revision
    return instance.running.spec_revision if instance.running else 0


def config_of(instance: Instance, said: control.Status | None) -> int:
    """Revision of the settings in force: as its daemon says, else those that it was started with."""
    if said is not None and said.config_revision:
        return said.config_revision
    desired = instance.desired
    if desired is not None and instance.running is not None and instance.same:
        restart = desired.spec.restart
        if restart is None or desired.config.settings.keys() <= set(restart):
            return desired.config.revision  # started with the same settings, whatever their revision was
    return instance.running.config_revision if instance.running else 0


def refusal_of(instance: Instance, said: control.Status | None) -> str:
    """Why the settings that are wanted are not in force; empty: they are, or are on their way."""
    if said is not None and said.config_refused:
        return said.config_refused
    return instance.desired.config_trouble if instance.desired is not None else ""


Judged = Callable[[str, Finding, Finding], tuple[HealthState, str]]
"""judged(instance, process, heartbeat): health, and the reason when it is not passing, with what other checks
say (checks/board.py)."""


def judge(
    instance: Instance,
    report: Reported | None,
    now_mono_s: float,
    age_s: float,
    page_trouble: str = "",
) -> tuple[HealthState, str]:
    """Health by process and heartbeat alone, and the reason when it is not passing."""
    process = process_finding(instance, now_mono_s, age_s)
    return fold((process, heartbeat_finding(instance, report, now_mono_s, page_trouble)))


def process_finding(instance: Instance, now_mono_s: float, age_s: float) -> Finding:
    """The check `process`. An instance in a crash loop is critical while it is up, too: between two crashes
    it looks like any other.
    """
    match instance.state:
        case State.STOPPED:
            return Finding("", "critical", instance.reason or "not started yet")
        case State.BACKOFF:
            due_in_s = max(0.0, instance.due_mono_s - now_mono_s)
            return Finding("", "critical", f"{instance.reason}; restart in {due_in_s:.1f} s")
        case State.STOPPING:
            return Finding("", "warning", "stopping")
        case State.STARTING:
            if age_s > settings.START_PATIENCE_S:
                return Finding("", "critical", f"no hello for {age_s:.0f} s")
            return Finding("", "warning", "starting")
    if loops := crash_loop(instance, now_mono_s):
        return Finding("", "critical", loops)
    return Finding("", "passing", f"pid {instance.process.pid} runs" if instance.process else "")


def heartbeat_finding(
    instance: Instance, report: Reported | None, now_mono_s: float, page_trouble: str = ""
) -> Finding:
    """The check `heartbeat`. A daemon writes its heartbeat page before its hello, so that trouble with the
    page counts from then on.
    """
    if instance.state in (State.STOPPED, State.BACKOFF):
        return Finding("", "critical", "no process runs")
    if instance.state is not State.RUNNING:
        return Finding("", "warning", f"its process is {instance.state}")
    if report is None or report.status is None:
        return Finding("", "warning", "no status yet")
    silent_s = now_mono_s - report.status_mono_s
    if silent_s > settings.STATUS_STALE_S:
        return Finding("", "critical", f"no status for {silent_s:.0f} s")
    if page_trouble:
        return Finding("", "critical", f"{page_trouble}; while this lasts it is given no lease")
    if not report.status.healthy:
        return Finding("", "critical", report.status.reason)
    if not report.status.ready:
        return Finding("", "warning", report.status.reason or "not ready")
    return Finding("", "passing", "ready")


def findings(
    instance: Instance,
    report: Reported | None,
    page: pages.Alive | str | None,
    now_mono_s: float,
    age_ns: int = 0,
) -> tuple[Finding, Finding]:
    """Of process and of heartbeat, as `observe` takes them."""
    heard = report if report is not None and report.process == instance.process else None
    _, trouble = _believed(page, instance.process)
    if page is None and heard is not None:
        trouble = "its heartbeat page is gone; it is restarted in its turn"
    return (
        process_finding(instance, now_mono_s, age_ns / 1e9),
        heartbeat_finding(instance, heard, now_mono_s, trouble),
    )


def turns(instance: Instance, report: Reported | None, now_mono_s: float, age_s: float) -> bool:
    """Its loop turns, as far as can be told: it reports, or is given time to begin. `age_s`: for how long its
    process has run.
    """
    if instance.running is None:
        return False
    if report is not None and report.process == instance.process and report.status is not None:
        return now_mono_s - report.status_mono_s <= settings.STATUS_STALE_S
    return age_s <= settings.START_PATIENCE_S


def crash_loop(instance: Instance, now_mono_s: float) -> str:
    """What to say of an instance that ended LOOP_DEATHS times in a row before it was stable, until it is.
    Empty for any other.
    """
    since_mono_s, stable_s = instance.ready_since_mono_s, supervisor.STABLE_S
    if instance.short_lives < LOOP_DEATHS or (
        since_mono_s is not None and now_mono_s - since_mono_s >= stable_s
    ):
        return ""
    return (
        f"crash loop: ended {instance.short_lives} times in a row before it had been ready for "
        f"{stable_s:.0f} s, last: {instance.last_death}"
    )


def breakers_of(said: control.Status) -> tuple[BreakerStatus, ...]:
    return tuple(
        BreakerStatus(
            name=each.name,
            state=each.state,
            forced=each.forced,
            reason=each.reason,
            until_ns=each.until_ns,
            calls=each.calls,
            failures=each.failures,
            slow=each.slow,
            refused=each.refused,
        )
        for each in said.breakers
    )


def alarms_of(report: Reported) -> list[Alarm]:
    if report.status is None:
        return []
    return [
        Alarm(alarm.id, alarm.severity, alarm.subject, alarm.text, alarm.since_ns)
        for alarm in report.status.alarms
    ]
