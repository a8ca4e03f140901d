"""A watch that goes on for ever, over blocking queries: one question a time on a connection of its own,
answered when the prefix has changed or the wait is over.

Promises: no change is lost (each answer is the whole prefix) and none is shown twice; a slow reader gets the
newest state, not a queue (latest.py); a server that hangs is noticed when the wait and its answer are
overdue, and another is tried; a loop of failures is slowed down by a token bucket, and a crowd comes back
spread out.

The index is Consul's own, of this prefix, and is used for nothing but the next question: one that falls means
"list again" (a server restored, tombstones collected), never that the store went back. Where a list is the
first, or was lost, it is asked for consistently; the questions after it are not.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

import msgspec

from controlplane.clock import Clock
from controlplane.errors import HftctlError, Unavailable
from controlplane.resilience import backoff
from controlplane.store.base import Snapshot
from controlplane.store.consul import calls, client, kv
from controlplane.store.consul.calls import Calls
from controlplane.store.consul.http import Answer, Broken, Connection, Server
from controlplane.store.followed import FollowedWatch
from controlplane.store.latest import Latest

BURST = 10
PER_S = 4.0
"""New connections: ten at once (a rolling restart of the cluster), then four a second."""
NO_NEWS_BURST, NO_NEWS_PER_S = 20, 5.0
"""Answers without news before the wait is over: Consul wakes early now and then; one that never waits is
asked no faster than this.
"""
SPREAD_S = 0.1
"""A crowd that lost its server comes back within this, not at one moment."""
WAIT_JITTER = 1 / 16
"""Consul lengthens each wait by up to this share."""


class Asking(Protocol):
    """What a watch needs of the store that it is of."""

    clock: Clock
    calls: Calls


class ConsulWatch(FollowedWatch):
    def __init__(self, store: Asking, prefix: str) -> None:
        super().__init__(f"consul watch {prefix}", lambda latest: _Followed(store, prefix, latest).run())


class _Followed:
    """The task behind a watch."""

    def __init__(self, store: Asking, prefix: str, latest: Latest) -> None:
        self._store, self._calls = store, store.calls
        self._prefix, self._latest = prefix, latest
        self._index = 0
        """Of the last answer; 0: list first."""
        self._server = 0
        self._bucket = backoff.Bucket(BURST, PER_S)
        self._no_news = backoff.Bucket(NO_NEWS_BURST, NO_NEWS_PER_S)

    async def run(self) -> None:
        while not self._calls.closed:
            delay_s = self._bucket.take(time.monotonic())
            await asyncio.sleep(delay_s and delay_s + random.random() * SPREAD_S)
            server = self._calls.servers[self._server % len(self._calls.servers)]
            try:
                await self._follow(server)
            except HftctlError:
                # Unavailable: the next server. Denied and the like: an operator may mend it while we wait;
                # the age of the view shows it.
                self._calls.refresh_token()
                self._server += 1
                await asyncio.sleep(random.random() * SPREAD_S)

    async def _follow(self, server: Server) -> None:
        """Ask over one connection until it breaks; always raises."""
        connection = await self._calls.open(server)
        try:
            while True:
                asked_ns = self._store.clock.boot_ns()
                answer = await self._ask(server, connection)
                if answer.status not in calls.GOOD:
                    raise self._calls.error_of(server, "GET", f"kv/{self._prefix}", answer)
                client.require_all_shown(answer, self._prefix, self._calls.token)
                early = self._store.clock.boot_ns() - asked_ns < self._calls.settings.probe_every_s / 2 * 1e9
                if not self._take(answer, asked_ns) and early:
                    await asyncio.sleep(self._no_news.take(time.monotonic()))
        finally:
            await self._calls.close_connection(connection)

    async def _ask(self, server: Server, connection: Connection) -> Answer:
        settings = self._calls.settings
        query, patience_s = {"recurse": ""}, settings.try_s
        if self._index:
            wait_s = settings.probe_every_s
            query |= {"index": str(self._index), "wait": f"{int(wait_s * 1000)}ms"}
            patience_s = wait_s * (1 + WAIT_JITTER) + settings.probe_answer_s
        else:
            query |= client.CONSISTENT
        target = calls.target(f"kv/{self._prefix}", query)
        try:
            async with asyncio.timeout(patience_s):
                answer, kept = await connection.exchange(
                    server.request("GET", target, self._calls.token, b"")
                )
        except (Broken, TimeoutError) as exc:
            why = str(exc) or f"silent for {patience_s:.1f} s"
            raise Unavailable(f"store consul {server.address}: watch {self._prefix}: {why}") from exc
        if not kept:
            raise Unavailable(f"store consul {server.address}: watch {self._prefix}: the server hung up")
        return answer

    def _take(self, answer: Answer, asked_ns: int) -> bool:
        """True: there was news."""
        index = client.index_of(answer)
        if index < self._index:
            self._index = 0  # and the next question lists; what this one says may be older than what we have
            return False
        news = index != self._index
        if news:
            try:
                pairs = kv.listed.decode(answer.body) if answer.status == 200 else []
                # A first list, and one after the index fell, is looked at as a whole: the store may be
                # another one now.
                found = kv.changed_since(pairs, self._latest.newest if self._index else {})
            except msgspec.DecodeError as exc:
                raise Unavailable(f"store consul: watch {self._prefix}: no list of keys: {exc}") from exc
            # Of the newest record, as everything up to its write is in the list; never below what was shown.
            revision = max(client.newest(found), self._latest.revision if self._index else 0)
            self._index = index
            self._latest.replace(Snapshot(revision, found))
        # The moment of the question, not of the answer: that may have been on its way for long.
        self._latest.confirmed_boot_ns = asked_ns
        return news
