"""What one change in the store costs those that watch it: a leader's renewal, and a registration that is put
or comes and goes, as an agent's follower and a host's keeper take them.

Groups and instances grow; the cost must not: "flat" is within 1.5 times the smallest site. The back end's
part (the mailbox of a watch) is in it, the server and the network are not. Prints microseconds of CPU a
change (the least of some rounds: this machine has other things to do) and the ratio to the smallest site.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents.keeper import keeper as keepers
from agents.keeper import liveness, protocol, settings, shown, words
from agents.keeper import member as members
from agents.keeper.seen_tokens import SeenTokens
from controlplane import model, registry
from controlplane.host import identity
from controlplane.host.system_clock import SystemClock
from controlplane.model import Mode, ServiceSpec, records
from controlplane.model.observed import HostRecord
from controlplane.model.records import Registration
from controlplane.site import nouns
from controlplane.site.follower import Follower
from controlplane.store import Entry, Keys, Snapshot
from controlplane.store.latest import Latest
from controlplane.store.memory import MemoryStore
from hftd.shm import pages

GROUPS = (9, 50, 100)
INSTANCES = (10, 500, 5_000)
FLAT = 1.5
KEYS = Keys("bench")
INCARNATION = 1_700_000_000_000


@dataclass
class Site:
    groups: int
    instances: int

    def __post_init__(self) -> None:
        self.revision = itertools.count(2)
        self.me = identity.identify("service-000-alpha-1")
        assert self.me is not None
        self.of_service = [self.instances // self.groups] * self.groups
        for extra in range(self.instances % self.groups):
            self.of_service[extra] += 1

    def service(self, group: int) -> str:
        return f"service-{group:03d}"

    def registration(self, group: int, number: int, at: int = 0) -> Registration:
        service, instance = self.service(group), f"{self.service(group)}-alpha-{number}"
        assert self.me is not None
        endpoints = {"orders": f"ipc:///run/hft/bench/{instance}.orders"}
        return Registration(service, instance, "alpha", self.me, endpoints, "127.0.0.1", 0, at, "1")

    def leader(self, group: int, nonce: str) -> records.LeaderRecord:
        assert self.me is not None
        return records.LeaderRecord(self.me, INCARNATION, 1, self.me.instance, nonce)

    def put(self, key: str, value: object) -> Entry:
        encoded = value if isinstance(value, bytes) else model.encode(value)
        return Entry(key, encoded, next(self.revision))

    def entries(self) -> list[Entry]:
        found = [
            self.put(KEYS.incarnation, str(INCARNATION).encode()),
            self.put(KEYS.host("alpha"), HostRecord("alpha", "127.0.0.1", "", "127.0.0.1:9", "", 1)),
        ]
        for group, many in enumerate(self.of_service):
            service = self.service(group)
            spec = ServiceSpec(service, "omsd", Mode.ACTIVE_STANDBY, ("alpha",), max(1, many))
            found.append(self.put(KEYS.spec(service), spec))
            found.append(self.put(KEYS.leader(service), self.leader(group, "n")))
            found.append(self.put(KEYS.epoch(service), records.EpochRecord(INCARNATION, 1)))
            found += [
                self.put(
                    KEYS.registration(service, f"{service}-alpha-{number}"), self.registration(group, number)
                )
                for number in range(1, many + 1)
            ]
        return found


class Watches:
    """The mailboxes of some watches, and what takes from each of them."""

    def __init__(self, takers: dict[str, Callable[[Snapshot], object]], site: Site) -> None:
        self.boxes = {prefix: Latest() for prefix in takers}
        self.takers = takers
        held = site.entries()
        for prefix, box in self.boxes.items():
            entries = {entry.key: entry for entry in held if entry.key.startswith(prefix)}
            box.replace(Snapshot(next(site.revision), entries))
            self.deliver(prefix)

    def deliver(self, prefix: str) -> None:
        try:
            self.boxes[prefix].next().send(None)
        except StopIteration as delivered:
            self.takers[prefix](delivered.value)

    def change(self, *changed: Entry | str) -> None:
        for each in changed:
            key = each if isinstance(each, str) else each.key
            prefix = next(prefix for prefix in self.boxes if key.startswith(prefix))
            box = self.boxes[prefix]
            if isinstance(each, str):
                box.delete(each)
            else:
                box.put(each)
            box.touch(box.revision + 1)
            self.deliver(prefix)


def of_a_follower(site: Site, folder: Path) -> Watches:
    follower = Follower(MemoryStore(), KEYS)
    registry.Discovery(follower)  # as an agent has it: told of each change, asked by nobody

    def take(noun: nouns.Noun, snapshot: Snapshot) -> None:
        follower._tell(noun.take(snapshot))

    of = zip(nouns.watched(KEYS), follower._watches, strict=True)
    return Watches({prefix: partial(take, noun) for prefix, (_, noun) in of}, site)


def of_a_keeper(site: Site, folder: Path) -> Watches:
    """It keeps one member of the first group, which fences the second."""
    keeper = keepers.Keeper(
        MemoryStore(), KEYS, "alpha", settings.Settings(), SystemClock(), SeenTokens(folder / "keeper.json")
    )
    lease, alive = folder / "lease", folder / "alive"
    pages.create(lease, pages.LEASE_MAGIC)
    pages.create(alive, pages.ALIVE_MAGIC)
    assert site.me is not None
    entry = protocol.WantedProcess(
        site.me, site.service(0), Mode.ACTIVE_STANDBY, str(alive), str(lease), None, (site.service(1),)
    )
    heartbeat = liveness.Heartbeat(250_000_000)
    watched = type("Watched", (), {"runs": True, "close": lambda self: None})()
    kept = members.KeptProcess(entry, watched, words.Words(lease, alive), heartbeat)
    keeper.instances[site.me.instance] = kept
    keeper.members[site.me.instance] = members.Member(keeper, kept)
    takers = {prefix: partial(keeper.take, noun, prefix) for noun, prefix in shown.prefixes(KEYS).items()}
    return Watches(takers, site)


def changes(site: Site, watches: Watches) -> dict[str, Callable[[int], None]]:
    def renew(group: int, number: int) -> None:
        watches.change(site.put(KEYS.leader(site.service(group)), site.leader(group, str(number))))

    def register(number: int) -> None:
        registration = site.registration(0, 1, number)
        key = KEYS.registration(registration.service, registration.instance)
        watches.change(site.put(key, registration))

    def come_and_go(number: int) -> None:
        registration = site.registration(0, 90_000, number)
        key = KEYS.registration(registration.service, registration.instance)
        watches.change(site.put(key, registration), key)

    return {
        "own renewal": partial(renew, 0),
        "other's renewal": partial(renew, site.groups - 1),
        "registration": register,
        "comes and goes": come_and_go,
    }


def measure(times: int, rounds: int) -> dict[tuple[int, int], dict[str, float]]:
    """(groups, instances) -> who and what -> microseconds of CPU. The rounds go over all sites in turn, so
    that a busy moment of the machine does not fall on one of them alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = {
            (groups, instances): {
                f"{who}: {what}": change
                for who, watches_of in (("follower", of_a_follower), ("keeper", of_a_keeper))
                for what, change in changes(
                    site, watches_of(site, Path(tempfile.mkdtemp(dir=folder)))
                ).items()
            }
            for groups, instances in itertools.product(GROUPS, INSTANCES)
            for site in [Site(groups, instances)]
        }
        found = {at: dict.fromkeys(of, float("inf")) for at, of in made.items()}
        numbers = itertools.count()
        gc.freeze()
        for _ in range(rounds):
            for at, of in made.items():
                for what, change in of.items():
                    began_ns = time.process_time_ns()
                    for _ in range(times):
                        change(next(numbers))
                    took_us = (time.process_time_ns() - began_ns) / times / 1e3
                    found[at][what] = min(found[at][what], took_us)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    found = measure(given.times, given.rounds)
    smallest = found[GROUPS[0], INSTANCES[0]]
    worst = 0.0
    print("microseconds of CPU a change (ratio to the smallest site)")
    print("groups  instances", *(f"{name:>25}" for name in smallest))
    for (groups, instances), of in found.items():
        ratios = {what: us / smallest[what] for what, us in of.items()}
        worst = max(worst, *ratios.values())
        cells = (f"{us:>17.1f} ({ratios[what]:>4.2f})" for what, us in of.items())
        print(f"{groups:>6}  {instances:>9}", *(f"{cell:>25}" for cell in cells))
    print(f"worst ratio {worst:.2f}: {'flat' if worst <= FLAT else f'not flat, which is {FLAT} at most'}")


if __name__ == "__main__":
    main()
