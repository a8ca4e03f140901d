"""Keeps the newest view of the site: one watch a noun, each followed by a task of its own.

What it promises: a change costs its readers nothing unless they asked for it. `changed` tells of every new
view; `news` gives one reader the names of what has changed among the kinds that it asked for, so that a
leader's renewal, which is most of what happens in a store, wakes only what counts leases; `tell` calls one at
once. Whether the view still is what the store has is anti_entropy.py's. The caches and what `Changes` names:
nouns.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from controlplane import clock as clocks
from controlplane.errors import Unavailable
from controlplane.host.system_clock import SystemClock
from controlplane.leadership import budget
from controlplane.model import records
from controlplane.settings import LeadershipSettings
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.store import Entry, Keys, Snapshot, Store, Watch

GATHER_S = 0.05
"""The least between two looks of a Follower at one noun. Renewals change the store ten times a second, and a
failover some eight times within 30 ms, in which keepers (who have watches of their own) need the CPU."""


class _Changed:
    """What has changed among some kinds, since it was last asked for."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds
        self._names: nouns.Changes = {}

    def add(self, changes: nouns.Changes) -> None:
        for kind in self._kinds:
            if kind in changes:
                self._names.setdefault(kind, set()).update(changes[kind])

    def take(self) -> nouns.Changes:
        names, self._names = self._names, {}
        return names


