"""Builds the status document (document.py) from a view of the site and the time. Pure; agents and
hft-controld share it.

`healthy` means that there is no reason why not (reasons.py): every desired instance is ready and passing,
every group has an active leader and, where it has more members, a standby that can take over, every service
that runs has a spec in the store that decodes, the store answers, a controller is elected, no critical alarm
stands. Warnings do not change it, nor does an operation under way. The instances of a silent agent are shown
as last heard of, with health `warning` and for how long the agent has been silent; where nothing is known,
`unknown`. The view comes from view.py. Who asks for this: the agents' and the controller's HTTP and, over
them, controlplane/cli.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from controlplane.model import Mode, ServiceSpec, Slot, records
from controlplane.model.config import PlainKey, ServiceConfig
from controlplane.model.observed import Alarm, EndedCounters, HostRecord, InstanceStatus
from controlplane.model.records import Registration
from controlplane.site import config_status, document, histogram, look, reasons
from controlplane.store import Health

HOST_SILENT_MS = 3000
"""Three host records not written: the agent is not there (its daemons may well be)."""
OPERATIONS_MAX = 20
"""The newest; `hftctl op list` is for the others."""
SHARES = (0.5, 0.99, 0.999)
"""Of document.Percentiles."""
FLOW_FROM = {
    "messages": ("marketd",),
    "lost": ("marketd", "bookd"),
    "gaps": ("bookd",),
    "orders": ("omsd",),
    "fills": ("omsd",),
    "rejects": ("omsd",),
}
"""Counter -> the daemons whose counts of it are the site's (what the feed lost and what the market stream
lost are two things); others count the same thing further down the path."""
TUNING_NOT_AUDITED = document.Tuning("not_audited", [])


class Site(Protocol):
    """What a view of the site has to offer."""

    @property
    def site(self) -> str: ...
    @property
    def specs(self) -> Mapping[str, ServiceSpec]: ...
    @property
    def hosts(self) -> Mapping[str, HostRecord]: ...
    @property
    def registrations(self) -> Mapping[str, Registration]:
        """By instance."""

    @property
    def leaders(self) -> Mapping[str, records.LeaderRecord]: ...
    @property
    def electable(self) -> Mapping[str, records.ElectableRecord]: ...
    @property
    def configs(self) -> Mapping[str, ServiceConfig]:
        """By service."""

    @property
    def plain(self) -> Mapping[str, PlainKey]: ...
    @property
    def operations(self) -> Sequence[records.OperationRecord]: ...
    @property
    def paused(self) -> document.Paused | None: ...
    @property
    def controller_url(self) -> str | None: ...
    @property
    def controller_alarms(self) -> Sequence[Alarm]: ...
    @property
    def tombstones(self) -> Mapping[str, object]:
        """By service."""

    @property
    def spec_faults(self) -> Mapping[str, str]:
        """Service -> why its spec cannot be used."""


@dataclass(frozen=True, slots=True)
class Now:
    """What a status needs beside the records."""

    wall_ns: int
    store: Health
    lease_remaining_ms: Mapping[str, int] = field(default_factory=dict)
    """Of each group, as far as the asker can tell: none left means that no instance leads, whatever the
    record says."""
    alarms: Sequence[Alarm] = ()
    """The asker's own, beside those in the host records."""
    silent_ms: Mapping[str, int] = field(default_factory=dict)
    """Of each host: for how long its record has not changed, by the asker's clock (hosts' clocks differ, and
    are set)."""
    gone: Sequence[HostRecord] = ()
    """The last records of hosts that have none any more (last_heard.py); of them only the totals count."""
    config_lag_ms: Mapping[str, int] = field(default_factory=dict)
    """Instance -> for how long it has not had in force what it is to have (config_status.ConfigLag)."""


