"""From what is known to what is said: pure steps between the site's view, the supervisor, the daemons'
reports and the records.

`observe` makes the InstanceStatus of one slot, `peers_of` the list that a daemon is sent, `keeper_row` what
the keeper has to know of an instance. agent.py calls them; nothing here waits or reads a file.
"""

from __future__ import annotations

from agents import settings
from agents.bus import Reported
from agents.supervisor import program, supervisor
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane import clock
from controlplane.host import sched
from controlplane.model import Mode, Phase, Process, bounds
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
) -> InstanceStatus:
    """What its agent says of one instance; `report` and `page` may be of an earlier process and are ignored
    then. `page` as text: why the heartbeat page is not believed. `keeper_trouble`: why no lease is renewed.
    `age_ns`: for how long its process has run, whatever the wall clock did.
    """
    process, running = instance.process, instance.running
    heard = report if report is not None and report.process == process else None
    alive, trouble = _believed(page, process)
    if page is None and heard is not None:
        trouble = "its heartbeat page is gone; it is restarted in its turn"
    said = heard.status if heard else None
    desired = instance.desired
    phase = alive.phase if alive else Phase.STARTING
    led = desired is not None and desired.spec.mode is Mode.ACTIVE_STANDBY
    health, reason = judge(instance, heard, now_mono_s, age_ns / 1e9, trouble)
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
        config_revision=revision_of(instance),
        counters=said.counters if said else {},
        rates=heard.rates if heard and fresh else {},
        histograms=said.histograms if said else {},
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
    """Of the config that it runs with: a newer revision with the same content is as good as that."""
    if instance.desired is not None and instance.same:
        return instance.desired.config_revision
    return instance.running.config_revision if instance.running else 0


def judge(
    instance: Instance,
    report: Reported | None,
    now_mono_s: float,
    age_s: float,
    page_trouble: str = "",
) -> tuple[str, str]:
    """Health and the reason when it is not passing. A daemon writes its heartbeat page before its hello, so
    that trouble with the page counts from then on. An instance in a crash loop is critical while it is up,
    too: between two crashes it looks like any other.
    """
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
            if age_s > settings.START_PATIENCE_S:
                return "critical", f"no hello for {age_s:.0f} s"
            return "warning", "starting"
    if report is None or report.status is None:
        return "warning", "no status yet"
    silent_s = now_mono_s - report.status_mono_s
    if silent_s > settings.STATUS_STALE_S:
        return "critical", f"no status for {silent_s:.0f} s"
    if page_trouble:
        return "critical", f"{page_trouble}; while this lasts it is given no lease"
    if not report.status.healthy:
        return "critical", report.status.reason
    if loops := crash_loop(instance, now_mono_s):
        return "critical", loops
    if not report.status.ready:
        return "warning", report.status.reason or "not ready"
    return "passing", ""


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
