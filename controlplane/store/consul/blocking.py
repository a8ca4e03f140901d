"""One question that Consul answers when the answer has changed or the wait is over, asked again for ever.

Promises: every change is in some answer, and an answer that says nothing new is told from one that does; a
server that hangs is noticed when the wait and its answer are overdue; one that answers at once without news
is asked no faster than a token bucket allows.

The index is Consul's own, of this question, and is used for nothing but to ask it again: one that falls means
"list again" (a server restored, tombstones collected), never that the store went back. Which server is asked,
and over which connection, is the caller's choice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from controlplane.clock import Clock
from controlplane.errors import Unavailable
from controlplane.resilience import backoff
from controlplane.store.consul import calls, client
from controlplane.store.consul.calls import Calls
from controlplane.store.consul.http import Answer, Broken, Connection, Server

NO_NEWS_BURST, NO_NEWS_PER_S = 20, 5.0
"""Answers without news before the wait is over: Consul wakes early now and then; one that never waits is
asked no faster than this.
"""
LIST_S = 5.0
"""A hundred of them are asked at once."""
WAIT_JITTER = 1 / 16
"""Consul lengthens each wait by up to this share."""


class Asking(Protocol):
    """What a question needs of the store that it is of."""

    clock: Clock
    calls: Calls


class Question:
    def __init__(
        self, store: Asking, path: str, query: Mapping[str, str], what: str, *, catalogue: bool = False
    ) -> None:
        """`what` names it in errors. Of the catalogue, which follows its agents in its own time, a list need
        not be consistent, may take LIST_S, and may leave out what is others' and not the token's to read.
        """
        self._catalogue = catalogue
        self._store, self._calls = store, store.calls
        self._path, self._query, self._what = path, query, what
        self.index = 0
        """Of the last answer; 0: the next one lists, and waits for nothing."""
        self.asked_ns = 0
        """When the last question was sent: what its answer says was so at that moment or later."""
        self._no_news = backoff.Bucket(NO_NEWS_BURST, NO_NEWS_PER_S)

    def again(self) -> None:
        """List next: what was answered last could not be used."""
        self.index = 0

    async def ask(self, server: Server, connection: Connection, wait_s: float) -> Answer | None:
        """The next answer, after `wait_s` at the most; None: nothing has changed, or not for certain.

        Raises:
            Unavailable: this connection is of no more use. Denied and the like: Consul's own answer.
        """
        self.asked_ns = self._store.clock.boot_ns()
        answer = await self._answer(server, connection, wait_s)
        if answer.status not in calls.GOOD:
            raise self._calls.error_of(server, "GET", self._path, answer)
        calls.require_consul(server, "GET", self._path, answer)
        client.require_all_shown(answer, self._what, self._calls.token, whole=not self._catalogue)
        index, before = client.index_of(answer), self.index
        if index < before:
            self.index = 0  # and the next question lists; what this one says may be older than what we have
        elif index != before:
            self.index = index
            return answer
        if self._store.clock.boot_ns() - self.asked_ns < wait_s / 2 * 1e9:
            await asyncio.sleep(self._no_news.take(time.monotonic()))
        return None

    async def _answer(self, server: Server, connection: Connection, wait_s: float) -> Answer:
        settings = self._calls.settings
        query, patience_s = dict(self._query), LIST_S if self._catalogue else settings.try_s
        if self.index:
            query |= {"index": str(self.index), "wait": f"{int(wait_s * 1000)}ms"}
            patience_s = wait_s * (1 + WAIT_JITTER) + settings.probe_answer_s
        elif not self._catalogue:
            query |= client.CONSISTENT
        request = server.request("GET", calls.target(self._path, query), self._calls.token, b"")
        what = f"store consul {server.address}: watch {self._what}"
        try:
            async with asyncio.timeout(patience_s):
                answer, kept = await connection.exchange(request)
        except (Broken, TimeoutError) as exc:
            raise Unavailable(f"{what}: {str(exc) or f'silent for {patience_s:.1f} s'}") from exc
        if not kept and answer.status in calls.GOOD:
            raise Unavailable(f"{what}: the server hung up")
        return answer