def build(view: Site, now: Now) -> document.StatusDocument:
    observed = _observed(view, now)
    services = [_service(spec, view, observed, now) for _, spec in sorted(view.specs.items())]
    newest = sorted(view.operations, key=lambda operation: -operation.created_ns)[:OPERATIONS_MAX]
    ended = [counters for record in view.hosts.values() for counters in record.ended_counters]
    for record in now.gone:
        ended += [EndedCounters(each.daemon, each.counters, each.histograms) for each in record.instances]
        ended += record.ended_counters
    alarms = _alarms(view, now)
    found = _reasons(view, now, services, alarms)
    return document.StatusDocument(
        site=view.site,
        healthy=not found,
        store=_store(now.store),
        controller=document.ControllerState(view.controller_url),
        paused=view.paused,
        hosts=[_host(name, view, now) for name in sorted(hosts_of(view))],
        services=services,
        breakers=_breakers(observed.values()),
        operations=[document.OperationRow(op.id, op.kind, op.state, op.actor, op.reason) for op in newest],
        alarms=alarms,
        flow=flow(observed.values(), ended, unheard=_unheard_feeds(view, observed)),
        reasons=[reason.text for reason in found],
        registered=_registered(view, services),
    )


def _registered(view: Site, services: Sequence[document.ServiceRow]) -> list[document.RegisteredRow]:
    """What is registered beside the floor's own services."""
    ours = {instance.id for service in services for instance in service.instances}
    return [
        document.RegisteredRow(
            id=each.instance,
            service=each.service,
            host=each.host,
            address=each.address,
            port=each.port,
            health=each.health,
            maintenance=each.maintenance,
            endpoints=dict(each.endpoints),
            tags=list(each.tags),
            meta=dict(each.meta),
            zone=each.zone,
            weight=each.weight,
            version=each.version,
        )
        for each in sorted(view.registrations.values(), key=lambda each: each.instance)
        if each.instance not in ours
    ]


def _breakers(instances: Iterable[InstanceStatus]) -> list[document.BreakerRow]:
    return [
        document.BreakerRow(
            name=each.name,
            host=instance.host,
            state=each.state,
            instance=instance.id,
            forced=each.forced,
            reason=each.reason,
            until=look.iso(each.until_ns) if each.until_ns else None,
            calls=each.calls,
            failures=each.failures,
            slow=each.slow,
            refused=each.refused,
        )
        for instance in sorted(instances, key=lambda instance: instance.id)
        for each in instance.breakers
    ]


def why_not_healthy(view: Site, now: Now) -> list[reasons.Reason]:
    """The reasons of `build` with their keys."""
    observed = _observed(view, now)
    services = [_service(spec, view, observed, now) for _, spec in sorted(view.specs.items())]
    return _reasons(view, now, services, _alarms(view, now))


def _reasons(
    view: Site,
    now: Now,
    services: Sequence[document.ServiceRow],
    alarms: Sequence[document.AlarmState],
) -> list[reasons.Reason]:
    known = reasons.Known(
        store_healthy=now.store.healthy,
        controller_url=view.controller_url,
        services=services,
        faults=spec_faults(view),
        phases={each.id: each.phase for record in view.hosts.values() for each in record.instances},
        electable=view.electable,
        alarms=alarms,
        silent=silent_hosts(view, now),
        late=[
            (row.id, row.host, text) for row, text in config_status.late(view, services, now.config_lag_ms)
        ],
    )
    return reasons.why_not_healthy(known)


def silent_hosts(view: Site, now: Now) -> dict[str, str]:
    """Host whose agent does not report -> what to say of it."""
    found = {}
    for name in hosts_of(view):
        record = view.hosts.get(name)
        if record is None:
            found[name] = f"no agent of {name} reports"
        elif (silent_ms := now.silent_ms.get(name, 0)) >= HOST_SILENT_MS:
            found[name] = f"agent of {name} silent for {silent_ms / 1000:.0f} s"
    return found


def _observed(view: Site, now: Now) -> dict[str, InstanceStatus]:
    """By instance. Of what a silent agent said last, the totals stay and the rates are not known."""
    silent = silent_hosts(view, now)
    return {
        each.id: dataclasses.replace(each, rates={}) if record.host in silent else each
        for record in view.hosts.values()
        for each in record.instances
    }


def _unheard_feeds(view: Site, observed: Mapping[str, InstanceStatus]) -> bool:
    """A market data daemon that should run is reported by nobody."""
    feeds = [spec for spec in view.specs.values() if spec.daemon in FLOW_FROM["messages"]]
    return any(slot.instance not in observed for spec in feeds for slot in spec.slots())


def hosts_of(view: Site) -> set[str]:
    return {host for spec in view.specs.values() for host in spec.hosts} | set(view.hosts)