class News(_Changed):
    """For one reader, which waits for it."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__(kinds)
        self._event = asyncio.Event()

    def wake(self) -> None:
        if self._names:
            self._event.set()

    async def next(self) -> nouns.Changes:
        """Wait for a change; coalesces those that came meanwhile. Cancelling it loses none."""
        await self._event.wait()
        self._event.clear()
        return self.take()


class _Told(_Changed):
    """For one that is called."""

    def __init__(self, kinds: tuple[str, ...], call: Callable[[nouns.Changes], None]) -> None:
        super().__init__(kinds)
        self._call = call

    def wake(self) -> None:
        if self._names:
            self._call(self.take())


class Follower:
    """Keeps the newest view of the site; `run` is a task of its owner.

    `changed` is set at each new view and then replaced: take the event, look at the view, wait for the event,
    and no change is missed.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: clocks.Clock | None = None,
        leadership: LeadershipSettings | None = None,
        registrations: Watch | None = None,
        only: Collection[str] = (),
    ) -> None:
        """`registrations`: where the services' noun is followed, as registry.watch makes it; the store's own
        leased keys when left out. `only`: the prefixes to follow, of nouns.watched; all when left out, and
        the view has nothing of the others.
        """
        self.view: SiteView | None = None
        """None until every noun has been read once."""
        self.changed = asyncio.Event()
        self.profile = (leadership or LeadershipSettings()).profile
        """The lease profile in force on this site; what leases are counted with here, and what the keeper is
        told to use."""
        self._lease_ns = budget.profile(self.profile).lease_ns
        """The record may name a longer one, which then counts (R1)."""
        self._store, self._keys = store, keys
        self._clock = clock or SystemClock()
        self._started_boot_ns = self._clock.boot_ns()
        self._watches: list[tuple[Watch, nouns.Noun]] = [
            (registrations or store.watch(prefix), nouns.Noun(keys))
            if prefix == keys.services
            else (store.watch(prefix), nouns.Noun(keys))
            for prefix in nouns.watched(keys)
            if prefix in only or not only
        ]
        followed = [prefix for prefix in nouns.watched(keys) if prefix in only or not only]
        self.nouns: Mapping[str, nouns.Noun] = {
            prefix: noun for prefix, (_, noun) in zip(followed, self._watches, strict=True)
        }
        """Prefix -> the cache of what is under it; changed by this follower alone."""
        self._news: list[News | _Told] = []
        self._leader_seen_ns: dict[str, int] = {}
        """Service -> when its leader record was last seen to change; the one place that knows (R4's clock,
        for people: each keeper times its groups by itself)."""
        self._host_seen_ns: dict[str, int] = {}
        """Host -> when its record was last seen to change."""

    def __repr__(self) -> str:
        return (
            f"<Follower {self._keys.root}: revision {self.view.revision if self.view else 'none'}, "
            f"{self.age_s():.1f} s old>"
        )

    def age_s(self) -> float:
        """How long ago all of the view was last known to be the store's own (before the first view: since
        when it has been waited for).
        """
        confirmed_ns = min(watch.confirmed_boot_ns for watch, _ in self._watches)
        return (self._clock.boot_ns() - (confirmed_ns or self._started_boot_ns)) / 1e9

    def lease_remaining_ms(self) -> dict[str, int]:
        """Of each led group, by when its leader record was last seen to change here; 0: nobody can be leading
        by it any more.
        """
        now_ns = self._clock.boot_ns()
        leaders = self.view.leaders if self.view else {}
        return {
            service: max(0, self._leader_seen_ns.get(service, now_ns) + self._lease_of(leader) - now_ns)
            // 1_000_000
            for service, leader in leaders.items()
            if leader.holder is not None
        }

    def silent_ms(self) -> dict[str, int]:
        """Of each host: for how long its record has not changed here. Its own clock is not asked."""
        now_ns = self._clock.boot_ns()
        hosts = self.view.hosts if self.view else ()
        return {host: (now_ns - self._host_seen_ns.get(host, now_ns)) // 1_000_000 for host in hosts}

    def _lease_of(self, leader: records.LeaderRecord) -> int:
        return max(self._lease_ns, budget.believed_lease_ns(leader.lease_ms))

    def news(self, *kinds: str) -> News:
        """For a reader that wants to know what has changed among these kinds (nouns.Changes), from now on;
        nothing before there is a view.
        """
        news = News(kinds)
        self._news.append(news)
        return news

    def tell(self, call: Callable[[nouns.Changes], None], *kinds: str) -> None:
        """The same for one that must know before anybody sees the new view: it is called at once, and may not
        raise.
        """
        self._news.append(_Told(kinds, call))

    def mend(self, prefix: str, entries: Mapping[str, Entry], changed: Collection[str]) -> None:
        """What the watch should have told: these keys are as in `entries`, or gone."""
        noun = self.nouns[prefix]
        self._tell(noun.take(Snapshot(noun.revision, entries, frozenset(changed))))

    async def first_view(self, within_s: float | None = None) -> None:
        """Wait until there is a view. Whoever takes `news` before this, and the whole view after it, misses
        nothing. `within_s`: for how long; None, for ever.

        Raises:
            Unavailable: there was none in time; with the store's own reason.
        """
        try:
            async with asyncio.timeout(within_s):
                while self.view is None:
                    await self.changed.wait()
        except TimeoutError:
            why = (await self._store.health()).reason or "its watches have shown nothing yet"
            raise Unavailable(f"{self._store!r}: no answer within {within_s:g} s: {why}") from None

    async def run(self) -> None:
        """Until the store is closed or this is cancelled.

        A record that does not decode is named in the view and harms no other (nouns.py); an error that nobody
        expects ends the follower and its owner with it.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for watch, noun in self._watches:
                    tasks.create_task(self._follow(watch, noun), name=f"follow {watch!r}")
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _follow(self, watch: Watch, noun: nouns.Noun) -> None:
        try:
            async for snapshot in watch:
                self._tell(noun.take(snapshot))
                await asyncio.sleep(GATHER_S)
        finally:
            await watch.aclose()

    def _tell(self, changes: nouns.Changes) -> None:
        now_ns = self._clock.boot_ns()
        for service in changes.get("leader", ()):
            self._leader_seen_ns[service] = now_ns
        for host in changes.get("hosts", ()):
            self._host_seen_ns[host] = now_ns
        for news in self._news:
            news.add(changes)
        if all(noun.seen for _, noun in self._watches):
            self.view = nouns.view(self._keys, [noun for _, noun in self._watches])
            told, self.changed = self.changed, asyncio.Event()
            told.set()
            for news in self._news:
                news.wake()
