"""How one of those that serve is chosen. Pure: randomness is an argument.

A balancing (`RoundRobin()`, `LeastLoaded()`, ...) makes a chooser for each service and each time that the
service changes; the chooser has all worked out, so that a choice costs next to nothing. The choosers are
used through cache.Balanced.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.errors import InvalidInput, InvalidSettings
from controlplane.model import Process
from controlplane.registry.discovery.serving import Serving

KEYS_MAX = 4096
"""Keys whose choice a sticky chooser remembers; one more, and it begins to remember anew."""
PARTITIONS = 64
"""Several times as many as instances, so that each has nearly the same share."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of one service, in order of instance."""

    usable: tuple[Serving, ...]
    members: tuple[Serving, ...]
    """With those that are left out for a time."""
    random: random.Random
    before: Chooser | None = None
    """The chooser until now."""


class Balancing(Protocol):
    def chooser(self, candidates: Candidates) -> Chooser: ...


class Chooser:
    """Of one service, until it changes. The balancings below have their own; what they leave as it is here
    does nothing.
    """

    turn: Callable[[], Serving | None]
    """The next; None: no instance serves."""
    by_key: Callable[[str], Serving | None]
    """The one for this key."""
    several_steps = False
    """A choice is more than one step of the interpreter: two threads must not make one at a time."""

    def started(self, found: Serving) -> None: ...

    def finished(self, found: Serving) -> None: ...


class _Turns(Chooser):
    """In turn, from a random one on: many callers that hear of a change at once do not all begin with the
    same instance.
    """

    def __init__(self, usable: Sequence[Serving], random: random.Random) -> None:
        first = random.randrange(len(usable)) if usable else 0
        order = (*usable[first:], *usable[:first]) or (None,)
        self.turn = itertools.cycle(order).__next__
        self.by_key = lambda key: self.turn()


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Each in its turn."""

    def chooser(self, candidates: Candidates) -> Chooser:
        return _Turns(candidates.usable, candidates.random)


@dataclass(frozen=True, slots=True)
class SameHostFirst:
    """In turn those on the caller's own host; while there is none, those in its zone; else all."""

    host: str
    zone: str = ""

    def chooser(self, candidates: Candidates) -> Chooser:
        usable = candidates.usable
        near = [each for each in usable if each.registration.host == self.host]
        if not near and self.zone:
            near = [each for each in usable if each.registration.zone == self.zone]
        return _Turns(near or usable, candidates.random)


# --- least loaded -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeastLoaded:
    """One that has the fewest calls of this caller under way, in turn among equals. The caller says when a
    call starts and when it is finished (Balanced.calling does both).
    """

    def chooser(self, candidates: Candidates) -> Chooser:
        before = candidates.before
        calls = before.calls if isinstance(before, _Loads) else {}
        # What was called and has left is forgotten, and the end of such a call is no news.
        kept = {each.process: calls.get(each.process, 0) for each in candidates.members}
        usable = list(candidates.usable)
        candidates.random.shuffle(usable)
        return _Loads(usable, kept)


class _Loads(Chooser):
    """Those that may be chosen, by how many calls each has: a choice, a start and an end cost the same for
    two instances and for two thousand.
    """

    several_steps = True

    def __init__(self, usable: Sequence[Serving], calls: dict[Process, int]) -> None:
        self.calls = calls
        self._levels: dict[int, OrderedDict[Process, Serving]] = {}
        self._least = 0
        self._usable = {each.process: each for each in usable}
        for process, each in self._usable.items():
            self._levels.setdefault(calls.get(process, 0), OrderedDict())[process] = each
        self._least = min(self._levels, default=0)
        self.turn = self._turn
        self.by_key = lambda key: self._turn()

    def _turn(self) -> Serving | None:
        level = self._levels.get(self._least)
        if level is None:
            return None
        process = next(iter(level))
        level.move_to_end(process)
        return level[process]

    def started(self, found: Serving) -> None:
        calls = self.calls.get(found.process)
        if calls is not None:
            self._move(found.process, calls, calls + 1)

    def finished(self, found: Serving) -> None:
        calls = self.calls.get(found.process)
        if calls:
            self._move(found.process, calls, calls - 1)

    def _move(self, process: Process, before: int, now: int) -> None:
        self.calls[process] = now
        if process not in self._usable:
            return
        level = self._levels[before]
        found = level.pop(process)
        if not level:
            del self._levels[before]
            if before == self._least:
                self._least = now  # one more, and nobody has fewer; or one fewer
        self._levels.setdefault(now, OrderedDict())[process] = found
        self._least = min(self._least, now)


