"""A site that changes when told, and discovery over it, without a store."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from controlplane import clock, model, registry
from controlplane.model import Mode, Process, ServiceSpec
from controlplane.model.records import LeaderRecord, Registration
from controlplane.registry import discovery
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.store import Entry, Keys, Snapshot

KEYS = Keys("lab")
OMSD = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))


def registration(n: int = 1, service: str = "bookd", pid: int = 10, **changed: Any) -> Registration:
    process = Process(f"{service}-alpha-{n}", "boot", pid, 100)
    made = Registration(service, process.instance, "alpha", process, {"x": "ipc://x"}, "10.0.0.1", 1, 1, "1")
    return dataclasses.replace(made, **changed)


class Site:
    """A site that changes when told, and discovery over it."""

    def __init__(self) -> None:
        self.clock = clock.FakeClock()
        self.noun, self.revision, self.held = nouns.Noun(KEYS), 0, dict[str, Entry]()
        self.view: SiteView | None = None
        self.asked: list[str] = []
        self.reports: list[tuple[str, Mapping[str, object]]] = []
        self._tell: list[tuple[Callable[[dict[str, set[str]]], None], tuple[str, ...]]] = []
        self.discovery = registry.Discovery(
            self,
            self.clock,
            report=lambda kind, fields: self.reports.append((kind, fields)),
            random=random.Random(1),
            ejection=discovery.EjectionSettings(failures=2, first_s=10),
        )

    # As a Follower.
    def tell(self, call: Callable[[dict[str, set[str]]], None], *kinds: str) -> None:
        self._tell.append((call, kinds))

    def age_s(self) -> float:
        return 1.5

    def put(self, *records: object, gone: tuple[str, ...] = ()) -> None:
        changed = set(gone)
        self.revision += 1
        for record in records:
            match record:
                case Registration():
                    key = KEYS.registration(record.service, record.instance)
                case ServiceSpec():
                    key = KEYS.spec(record.name)
                case LeaderRecord():
                    key = KEYS.leader("omsd")
            changed.add(key)
            self.held[key] = Entry(key, model.encode(record), self.revision)
        for key in gone:
            del self.held[key]
        changes = self.noun.take(Snapshot(self.revision, self.held, frozenset(changed)))
        self.view = nouns.view(KEYS, [self.noun])
        for call, kinds in self._tell:
            told = {kind: changes[kind] for kind in kinds if kind in changes}
            if told:
                call(told)

    def take_out(self, gone: Registration) -> None:
        self.put(gone=(KEYS.registration(gone.service, gone.instance),))

    def instances(self, service: str = "bookd") -> list[str]:
        return [each.instance for each in self.discovery.serving(service)]


def chosen(resolve: Callable[[str], registry.Serving | None], times: int = 12) -> Counter[str]:
    found = [resolve("bookd") for _ in range(times)]
    return Counter(each.instance for each in found if each is not None)