def spec_faults(view: Site) -> dict[str, str]:
    """Service -> what is wrong with its spec: what the view says, and services that run without one."""
    faults = dict(view.spec_faults)
    for record in view.hosts.values():
        for service in {instance.service for instance in record.instances}:
            if service not in view.specs and service not in view.tombstones:
                faults.setdefault(service, f"{record.host} runs it, and no spec of it is in the store")
    return faults


def _store(health: Health) -> document.StoreState:
    found = health.condition
    return document.StoreState(
        health.kind,
        list(health.endpoints),
        health.healthy,
        health.version,
        health.latency_ms,
        (found.leader or None) if found else None,
        [
            document.StoreMember(m.name, m.answers, m.leads, m.version, m.behind, m.reason)
            for m in (found.members if found else ())
        ],
        health.leader_changes,
        found.size_bytes if found else None,
        found.size_max_bytes if found else None,
        health.reason,
    )


def _host(name: str, view: Site, now: Now) -> document.HostRow:
    record = view.hosts.get(name)
    if record is None:
        return document.HostRow(name, "down", None, None, None, TUNING_NOT_AUDITED, [])
    seen_ms = now.silent_ms.get(name, 0)
    return document.HostRow(
        name=name,
        state=record.state if seen_ms < HOST_SILENT_MS else "silent",
        address=record.address,
        url=record.url,
        last_seen_ms=seen_ms,
        tuning=TUNING_NOT_AUDITED,
        instances=[instance.id for instance in record.instances],
    )


def _service(
    spec: ServiceSpec, view: Site, observed: Mapping[str, InstanceStatus], now: Now
) -> document.ServiceRow:
    slots = {slot.instance: slot for slot in spec.slots()}
    leader, epoch, remaining_ms = _leader(spec, view, now)
    instances = [_instance(slot, observed.get(slot.instance), view, now) for slot in slots.values()]
    # Desired ones first, in the order of their slots; then those of an earlier spec, still stopping.
    rest = [status for status in observed.values() if status.service == spec.name and status.id not in slots]
    instances += [
        _instance(Slot(status.id, status.service, status.host), status, view, now) for status in rest
    ]
    instances = [_with_role(row, leader) for row in instances]
    config_revision, rollout = config_status.of_service(view, spec.name)
    return document.ServiceRow(
        name=spec.name,
        daemon=spec.daemon,
        mode=str(spec.mode),
        desired=len(slots),
        running=sum(instance.state == "running" for instance in instances),
        leader=leader,
        epoch=epoch,
        lease_remaining_ms=remaining_ms,
        instances=instances,
        config_revision=config_revision,
        rollout=rollout,
    )


def _with_role(row: document.InstanceRow, leader: str | None) -> document.InstanceRow:
    """Only the group's leader is called so: one that was deposed may not know it yet."""
    if row.role != "leader" or row.id == leader:
        return row
    return msgspec.structs.replace(row, role="standby")


def _leader(spec: ServiceSpec, view: Site, now: Now) -> tuple[str | None, int | None, int | None]:
    if spec.mode is not Mode.ACTIVE_STANDBY:
        return None, None, None
    record = view.leaders.get(spec.name)
    if record is None:
        return None, 0, None
    remaining_ms = now.lease_remaining_ms.get(spec.name)
    if record.holder is None or (remaining_ms is not None and remaining_ms <= 0):
        return None, record.epoch, None
    return record.holder.instance, record.epoch, remaining_ms


def _instance(slot: Slot, status: InstanceStatus | None, view: Site, now: Now) -> document.InstanceRow:
    if status is None:
        return _unreported(slot, view)
    health, reason = status.health, status.reason
    registered = view.registrations.get(slot.instance)
    silent_ms = now.silent_ms.get(status.host, 0)
    if silent_ms >= HOST_SILENT_MS:
        # The agent itself is what Consul's check asks: one that is alive is believed before the check is due.
        fails = registered is not None and registered.health == "critical"
        health = "critical" if fails or health == "critical" else "warning"
        before = f"; before: {reason}" if reason else ""
        reason = f"agent of {status.host} silent for {silent_ms / 1000:.0f} s{before}"
    if registered is not None and registered.maintenance:
        health = "warning" if health == "passing" else health
        reason = f"in maintenance: {registered.maintenance}{f'; {reason}' if reason else ''}"
    return document.InstanceRow(
        id=slot.instance,
        host=slot.host,
        pid=status.pid,
        state=status.state,
        role=status.role,
        health=health,
        reason=reason,
        ready=status.ready,
        uptime_s=_uptime_s(status, view, silent_ms),
        restarts=status.restarts,
        cpus=list(status.cpus),
        sched=status.sched,
        endpoints=dict(status.endpoints),
        version=status.version,
        config_revision=status.config_revision,
        spec_revision=status.spec_revision,
        config_wanted=config_status.wanted(view, status.service, slot.instance),
        config_refused=status.config_refused,
        config_seen_ms=silent_ms,
        crashes=status.crashes,
        registry=registered.health if registered is not None else "",
        maintenance=registered.maintenance if registered is not None else "",
    )


