"""The agent of one host, put together: each part decides one thing, and here is who tells whom.

The supervisor runs processes, the bus hears daemons, `Instances` joins the two, the keeper is told its table,
daemons are told their peers, the site's view is followed. The parts know each other only through what is
handed to them here. Tasks and the process around them are daemon.py's; answers over HTTP are http/.

An unreachable store changes nothing for what runs: the last view is served, with its age and an alarm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agents import (
    bus,
    checked,
    config_news,
    events,
    keeper_table,
    last_specs,
    metrics,
    paths,
    restart_order,
    settings,
    strangers,
    wanted_config,
)
from agents.alarm_events import AlarmEvents
from agents.alarms import Alarms
from agents.breaker_overrides import BreakerOverrides
from agents.checks import Board
from agents.group_tokens import GroupTokens
from agents.instances import Instances
from agents.keeper import protocol
from agents.keeper_process import KeeperProcess
from agents.leader_events import LeaderEvents
from agents.peers import PeerNews
from agents.rollout_events import RolloutEvents
from agents.site_answers import SiteAnswers
from agents.supervisor import runner
from agents.supervisor.supervisor import Desired, Supervisor
from controlplane import clock, registry
from controlplane.host.system_clock import SystemClock
from controlplane.site import anti_entropy, look
from controlplane.site.follower import Follower
from controlplane.site.nouns import Changes
from controlplane.site.view import SiteView
from controlplane.store import Health, Keys

PEER_KINDS = ("specs", "services", "led")
"""What a peer is made of: who is registered, who leads, and of a spec the daemon and the mode."""

SITE_NEWS = (*PEER_KINDS, "config", "plain", "epoch", "history", "ops", "overrides", "undecodable")
"""What an agent acts on. That leaders renew, hosts report and operations go on is only shown when asked."""


class Agent:
    def __init__(
        self, given: settings.AgentSettings, follower: Follower, wall: clock.Clock | None = None
    ) -> None:
        self.given = given
        self.clock = wall or SystemClock()
        self.paths = paths.Paths(given.site, given.host, given.site_dir, given.run_dir, given.journal_dir)
        self.follower = follower
        self.events = events.Events(given.host, self.paths.host_dir / "events.jsonl", self.clock.wall_ns)
        self.report = self.events.report
        self.alarms = Alarms(f"agent-{given.host}", self.report, self.clock)
        self.board = Board(
            given.check_dir or given.site_dir / "checks",
            report=self.report,
            changed=self._health_changed,
            wall_ns=self.clock.wall_ns,
            known=lambda name: self.instances.findings(name),
            service=lambda name: self.answers.health_of_service(name),
            owner=f"{given.host} of {given.site_dir}",
        )
        self.instances = Instances(
            self.paths,
            report=self.report,
            changed=self.changed,
            wall_ns=self.clock.wall_ns,
            alarm_events=AlarmEvents(self.report, self.events.after(0, events.RING_MAX)),
            board=self.board,
        )
        self.wanted_config = wanted_config.WantedConfig(
            self.paths.configuration,
            given.host,
            self.report,
            lambda instance: wanted_config.rendered(self.paths.config(instance)),
            expected=self.paths.specs.exists(),
        )
        self.supervisor = Supervisor(
            self.paths,
            runner.ShimRunner(self.paths, report=self.report),
            report=self.report,
            changed=self.instances.process_changed,
            released=lambda instance: restart_order.may_restart(instance, self.site),
            reachable=self.paths.http_socket.exists,
            flags=self.wanted_config.flags,
        )
        self.bus = bus.Bus(self.paths.bus, f"agent-{given.host}", self.instances)
        self.instances.join(self.supervisor, self.bus)
        self.discovery = registry.Discovery(
            follower,
            self.clock,
            view=lambda: self.site,
            report=lambda kind, fields: self.report(kind, **fields),
        )
        self.peers = PeerNews(self.bus, self.instances.find, lambda: self.site, self.discovery.peers)
        self.anti_entropy: anti_entropy.AntiEntropy | None = None
        self.tokens = GroupTokens(self.bus, lambda: self.site)
        self.overrides = BreakerOverrides(self.paths.breakers, self.bus, self.clock, self.report)
        self.config_news = config_news.ConfigNews(
            self.bus, self.instances.find, self.wanted_config.told_flags
        )
        self.instances.on_heard = self._heard
        self.instances.keeper_trouble = lambda: self.keeper.trouble if self.keeper else ""
        self.leader_events = LeaderEvents(given.host, self.report)
        self.rollout_events = RolloutEvents(given.host, self.report)
        self.answers: SiteAnswers = SiteAnswers(self)
        self.keeper: KeeperProcess | None = None
        self.keeper_udp = ""
        """Where the keeper answers pings of its peers; empty until it has said so."""
        self.keeper_undecodable = 0
        self.keeper_unauthenticated: Mapping[str, int] = {}
        self.strangers = strangers.Strangers()
        self.url = ""
        self.port = 0
        self.store_health = Health("", (), False, "", None, "not asked yet")
        self.shutdown = asyncio.Event()
        self.leaving = False
        """Its daemons are being stopped for good. The keeper hears it first, so that their deaths count as
        released."""
        self.record_due = asyncio.Event()
        """The host record is to be written soon: something in it has changed."""
        self.acknowledged = asyncio.Event()
        """It is to be written at once: a daemon has said what it made of changed settings."""
        self.last_specs = last_specs.LastSpecs(self.paths.specs, given.host)
        self._specs_from_disk = False
        self._config_trouble = ""
        self.alarm(look.KILL_SWITCH_UNKNOWN, self.wanted_config.switch_trouble(), "critical")
        troubles = (self.last_specs.trouble, self.overrides.trouble, self.wanted_config.trouble)
        for trouble in filter(None, troubles):
            self.report("state.damaged", text=trouble)
        if self.events.damaged:
            text = f"{self.paths.host_dir / 'events.jsonl'}: {self.events.damaged} lines are no events"
            self.report("state.damaged", text=f"{text}; left out, the others are kept")

    def __repr__(self) -> str:
        return (
            f"<Agent {self.given.site}/{self.given.host}: {len(self.instances)} instances, {self.keeper!r}>"
        )

    @property
    def site(self) -> SiteView | None:
        """As the store has it, with the last good spec of a service where the store's cannot be used; None
        until the store has been read once.
        """
        view = self.follower.view
        return view if view is None else self.last_specs.over(view)

    def changed(self) -> None:
        """Something of this host's instances that keeper and store have to hear."""
        self.board.want(checked.subjects(self.instances, self.given.http_address))
        self.alarm("config.refused", self.config_news.refused())
        self._health_changed()

    def _health_changed(self) -> None:
        self.record_due.set()
        if self.keeper is not None:
            self.keeper.changed()

    def _heard(self, name: str) -> None:
        self.config_news.tell(name)
        if self.config_news.acknowledged(name):
            self.record_due.set()
            self.acknowledged.set()
            self.alarm("config.refused", self.config_news.refused())
        self.tokens.tell(name)
        self.overrides.tell(name)
        self.peers.tell(name)

    def site_changed(self, changes: Changes | None = None) -> None:
        """There is a new view of the site, in which this has changed (SITE_NEWS); None: all may have."""
        view = self.follower.view
        if view is None:
            return
        if changes is None or "specs" in changes or "undecodable" in changes:
            self._want(self.last_specs.take(view), view)
            self.discovery.forget()  # what is in force over the view gives roles
        elif "config" in changes or "plain" in changes:
            self._configure(self.last_specs.decision, view)
        site = self.last_specs.over(view)
        if changes is None or "epoch" in changes:
            self.tokens.tell_all()
        if changes is None or "overrides" in changes:
            keys = Keys(self.given.site)
            self.overrides.take(view.overrides, lambda name: keys.breaker_override(name) in view.undecodable)
        if changes is None:
            self.peers.tell_all()
        else:
            self.peers.tell_users(set().union(*(changes.get(kind, ()) for kind in PEER_KINDS)))
        self.leader_events.look(site, site.history if changes is None else changes.get("history", ()))
        if changes is None or "ops" in changes:
            self.rollout_events.look(site)
        lines = []
        if view.undecodable:
            lines.append(f"records that do not decode: {', '.join(sorted(view.undecodable)[:5])}")
        if said := self.last_specs.decision.sentence():
            lines.append(f"{said} (hftctl apply writes specs again)")
        if lines:
            self.alarms.raise_("store.undecodable", "warning", "; ".join(lines))
        else:
            self.alarms.clear("store.undecodable")

    def run_from_disk(self) -> None:
        """The store has not answered since this agent started: what its disk says is in force."""
        decision = self.last_specs.decision
        if self.site is None and not self._specs_from_disk and decision.in_force:
            self._specs_from_disk = True
            self.report("specs.from_disk", services=sorted(decision.in_force))
            self._want(decision, None)

    def _want(self, decision: last_specs.SpecsInForce, view: SiteView | None) -> None:
        self._configure(decision, view)
        self.board.want(checked.subjects(self.instances, self.given.http_address))
        if self.keeper is not None:
            self.keeper.changed()

    def _configure(self, decision: last_specs.SpecsInForce, view: SiteView | None) -> None:
        """Hand on what each instance is to run, settings first to those that run and take them as they are;
        None: as the disk has it.
        """
        good = decision.in_force.items()
        wanted = self.wanted_config
        wanted.take(view, [(each.spec, service not in decision.refused) for service, each in good])
        self.supervisor.want(
            {
                slot: Desired(each.spec, each.spec_revision, found.config, found.wanted, found.why)
                for _, each in good
                for slot in each.spec.slots()
                if slot.host == self.given.host and (found := wanted.of(each.spec, slot))
            }
        )
        self.config_news.tell_all()
        self.alarm(look.KILL_SWITCH_UNKNOWN, wanted.switch_trouble(), "critical")
        if not wanted.sentence():
            self.alarm("config.last_good", "")

    def look_at_configuration(self) -> None:
        """Once a second. A service that comes or goes is seen in the one noun before the other: what is wrong
        at one look alone is no alarm.
        """
        stood, self._config_trouble = self._config_trouble, self.wanted_config.sentence()
        if stood and self._config_trouble:
            self.alarm("config.last_good", self._config_trouble)

    # --- the keeper -----------------------------------------------------------------------------------------

    def keeper_table(self) -> protocol.Table | None:
        """None until the specs are known: the table would be short, and would take instances out of
        discovery.
        """
        if self.site is None and not self._specs_from_disk:
            return None
        known = [(instance, self.instances.report_of(instance.id)) for instance in self.instances]
        address, port = self.given.http_address, self.port
        return keeper_table.table(
            known,
            self.paths,
            address=address,
            port=port,
            profile=self.follower.profile,
            leaving=self.leaving,
            health=lambda name: None if self.board.withdrawn(name) else self.board.health_of(name),
        )

    def keeper_heard(self, message: protocol.FromKeeper) -> None:
        if message.hello is not None:
            self.keeper_udp = message.hello.udp
            self.record_due.set()
            self.alarm("keeper.pings", message.hello.pings_trouble)
            self.alarm("keeper.tokens_rebuilt", message.hello.tokens_trouble)
            self.alarm("registry.degraded", message.hello.registry_trouble)
        if message.event is not None:
            said = message.event
            self.report(said.kind, service=said.service, instance=said.instance, text=said.text)
        if message.refused:
            text = f"the keeper does not take the table: {message.refused}"
            self.alarms.raise_("keeper.refused", "critical", text)
        if message.groups is not None:
            self.alarms.clear("keeper.refused")
            self.keeper_undecodable = message.undecodable
        if message.unauthenticated is not None:
            self.alarm("keeper.pings_forged", self.strangers.look(message.unauthenticated.get("forged", 0)))
            self.keeper_unauthenticated = message.unauthenticated

    def keeper_troubled(self, trouble: str) -> None:
        """The keeper has fallen silent or died, or, with an empty text, one works again."""
        if trouble:
            self.alarms.raise_("keeper.down", "critical", trouble)
        else:
            self.alarms.clear("keeper.down")
        self.record_due.set()

    def alarm(self, id: str, trouble: str, severity: str = "warning") -> None:
        """One that stands while there is trouble."""
        if trouble:
            self.alarms.raise_(id, severity, trouble)
        else:
            self.alarms.clear(id)

    # --- what it says of itself -----------------------------------------------------------------------------

    def own_metrics(self) -> metrics.Own:
        return metrics.Own(
            self.given.host,
            self.store_health.healthy,
            self.follower.age_s(),
            self.bus.undecodable + (self.keeper.undecodable if self.keeper is not None else 0),
            self.bus.disbelieved,
            self.events.lines_lost,
            self.keeper_undecodable,
            self.keeper_unauthenticated,
            self.store_health,
            self.anti_entropy.compared if self.anti_entropy else 0,
            dict(self.anti_entropy.repaired) if self.anti_entropy else {},
        )