# --- weighted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weighted:
    """In turn by the weights of the registrations, as evenly spread as can be: of as many choices as all
    weights together, each has exactly its weight, and none has its share in one go.
    """

    def chooser(self, candidates: Candidates) -> Chooser:
        return _Weights(candidates.usable, candidates.random)


class _Weights(Chooser):
    """The n-th choice of an instance is due at (n - 1/2) / weight; the earliest due is next."""

    several_steps = True

    def __init__(self, usable: Sequence[Serving], random: random.Random) -> None:
        self._due = [
            (0.5 / each.registration.weight, order, 1, each.registration.weight, each)
            for order, each in enumerate(usable)
        ]
        heapq.heapify(self._due)
        self.turn = self._turn
        self.by_key = lambda key: self._turn()
        for _ in range(random.randrange(len(usable)) if usable else 0):
            self._turn()  # not every caller begins with the heaviest

    def _turn(self) -> Serving | None:
        if not self._due:
            return None
        _, order, given, weight, found = self._due[0]
        heapq.heapreplace(self._due, ((given + 0.5) / weight, order, given + 1, weight, found))
        return found


# --- by key -------------------------------------------------------------------------------------------------


def _needs_key() -> Serving | None:
    raise InvalidInput("discovery: sticky balancing needs a key: found none, wanted resolve(service, key)")


@dataclass(frozen=True, slots=True)
class Sticky:
    """The same instance for the same key (a venue, an account), for every caller on every host. When one
    leaves, its keys alone move; when one comes, it takes its share and no other key moves (rendezvous
    hashing).
    """

    def chooser(self, candidates: Candidates) -> Chooser:
        return _Rendezvous(candidates.usable)


class _Rendezvous(Chooser):
    def __init__(self, usable: Sequence[Serving]) -> None:
        self._usable = [(each.instance.encode(), each) for each in usable]
        self._chosen: dict[str, Serving | None] = {}
        self.turn = _needs_key
        self.by_key = self._by_key

    def _by_key(self, key: str) -> Serving | None:
        try:
            return self._chosen[key]
        except KeyError:
            pass
        if len(self._chosen) >= KEYS_MAX:
            self._chosen = {}
        ours = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
        found = max(self._usable, key=lambda each: _score(ours, each[0]), default=(b"", None))[1]
        self._chosen[key] = found
        return found


def _score(key: bytes, instance: bytes) -> bytes:
    # No hash of Python's own: that one differs from process to process.
    return hashlib.blake2b(instance, digest_size=8, key=key).digest()


@dataclass(frozen=True, slots=True)
class SymbolPartitions:
    """Symbols fall into partitions, and the partitions go to the instances in turn, so that each has as many
    as any other, or one more. One that is out for a time gives its partitions to the others in turn and gets
    them back; when an instance comes or leaves for good, most partitions move (Sticky moves few, and is less
    even).
    """

    count: int = PARTITIONS

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidSettings(f"discovery: {self.count} partitions; expected at least 1")

    def partition(self, symbol: str) -> int:
        return zlib.crc32(symbol.encode(errors="surrogatepass")) % self.count

    def chooser(self, candidates: Candidates) -> Chooser:
        return _Partitions(candidates, self)


class _Partitions(Chooser):
    def __init__(self, candidates: Candidates, partitions: SymbolPartitions) -> None:
        usable = {each.process: each for each in candidates.usable}
        substitutes = itertools.cycle(candidates.usable or (None,))
        members = candidates.members
        self.owners: list[Serving | None] = []
        for partition in range(partitions.count):
            member = members[partition % len(members)] if members else None
            found = usable.get(member.process) if member is not None else None
            self.owners.append(found if found is not None else next(substitutes))
        self.turn = _needs_key
        self.by_key = lambda symbol: self.owners[partitions.partition(symbol)]
