"""What a change of the site makes an agent do: work for those whom it concerns, and for nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agents.leader_events import LeaderEvents
from agents.peers import PeerNews
from agents.rollout_events import RolloutEvents
from controlplane import model
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.records import Registration
from controlplane.site import nouns
from controlplane.store import Entry, Keys, Snapshot

KEYS = Keys("lab")
LEADER = Process("omsd-alpha-1", "boot", 10, 100)
STRATEGY = ServiceSpec("strategy", "strategyd", Mode.ACTIVE_STANDBY, ("alpha",), uses=("riskd",))
RISK = ServiceSpec("riskd", "riskd", Mode.ACTIVE_STANDBY, ("alpha",), uses=("omsd",))
OMS = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))


@dataclass
class Desired:
    spec: ServiceSpec


@dataclass
class Instance:
    desired: Desired


@dataclass
class Bus:
    reports: dict[str, object]
    told: list[tuple[str, str]] = field(default_factory=list)

    def peers(self, name: str, service: str, daemon: str, peers: object) -> None:
        self.told.append((name, service))


class Story:
    def __init__(self) -> None:
        self.noun, self.revision = nouns.Noun(KEYS), 0
        self.held: dict[str, Entry] = {}
        self.events: list[dict[str, Any]] = []
        instances = {f"{spec.name}-alpha-1": Instance(Desired(spec)) for spec in (STRATEGY, RISK, OMS)}
        self.bus = Bus(dict.fromkeys(instances))
        find: Any = instances.get
        bus: Any = self.bus
        self.news = PeerNews(bus, find, lambda: nouns.view(KEYS, [self.noun]), lambda service: ())
        self.leader_events = LeaderEvents("alpha", lambda kind, **fields: self.events.append(fields))

    def put(self, key: str, record: object) -> set[str]:
        """The services that a daemon may have to hear of."""
        self.revision += 1
        self.held[key] = Entry(key, model.encode(record), self.revision)
        changes = self.noun.take(Snapshot(self.revision, self.held, frozenset({key})))
        services = set().union(*(changes.get(kind, ()) for kind in ("specs", "services", "led")))
        self.bus.told.clear()
        self.news.tell_users(services)
        self.leader_events.look(nouns.view(KEYS, [self.noun]), changes.get("history", ()))
        return services


def leader(epoch: int, nonce: str) -> records.LeaderRecord:
    return records.LeaderRecord(LEADER, 5, epoch, LEADER.instance, nonce)


def test_only_those_who_use_a_service_hear_of_its_peers() -> None:
    story = Story()
    registration = Registration("omsd", LEADER.instance, "alpha", LEADER, {}, "", 0, 1, "1")
    story.put(KEYS.registration("omsd", LEADER.instance), registration)
    assert ("riskd-alpha-1", "omsd") in story.bus.told
    assert not any(name.startswith("strategy") for name, _ in story.bus.told)


def test_a_change_of_leader_is_told_and_a_renewal_is_not() -> None:
    story = Story()
    story.put(KEYS.leader("omsd"), leader(1, "a"))
    assert ("riskd-alpha-1", "omsd") in story.bus.told
    assert story.put(KEYS.leader("omsd"), leader(1, "b")) == set() and story.bus.told == []
    story.put(KEYS.leader("omsd"), leader(2, "c"))
    assert ("riskd-alpha-1", "omsd") in story.bus.told


def test_a_daemon_hears_its_peers_anew_when_its_own_spec_changes() -> None:
    story = Story()
    story.put(KEYS.spec("strategy"), STRATEGY)
    assert story.bus.told == [("strategy-alpha-1", "riskd")]


def test_a_finished_change_of_leader_is_one_event_of_the_host_that_has_the_leader() -> None:
    story = Story()
    story.put(KEYS.spec("omsd"), OMS)
    row = records.HistoryRow(1, None, LEADER.instance, "first", "system", "", None, 1_000_000, 2, None)
    story.put(KEYS.history_row("omsd", 1), row)
    assert story.events == [], "begun, and not finished"
    done = records.HistoryRow(1, None, LEADER.instance, "first", "system", "", None, 1_000_000, 2, 3_000_000)
    story.put(KEYS.history_row("omsd", 1), done)
    story.put(KEYS.history_row("omsd", 1), done)
    assert [(event["service"], event["epoch"], event["took_ms"]) for event in story.events] == [
        ("omsd", 1, 2.0)
    ]


def test_a_rollout_is_told_when_it_begins_and_ends_by_the_host_of_the_first_instance() -> None:
    noun, held = nouns.Noun(KEYS), {KEYS.spec("omsd"): Entry(KEYS.spec("omsd"), model.encode(OMS), 1)}
    said: dict[str, list[tuple[str, str]]] = {host: [] for host in (OMS.hosts[0], "elsewhere")}
    told = [
        RolloutEvents(host, lambda kind, host=host, **fields: said[host].append((kind, fields["text"])))
        for host in said
    ]
    states = (("op-0", "failed"), ("op-1", "running"), ("op-1", "running"), ("op-1", "failed"))
    for revision, (id, state) in enumerate(states, 2):
        record = records.OperationRecord(id, "config-rollout", "omsd", state, "ann", "why", 0, outcome=state)
        held[KEYS.operation(id)] = Entry(KEYS.operation(id), model.encode(record), revision)
        noun.take(Snapshot(revision, held))
        for each in told:
            each.look(nouns.view(KEYS, [noun]))
    assert said[OMS.hosts[0]] == [("rollout.began", "running"), ("rollout.reverted", "failed")]
    assert said["elsewhere"] == []
