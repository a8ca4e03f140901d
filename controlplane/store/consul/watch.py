"""A watch that goes on for ever, over a blocking question (blocking.py) on a connection of its own.

Promises: no change is lost (each answer is the whole prefix) and none is shown twice; a slow reader gets the
newest state, not a queue (latest.py); where a server hangs another is tried; a loop of failures is slowed
down by a token bucket, and a crowd comes back spread out. Where a list is the first, or was lost, it is asked
for consistently; the questions after it are not.
"""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

from controlplane.errors import HftctlError, Unavailable
from controlplane.resilience import backoff
from controlplane.store.base import Snapshot
from controlplane.store.consul import calls, client, kv
from controlplane.store.consul.blocking import Asking, Question
from controlplane.store.consul.http import Answer, Server
from controlplane.store.followed import FollowedWatch
from controlplane.store.latest import Latest

BURST = 10
PER_S = 4.0
"""New connections: ten at once (a rolling restart of the cluster), then four a second."""
SPREAD_S = 0.1
"""A crowd that lost its server comes back within this, not at one moment."""


class ConsulWatch(FollowedWatch):
    def __init__(self, store: Asking, prefix: str) -> None:
        super().__init__(f"consul watch {prefix}", lambda latest: _Followed(store, prefix, latest).run())


class _Followed:
    """The task behind a watch."""

    def __init__(self, store: Asking, prefix: str, latest: Latest) -> None:
        self._calls = store.calls
        self._prefix, self._latest = prefix, latest
        self._question = Question(store, f"kv/{prefix}", {"recurse": ""}, prefix)
        self._server = 0
        self._bucket = backoff.Bucket(BURST, PER_S)

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
                before = self._question.index
                answer = await self._question.ask(server, connection, self._calls.settings.probe_every_s)
                if answer is not None:
                    self._take(answer, first=not before)
                if self._question.index:
                    # The moment of the question, not of the answer: that may have been on its way for long.
                    self._latest.confirmed_boot_ns = self._question.asked_ns
        finally:
            await self._calls.close_connection(connection)

    def _take(self, answer: Answer, *, first: bool) -> None:
        try:
            pairs = calls.decoded(kv.listed, answer, f"watch {self._prefix}") if answer.status == 200 else []
            # A first list, and one after the index fell, is looked at as a whole: the store may be another
            # one now.
            found = kv.changed_since(pairs, {} if first else self._latest.newest)
        except (HftctlError, msgspec.DecodeError) as exc:
            self._question.again()
            raise Unavailable(f"store consul: watch {self._prefix}: no list of keys: {exc}") from exc
        # Of the newest record, as everything up to its write is in the list; never below what was shown.
        revision = max(client.newest(found), 0 if first else self._latest.revision)
        self._latest.replace(Snapshot(revision, found))
