"""The agent of one host: what it knows, and what it does when something changes. Composition and tasks are in
daemon.py.

Joins four parts that know nothing of each other: the supervisor (processes), the bus (what daemons say), the
keeper link (what the keeper must know) and the site's view (discovery.py). Everything here is memory; the
store is only read through the view and written by records.py, so an unreachable store changes nothing for
what runs: the last view is served, with its age and an alarm.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents import bus as buses
from agents import ended_counters, events, health, metrics, paths, peers, settings
from agents.keeper_process import KeeperLink
from agents.supervisor import runner
from agents.supervisor import supervisor as supervisors
from agents.supervisor.supervisor import Desired, Instance
from controlplane import clock
from controlplane.errors import InvalidInput
from controlplane.host import identity
from controlplane.host.system_clock import SystemClock
from controlplane.leadership import budget
from controlplane.model import Alarm, HostRecord, InstanceStatus, Mode, Process, records
from controlplane.site import document, status
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store.base import Health
from hftd.shm import pages
from hftd.wire import codec, control

VIEW_OLD_S = 5.0
"""A watch confirms itself more often than this; an older view means that the store does not answer."""

AUDIT_DAEMON = "auditd"
"""The one daemon that the agent knows by name: the head of its chain is copied into the store."""


class Agent:
    def __init__(
        self, given: settings.AgentSettings, follower: Follower, wall: clock.Clock | None = None
    ) -> None:
        self.given = given
        self.clock = wall or SystemClock()
        self.folders = paths.Paths(given.site, given.host, given.site_dir, given.run_dir, given.journal_dir)
        self.follower = follower
        self.events = events.Events(given.host, self.folders.host_dir / "events.jsonl", self.clock.wall_ns)
        self.supervisor = supervisors.Supervisor(
            self.folders,
            runner.ShimRunner(self.folders),
            report=self.report,
            changed=self.changed,
            released=self.released,
        )
        self.bus = buses.Bus(self.folders.bus, f"agent-{given.host}", self)
        self.ended_counters = ended_counters.Ledger()
        self.keeper: KeeperLink | None = None
        self.keeper_udp = ""
        self.keeper_undecodable = 0
        self.url = ""
        self.port = 0
        self.store_health = Health("", (), False, "", None, "not asked yet")
        self.shutdown = asyncio.Event()
        self.leaving = False
        """Its daemons are being stopped for good: the keeper hears it first, so that their deaths count as
        released."""
        self.record_due = asyncio.Event()
        self._leader_seen: dict[str, tuple[tuple[object, ...], int]] = {}
        self._specs_seen: Mapping[str, int] | None = None
        self._rows_told: dict[str, int] = {}
        self._alarms: dict[str, Alarm] = {}
        self._hello_saved: dict[str, tuple[object, ...]] = {}

    def __repr__(self) -> str:
        return (
            f"<Agent {self.given.site}/{self.given.host}: {len(self.supervisor.instances)} instances, "
            f"{self.keeper!r}>"
        )

    @property
    def site(self) -> SiteView | None:
        return self.follower.view

    # --- events and alarms ----------------------------------------------------------------------------------

    def report(self, kind: str, **fields: Any) -> None:
        """Record an event; a line of it goes into the agent's own log."""
        event = self.events.record(kind, fields)
        with contextlib.suppress(OSError):  # a full disk costs the line
            print(
                document.iso(event.n),
                kind,
                *(f"{key}={value!r}" for key, value in fields.items()),
                flush=True,
            )

    def alarm(self, id: str, severity: str, text: str) -> None:
        standing = self._alarms.get(id)
        since_ns = standing.since_ns if standing else self.clock.wall_ns()
        self._alarms[id] = Alarm(id, severity, f"agent-{self.given.host}", text, since_ns)
        if standing is None:
            self.report("alarm.raised", id=id, severity=severity, text=text)

    def look_at_age(self) -> None:
        """An old view is served, and said to be old."""
        age_s = self.follower.age_s()
        if age_s > VIEW_OLD_S:
            self.alarm(
                "store.silent",
                "critical",
                f"the store has not confirmed the view of the site for {age_s:.0f} s; what is shown is that "
                "old",
            )
        else:
            self.clear("store.silent")

    def clear(self, id: str) -> None:
        if self._alarms.pop(id, None) is not None:
            self.report("alarm.cleared", id=id)

    # --- what the supervisor tells --------------------------------------------------------------------------

    def changed(self) -> None:
        """An instance has another process or state: forget reports of dead processes, tell the keeper and the
        store.
        """
        for name in list(self.bus.reports):
            instance = self.supervisor.instances.get(name)
            report = self.bus.reports[name]
            if instance is None or instance.process != report.process:
                if report.status is not None:
                    self.ended_counters.take(report.daemon, report.status.counters, report.status.histograms)
                self.bus.forget(name)
        self.record_due.set()
        if self.keeper is not None:
            self.keeper.changed()

    def released(self, instance: Instance) -> bool:
        """Standbys first: a leader is restarted for a changed spec when another member has it already and may
        take the lead.
        """
        desired, site = instance.desired, self.site
        if desired is None or site is None or desired.spec.mode is not Mode.ACTIVE_STANDBY:
            return True
        leader = site.leaders.get(desired.spec.name)
        if leader is None or leader.holder != instance.process:
            return True
        others = [slot.instance for slot in desired.spec.slots() if slot.instance != instance.id]
        if not others:
            return True
        observed = {
            found.id: found
            for record in site.hosts.values()
            for found in record.instances
            if found.id in others
        }
        electable = site.electable.get(desired.spec.name)
        can_lead = {process.instance for process in electable.processes} if electable else set()
        up_to_date = [
            found
            for found in observed.values()
            if found.ready and found.config_revision >= desired.config_revision
        ]
        return len(up_to_date) == len(others) and bool(can_lead & set(others))

    def adopt(self) -> None:
        """Take over what runs, and what its daemons had said, so that nobody is taken out of discovery for a
        second.
        """
        for instance in self.supervisor.adopt():
            assert instance.process is not None
            saved = _read_saved(self._saved_path(instance.id))
            if saved is None or saved.process != instance.process:
                continue
            said = control.Status(
                codec.VERSION, 0, 0, instance.id, None, saved.ready, saved.reason, "", 0, {}, {}, {}, []
            )
            report = buses.Reported(
                saved.process, saved.daemon, saved.version, saved.endpoints, said, time.monotonic()
            )
            self.bus.reports[instance.id] = report
            if self.supervisor.hello(saved.process) is not None:
                self.supervisor.ready(instance, saved.ready)

    # --- what the daemons tell ------------------------------------------------------------------------------

    def believes(self, process: Process) -> int | None:
        instance = self.supervisor.hello(process)
        return None if instance is None else health.revision_of(instance)

    def heard(self, report: buses.Reported, message: control.FromDaemon) -> None:
        name = report.process.instance
        instance = self.supervisor.instances.get(name)
        if instance is None or instance.process != report.process:
            return
        match message:
            case control.Event(kind="host.left_out"):
                self.supervisor.left_out(str(message.fields.get("text", "")))
            case control.Event():
                self.report(
                    message.kind,
                    instance=name,
                    **{
                        key: value for key, value in message.fields.items() if key not in ("instance", "kind")
                    },
                )
            case control.Status():
                self.supervisor.ready(instance, message.ready)
        self._save(report)
        self.tell_peers(name)

    def _save(self, report: buses.Reported) -> None:
        """Keep for the next agent what discovery rests on; a change is news for keeper and store too."""
        status_said = report.status
        ready, reason = (status_said.ready, status_said.reason) if status_said else (False, "")
        now = (report.process, tuple(sorted(report.endpoints.items())), ready)
        name = report.process.instance
        if self._hello_saved.get(name) == now:
            return
        self._hello_saved[name] = now
        saved = Saved(report.process, report.daemon, report.version, report.endpoints, ready, reason)
        path = self._saved_path(name)
        with contextlib.suppress(OSError):  # a full run folder costs only the next agent's first second
            fresh = path.with_name(f".{path.name}")
            fresh.write_bytes(msgspec.json.encode(saved))
            fresh.rename(path)
        self.changed()

    def _saved_path(self, instance: str) -> Path:
        return self.folders.run_dir / f"{instance}.hello.json"

    # --- what the store tells -------------------------------------------------------------------------------

    def site_changed(self) -> None:
        """The view is a new one."""
        site = self.site
        if site is None:
            return
        now_boot_ns = self.clock.boot_ns()
        for service, leader in site.leaders.items():
            seen = (leader.nonce, leader.epoch, leader.holder)
            if self._leader_seen.get(service, (None, 0))[0] != seen:
                self._leader_seen[service] = (seen, now_boot_ns)
        if (
            site.spec_revisions != self._specs_seen
        ):  # renewals change the view ten times a second, specs hardly ever
            self._specs_seen = site.spec_revisions
            self.supervisor.want(
                [Desired(spec, site.spec_revisions.get(name, 1)) for name, spec in site.specs.items()]
            )
            if self.keeper is not None:
                self.keeper.changed()
        for name in self.bus.reports:
            self.tell_peers(name)
        self._tell_history(site)
        if site.undecodable:
            self.alarm(
                "store.undecodable",
                "warning",
                f"records that do not decode: {', '.join(sorted(site.undecodable)[:5])}",
            )
        else:
            self.clear("store.undecodable")

    def tell_peers(self, name: str) -> None:
        site, instance = self.site, self.supervisor.instances.get(name)
        if site is None or instance is None or instance.desired is None:
            return
        for service in instance.desired.spec.uses:
            spec = site.specs.get(service)
            self.bus.peers(name, service, spec.daemon if spec else "", peers.peers_of(site, service))

    def audits(self, instance: Instance) -> bool:
        return instance.desired is not None and instance.desired.spec.daemon == AUDIT_DAEMON

    def _tell_history(self, site: SiteView) -> None:
        """An event for each finished change of leader, told by the host that has the new leader."""
        for service, rows in site.history.items():
            told = self._rows_told.get(service)
            finished = [row for row in rows if row.active_ns is not None]
            self._rows_told[service] = max((row.epoch for row in finished), default=told or 0)
            if told is None:
                continue  # the past, as found at the start
            for row in finished:
                if row.epoch > told and self._is_mine(site, service, row):
                    took_ms = round(((row.active_ns or 0) - row.started_ns) / 1e6, 1)
                    self.report(
                        "leader.changed",
                        service=service,
                        epoch=row.epoch,
                        took_ms=took_ms,
                        cause=row.cause,
                        actor=row.actor,
                        reason=row.reason,
                        **{"from": row.from_instance, "to": row.to_instance},
                    )

    def _is_mine(self, site: SiteView, service: str, row: records.HistoryRow) -> bool:
        spec = site.specs.get(service)
        return spec is not None and any(
            slot.instance == row.to_instance and slot.host == self.given.host for slot in spec.slots()
        )

    # --- the keeper -----------------------------------------------------------------------------------------

    def keeper_table(self) -> dict[str, Any]:
        rows = [
            peers.keeper_row(
                instance, self.bus.reports.get(name), self.folders, self.given.http_address, self.port
            )
            for name, instance in sorted(self.supervisor.instances.items())
        ]
        return {
            "instances": [row for row in rows if row is not None],
            "profile": "default",
            "leaving": self.leaving,
        }

    def keeper_table_known(self) -> bool:
        """Before the specs are seen the table would be short, and a short table takes instances out of
        discovery.
        """
        return self.site is not None

    def keeper_heard(self, message: dict[str, Any]) -> None:
        match message:
            case {"hello": {"udp": str(udp)}}:
                self.keeper_udp = udp
                self.record_due.set()
            case {"event": {"kind": str(kind)}}:
                self.report(
                    kind, **{str(key): value for key, value in message["event"].items() if key != "kind"}
                )
            case {"refused": str(why)}:
                self.alarm("keeper.refused", "critical", f"the keeper does not take the table: {why}")
            case {"groups": _}:
                self.clear("keeper.refused")
                self.keeper_undecodable = int(message.get("undecodable", 0))

    # --- answers --------------------------------------------------------------------------------------------

    def alive_word(self, instance: str) -> pages.Alive | None:
        try:
            with pages.HeartbeatPage(self.folders.alive(instance)) as alive:
                return alive.read()
        except (OSError, ValueError, InvalidInput):
            return None

    def lease_word(self, instance: str) -> pages.Lease | None:
        try:
            with pages.LeasePage(self.folders.lease(instance)) as lease:
                return lease.read()
        except (OSError, ValueError, InvalidInput):
            return None

    def statuses(self) -> list[InstanceStatus]:
        return [self.observe(instance) for _, instance in sorted(self.supervisor.instances.items())]

    def observe(self, instance: Instance) -> InstanceStatus:
        return health.observe(
            instance,
            self.bus.reports.get(instance.id),
            self.alive_word(instance.id),
            time.monotonic(),
            self.clock.wall_ns(),
        )

    def alarms(self) -> tuple[Alarm, ...]:
        of_daemons = [alarm for report in self.bus.reports.values() for alarm in health.alarms_of(report)]
        return (*of_daemons, *self._alarms.values())

    def host_record(self) -> HostRecord:
        return HostRecord(
            host=self.given.host,
            address=self.given.http_address,
            url=self.url,
            keeper=self.keeper_udp,
            boot_id=identity.boot_id(),
            updated_ns=self.clock.wall_ns(),
            instances=tuple(self.statuses()),
            alarms=self.alarms(),
            ended_counters=self.ended_counters.all(),
        )

    def lease_remaining_ms(self) -> dict[str, int]:
        """Of each led group: by the word where the leader is here, else by when its record was last seen to
        change (R4's own clock).
        """
        site, now_ns, found = self.site, self.clock.boot_ns(), {}
        for service, leader in (site.leaders if site else {}).items():
            if leader.holder is None:
                continue
            instance = self.supervisor.instances.get(leader.holder.instance)
            here = self.lease_word(leader.holder.instance) if instance is not None else None
            if here is not None and here.process == leader.holder:
                until_ns = here.valid_until_ns
            else:
                until_ns = self._leader_seen.get(service, (None, now_ns))[1] + int(
                    budget.DEFAULT.lease_s * 1e9
                )
            found[service] = max(0, until_ns - now_ns) // 1_000_000
        return found

    def site_status(self) -> document.Status | None:
        """`hftctl status -o json`; None until the site has been seen."""
        site = self.site
        if site is None:
            return None
        here = self.host_record()  # fresher than the store's copy of it
        now = status.Now(self.clock.wall_ns(), self.store_health, self.lease_remaining_ms(), here.alarms)
        return status.build(site.with_host(here), now)

    def own_metrics(self) -> metrics.Own:
        return metrics.Own(
            self.given.host,
            self.store_health.healthy,
            self.follower.age_s(),
            self.bus.undecodable,
            self.bus.disbelieved,
            self.events.lines_lost,
            self.keeper_undecodable,
        )

    def gauges(self) -> dict[str, dict[str, float]]:
        return {name: report.status.gauges for name, report in self.bus.reports.items() if report.status}


class Saved(msgspec.Struct, frozen=True):
    """`<run>/<instance>.hello.json`."""

    process: Process
    daemon: str
    version: str
    endpoints: dict[str, str]
    ready: bool
    reason: str


def _read_saved(path: Path) -> Saved | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Saved)
    except (OSError, msgspec.DecodeError):
        return None
