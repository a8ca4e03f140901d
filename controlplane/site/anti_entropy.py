"""Compares what a Follower believes with what the store has, at intervals, and mends what differs.

A watch that dropped a change, or a cache that was damaged, would otherwise be believed until the same key
changes again. A difference counts only when it is there at two looks some seconds apart and the follower has
not moved meanwhile: what is on its way is no difference. What is mended is told like any other change, and
reported (`cache.repaired`).
"""

from __future__ import annotations

import asyncio
import random as randoms
from collections.abc import Callable, Mapping

from controlplane.errors import HftctlError
from controlplane.host import log
from controlplane.site import nouns
from controlplane.site.follower import Follower
from controlplane.site.view import name
from controlplane.store import Keys, Snapshot, Store, Watch

EVERY_S = 60.0
"""A look at a site of 5,000 instances costs some 100 ms of CPU in small pieces."""
JITTER = 0.5
"""Share of the interval by which it differs from one time to the next: the agents of a site do not all read
the whole store at one moment."""
SETTLE_S = 5.0
"""Between the two looks; a watch shows a change within a fraction of it, also when its server hangs first."""
FRESH_S = 30.0
"""For one list of the store."""
PIECE = 100
"""Records that are decoded without a pause: about a millisecond."""
KEYS_NAMED = 5

Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event's kind and fields."""


def to_log(kind: str, fields: Mapping[str, object]) -> None:
    log.warning(kind, **fields)


class AntiEntropy:
    def __init__(
        self,
        follower: Follower,
        store: Store,
        keys: Keys,
        *,
        registrations: Callable[[], Watch],
        also: Callable[[], int] = lambda: 0,
        report: Report = to_log,
        every_s: float = EVERY_S,
        settle_s: float = SETTLE_S,
        random: Callable[[], float] = randoms.random,
    ) -> None:
        """`registrations`: makes a watch of its own, as the follower's is; its first snapshot is a fresh
        list. `also`: compares what was made of the view, and returns how much of it was mended.
        """
        self._follower, self._store, self._keys = follower, store, keys
        self._registrations, self._also, self._report = registrations, also, report
        self._every_s, self._settle_s, self._random = every_s, settle_s, random
        self.compared = 0
        """How often all was compared."""
        self.repaired: dict[str, int] = {}
        """Kind of record (`answers`: what was made of them) -> how many were mended."""

    def __repr__(self) -> str:
        return f"<AntiEntropy: compared {self.compared} times, repaired {self.repaired or 'nothing'}>"

    async def run(self) -> None:
        """Until cancelled. A store that does not answer is asked again at the next interval: how old the view
        is says its age.
        """
        while True:
            await asyncio.sleep(self._every_s * (1 + JITTER * (2 * self._random() - 1)))
            try:
                await self.compare()
            except (HftctlError, TimeoutError):
                continue

    async def compare(self) -> int:
        """Both looks, and what follows from them. Returns how many records were mended.

        Raises:
            HftctlError, TimeoutError: the store did not answer.
        """
        suspects = {prefix: await self._differing(prefix) for prefix in self._seen()}
        suspects = {prefix: found for prefix, found in suspects.items() if found}
        mended = 0
        if suspects:
            await asyncio.sleep(self._settle_s)
        for prefix, before in suspects.items():
            fresh, found = await self._look(prefix)
            now = dict(self._follower.nouns[prefix].records()) if found else {}
            wrong = sorted(
                key
                for key in found.keys() & before.keys()
                if found[key] == before[key] and found[key] is now.get(key)
            )
            if wrong:
                self._mend(prefix, fresh, wrong)
                mended += len(wrong)
        if answers := self._also():
            self._count("answers", answers)
            self._report("cache.repaired", {"records": answers, "what": "answers that did not fit the view"})
        self.compared += 1
        return mended + answers

    def _seen(self) -> list[str]:
        return [prefix for prefix, noun in self._follower.nouns.items() if noun.seen]

    async def _differing(self, prefix: str) -> dict[str, object]:
        return (await self._look(prefix))[1]

    async def _look(self, prefix: str) -> tuple[Snapshot, dict[str, object]]:
        """A fresh list, and the keys at which the follower differs from it, with what the follower has."""
        async with asyncio.timeout(FRESH_S):
            fresh = await self._fresh(prefix)
        noun = nouns.Noun(self._keys)
        keys = list(fresh.entries)
        for at in range(0, len(keys), PIECE):
            noun.take(Snapshot(fresh.revision, fresh.entries, frozenset(keys[at : at + PIECE])))
            await asyncio.sleep(0)
        # As the follower has them at this moment; it never alters a record.
        believed, stored = dict(self._follower.nouns[prefix].records()), dict(noun.records())
        differing = {}
        for number, key in enumerate(believed.keys() | stored.keys()):
            if believed.get(key) != stored.get(key) and key not in noun.undecodable:
                differing[key] = believed.get(key)
            if number % PIECE == PIECE - 1:
                await asyncio.sleep(0)
        return fresh, differing

    async def _fresh(self, prefix: str) -> Snapshot:
        if prefix != self._keys.services:
            return await self._store.range(prefix)
        watch = self._registrations()
        try:
            first = await anext(aiter(watch))
            return Snapshot(first.revision, dict(first.entries))
        finally:
            await watch.aclose()

    def _mend(self, prefix: str, fresh: Snapshot, wrong: list[str]) -> None:
        self._follower.mend(prefix, fresh.entries, wrong)
        for key in wrong:
            named = name(self._keys, key)
            self._count(named[0] if named else "", 1)
        self._report(
            "cache.repaired",
            {
                "records": len(wrong),
                "keys": ", ".join(wrong[:KEYS_NAMED]),
                "what": "the view of the site differed from the store, and the watch had not said so",
            },
        )

    def _count(self, kind: str, records: int) -> None:
        self.repaired[kind] = self.repaired.get(kind, 0) + records