def _uptime_s(status: InstanceStatus, view: Site, silent_ms: int) -> float | None:
    """By the clock of its own host, which stamped both its start and the record."""
    record = view.hosts.get(status.host)
    if record is None or status.started_ns is None or status.pid is None:
        return None
    return round(max(0, record.updated_ns - status.started_ns) / 1e9 + silent_ms / 1e3, 1)


def _unreported(slot: Slot, view: Site) -> document.InstanceRow:
    """An instance of which no agent says anything: at most it stands in the registry."""
    registered, known = view.registrations.get(slot.instance), view.hosts.get(slot.host)
    return document.InstanceRow(
        id=slot.instance,
        host=slot.host,
        pid=registered.process.pid if registered else None,
        state="stopped" if known else "unknown",
        role=None,
        health="critical",
        reason="not started yet" if known else f"no agent of {slot.host} reports",
        ready=False,
        uptime_s=None,
        restarts=0,
        cpus=[],
        sched="other",
        endpoints=dict(registered.endpoints) if registered else {},
        version=registered.version if registered else "",
        config_revision=0,
        config_wanted=config_status.wanted(view, slot.service, slot.instance),
        registry=registered.health if registered else "",
        maintenance=registered.maintenance if registered else "",
    )


def _alarms(view: Site, now: Now) -> list[document.AlarmState]:
    alarms = [alarm for record in view.hosts.values() for alarm in record.alarms]
    alarms += view.controller_alarms
    known = {(alarm.id, alarm.subject) for alarm in alarms}
    alarms += [alarm for alarm in now.alarms if (alarm.id, alarm.subject) not in known]
    switch = config_status.kill_switch(view, now.wall_ns)
    return ([switch] if switch is not None else []) + [
        document.AlarmState(alarm.id, alarm.severity, alarm.subject, alarm.text, look.iso(alarm.since_ns))
        for alarm in sorted(alarms, key=lambda alarm: (alarm.since_ns, alarm.id, alarm.subject))
    ]


# --- flow ---------------------------------------------------------------------------------------------------


def flow(
    instances: Iterable[InstanceStatus],
    ended_counters: Iterable[EndedCounters] = (),
    *,
    unheard: bool = False,
) -> document.Flow:
    """What goes through the trading floor: the counters and histograms of its daemons' processes merged, of
    those that run and of those before them. `unheard`: there are feeds beside these of which nothing is
    known.
    """
    running = list(instances)
    counted: list[InstanceStatus | EndedCounters] = [*running, *ended_counters]

    def count(name: str) -> int:
        return sum(each.counters.get(name, 0) for each in counted if each.daemon in FLOW_FROM[name])

    feeds = [each for each in running if each.daemon in FLOW_FROM["messages"]]
    rates = [each.rates["messages"] for each in feeds if "messages" in each.rates]
    return document.Flow(
        messages=count("messages"),
        # What one of them says nothing of has no sum.
        messages_per_s=round(sum(rates), 1) if feeds and not unheard and len(rates) == len(feeds) else None,
        lost=count("lost"),
        gaps=count("gaps"),
        orders=count("orders"),
        fills=count("fills"),
        rejects=count("rejects"),
        stale_token_refusals=sum(each.counters.get("stale_token_refusals", 0) for each in counted),
        tick_to_order_us=percentiles_us(each.histograms.get("tick_to_order", {}) for each in counted),
        order_to_ack_us=percentiles_us(each.histograms.get("order_to_ack", {}) for each in counted),
    )


def percentiles_us(histograms: Iterable[Mapping[int, int]]) -> document.Percentiles:
    merged = histogram.Histogram()
    for counts in histograms:
        merged.merge(counts)
    found = histogram.percentiles_ns(merged.counts, SHARES)
    return document.Percentiles(*(None if value is None else round(value / 1000, 1) for value in found))
