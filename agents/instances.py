"""The instances of this host as the agent knows them: what the supervisor runs, joined with what each daemon
says.

One noun for all who ask: `observe` gives what status, checks and metrics show of an instance, `changed` calls
whoever must hear that an instance has another process, state or registration (the keeper and the host
record). It believes only the process that the supervisor runs under a name. Everything here is memory and the
shared pages; the store is not asked. How an instance is judged: health.py. Who runs it: supervisor/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agents import health, hello_files
from agents.alarm_events import AlarmEvents
from agents.bus import Bus, Reported
from agents.checks import Board
from agents.ended_counters import Ledger
from agents.hello_files import HelloFiles
from agents.paths import Paths
from agents.supervisor.supervisor import Instance, Supervisor
from controlplane.errors import InvalidInput
from controlplane.health import Finding
from controlplane.host import identity
from controlplane.model import Phase, Process, Token
from controlplane.model.observed import Alarm, EndedCounters, InstanceStatus
from hftd.shm import pages
from hftd.wire import codec, control


class Instances:
    """Also the bus's listener (bus.Host)."""

    def __init__(
        self,
        paths: Paths,
        *,
        report: Callable[..., None],
        changed: Callable[[], None],
        wall_ns: Callable[[], int],
        alarm_events: AlarmEvents,
        board: Board,
    ) -> None:
        """`changed` is called after each change; `report(kind, **fields)` records an event of the host;
        `board` has the checks.
        """
        self._paths, self._report, self._changed, self._wall_ns = paths, report, changed, wall_ns
        self._hellos = HelloFiles(paths.run_dir)
        self._ended = Ledger()
        self._alarm_events = alarm_events
        self.board = board
        self._supervisor: Supervisor | None = None
        self._bus: Bus | None = None
        self.on_heard: Callable[[str], None] = lambda name: None
        """Called with the instance after each message of it: it may have to be told its peers."""
        self.keeper_trouble: Callable[[], str] = lambda: ""
        """Why no lease is renewed on this host; empty: they are."""

    def join(self, supervisor: Supervisor, daemons: Bus) -> None:
        """The two call this object, so it exists before them."""
        self._supervisor, self._bus = supervisor, daemons

    @property
    def supervisor(self) -> Supervisor:
        assert self._supervisor is not None, "joined before anything is asked"
        return self._supervisor

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "joined before anything is asked"
        return self._bus

    def __len__(self) -> int:
        return len(self.supervisor.instances)

    def __iter__(self) -> Iterator[Instance]:
        """In order of instance id."""
        return iter([instance for _, instance in sorted(self.supervisor.instances.items())])

    def find(self, name: str) -> Instance | None:
        return self.supervisor.instances.get(name)

    def reported(self) -> list[str]:
        """Instances whose present process has said hello."""
        return list(self.bus.reports)

    def report_of(self, name: str) -> Reported | None:
        return self.bus.reports.get(name)

    # --- what the supervisor tells --------------------------------------------------------------------------

    def process_changed(self) -> None:
        """An instance has another process or state: forget the reports of dead processes, then tell the
        others.
        """
        for name in self.reported():
            instance, report = self.find(name), self.bus.reports[name]
            if instance is None or instance.process != report.process:
                if report.status is not None:
                    self._ended.take(report.daemon, report.status.counters, report.status.histograms)
                self.bus.forget(name)
                self._alarm_events.ended(name)
        self._changed()

    def adopt(self) -> None:
        """Take over what runs, and what its daemons had said: no instance leaves discovery while its agent is
        new.
        """
        for instance in self.supervisor.adopt():
            saved = self._hellos.read(instance.id)
            if saved is None or saved.process != instance.process:
                continue
            said = control.Status(
                *codec.no_head(instance.id), saved.ready, saved.reason, "", 0, {}, {}, {}, []
            )
            link = hello_files.link_of(saved)
            self.bus.adopt(
                Reported(
                    saved.process, saved.daemon, saved.version, saved.endpoints, link, said, time.monotonic()
                )
            )
            if self.supervisor.hello(saved.process) is not None:
                self.supervisor.ready(instance, saved.ready)

    # --- what the daemons tell ------------------------------------------------------------------------------

    def believes(self, process: Process) -> int | None:
        instance = self.supervisor.hello(process)
        return None if instance is None else health.config_of(instance, None)

    def heard(self, report: Reported, message: control.FromDaemon) -> None:
        name = report.process.instance
        instance = self.find(name)
        if instance is None or instance.process != report.process:
            return
        match message:
            case control.Event(kind="host.left_out"):
                self.supervisor.left_out(str(message.fields.get("text", "")))
            case control.Event():
                fields = {k: v for k, v in message.fields.items() if k not in ("instance", "kind")}
                self._report(message.kind, instance=name, **fields)
            case control.Status():
                self.supervisor.ready(instance, message.ready)
                self._alarm_events.look(name, health.alarms_of(report), time.monotonic())
        if self._hellos.save(report):
            self.process_changed()
        self.on_heard(name)

    async def ask(self, name: str, what: str, args: dict[str, Any], timeout_s: float) -> control.Answer:
        """Ask a daemon of this host. Raises Retryable: it is not here, or did not answer in time."""
        return await self.bus.ask(name, what, args, timeout_s)

    async def reset_fence(
        self, name: str, store: Token, claimant: Process, admitted: int, timeout_s: float
    ) -> control.Answer:
        """Set a receiver's fence of that group to the store's token (bus.Bus). Raises Retryable."""
        return await self.bus.reset_fence(name, store, claimant, admitted, timeout_s)

    # --- what is said of them -------------------------------------------------------------------------------

    def statuses(self) -> list[InstanceStatus]:
        return [self._observe(instance) for instance in self]

    def observe(self, name: str) -> InstanceStatus | None:
        """None: no such instance on this host."""
        instance = self.find(name)
        return None if instance is None else self._observe(instance)

    def turns(self, name: str) -> bool:
        """Its process runs and its loop turns."""
        instance = self.find(name)
        if instance is None:
            return False
        age_s = identity.age_ns(instance.process) / 1e9 if instance.process else 0.0
        return health.turns(instance, self.report_of(name), time.monotonic(), age_s)

    def _observe(self, instance: Instance) -> InstanceStatus:
        report, heartbeat = self.report_of(instance.id), self.heartbeat_page(instance.id)
        keeper = self.keeper_trouble()
        age_ns = identity.age_ns(instance.process) if instance.process else 0
        now_mono_s, wall_ns = time.monotonic(), self._wall_ns()
        judged = self.board.judged
        return health.observe(instance, report, heartbeat, now_mono_s, wall_ns, keeper, age_ns, judged)

    def findings(self, name: str) -> tuple[Finding, Finding] | None:
        """What its checks `process` and `heartbeat` say now; None: no such instance on this host."""
        instance = self.find(name)
        if instance is None:
            return None
        age_ns = identity.age_ns(instance.process) if instance.process else 0
        page, report = self.heartbeat_page(name), self.report_of(name)
        return health.findings(instance, report, page, time.monotonic(), age_ns)

    def alarms(self) -> list[Alarm]:
        return [alarm for report in self.bus.reports.values() for alarm in health.alarms_of(report)]

    def ended_counters(self) -> tuple[EndedCounters, ...]:
        return self._ended.all()

    def gauges(self) -> Mapping[str, Mapping[str, float]]:
        """Of each instance: what its daemon says, and its checks."""
        found = {each.id: dict(self.board.gauges(each.id)) for each in self}
        for each in self:
            if each.desired is not None:
                found[each.id]["config_wanted"] = float(each.desired.config_wanted)
        for name, report in self.bus.reports.items():
            if report.status:
                found.setdefault(name, {}).update(report.status.gauges)
        return found

    def heartbeat_page(self, name: str) -> pages.Alive | str | None:
        """None: there is none yet. Text: why it is not believed."""
        try:
            with pages.HeartbeatPage(self._paths.alive(name)) as page:
                return page.believed(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        except FileNotFoundError:
            return None
        except (OSError, InvalidInput) as exc:
            return str(exc)

    def phases(self) -> dict[str, Phase]:
        """By instance, of those whose heartbeat page is believed."""
        found = {instance.id: self.heartbeat_page(instance.id) for instance in self}
        return {name: page.phase for name, page in found.items() if isinstance(page, pages.Alive)}

    def lease_page(self, name: str) -> pages.LeaseWord | None:
        """None: this host has no such instance, or it has no lease page."""
        try:
            with pages.LeasePage(self._paths.lease(name)) as page:
                return page.read()
        except (OSError, ValueError, InvalidInput):
            return None
