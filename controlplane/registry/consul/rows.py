"""Following the services of one site in Consul's catalogue: one question lists the names, one question a
service tells its instances and the state of their checks.

Promises: at most CONNECTIONS_MAX connections, of the 200 that a Consul server grants one address; with more
services than that they take turns, and a change is seen a little later. A server that hangs is left when the
list of names is overdue, a crowd comes back spread out, and an answer of 429 is waited out. Rows that are no
registration of the site are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping

import msgspec

from controlplane.errors import HftctlError, Unavailable
from controlplane.registry.consul import definition
from controlplane.registry.consul.definition import Standing
from controlplane.resilience import backoff
from controlplane.store import Keys
from controlplane.store.consul import ConsulStore
from controlplane.store.consul.blocking import Question
from controlplane.store.consul.http import Answer, Connection, Server

CONNECTIONS_MAX = 128
LEAST = 2
"""Connections that are kept trying when the server grants no more."""
HOLD_S = 10.0
"""The wait of a service's question while each has a connection of its own; that of the names is the store's
`probe_every_s`, and finds a server that hangs for all of them."""
TURN_S = 0.25
"""The same where services take turns."""
BURST, PER_S = 10, 4.0
"""Of starting anew with all of them."""
SPREAD_S = 0.1
RETRY_S = 0.2


class CatalogueRows:
    def __init__(
        self,
        store: ConsulStore,
        keys: Keys,
        take: Callable[[str, Mapping[str, Standing]], None],
        listed: Callable[[], None],
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """`take` gets all of a service, by key, at each change, and nothing when it is gone; `listed` is
        called once, when every service has been seen.
        """
        self._store, self._keys, self._calls = store, keys, store.calls
        self._take, self._listed = take, listed
        self._connections_max = self._granted = connections_max
        """`_granted`: no more at this server, which has said so (429)."""
        self._tag = definition.site_tag(keys.site)
        self._names = Question(store, "catalog/services", {}, "catalog/services", catalogue=True)
        self._services: dict[str, Question] = {}
        self._unseen: set[str] | None = None
        """Services that no answer has come for since the first list; None: no list yet."""
        self._said_listed = False
        self._turns: asyncio.Queue[str] = asyncio.Queue()
        self._idle = 0
        self._workers = 0
        self._server = 0
        self._bucket = backoff.Bucket(BURST, PER_S)
        self.confirmed_boot_ns = 0
        """Of the list of names."""

    def __repr__(self) -> str:
        return f"<CatalogueRows {self._tag}: {len(self._services)} services, {self._workers} connections>"

    async def run(self) -> None:
        """Until cancelled, or the store is closed."""
        while not self._calls.closed:
            delay_s = self._bucket.take(time.monotonic())
            await asyncio.sleep(delay_s and delay_s + random.random() * SPREAD_S)
            server = self._calls.servers[self._server % len(self._calls.servers)]
            try:
                await self._follow(server)
            except* HftctlError as failed:
                # Denied too: an operator may mend it meanwhile.
                self._calls.refresh_token()
                self._server += 1
                await asyncio.sleep(_pause_s(failed.exceptions[0]))

    async def _follow(self, server: Server) -> None:
        """At one server, until its list of names fails; always raises."""
        self._turns, self._idle, self._workers = asyncio.Queue(), 0, 0
        self._granted = self._connections_max
        for service in self._services:
            self._turns.put_nowait(service)
        async with asyncio.TaskGroup() as tasks:
            connection = await self._calls.open(server)
            try:
                while True:
                    self._call_workers(tasks, server)
                    wait_s = self._calls.settings.probe_every_s
                    answer = await self._names.ask(server, connection, wait_s)
                    if answer is not None:
                        self._agree(answer)
                    if self._names.index:
                        self.confirmed_boot_ns = self._names.asked_ns
            finally:
                await self._calls.close_connection(connection)

    def _agree(self, answer: Answer) -> None:
        """Have a question for each service of the site, and no other."""
        try:
            listed = definition.names.decode(answer.body)
        except msgspec.DecodeError as exc:
            self._names.again()
            raise Unavailable(f"consul catalogue: no list of services: {exc}") from exc
        names = {service for service, tags in listed.items() if self._tag in tags}
        for gone in self._services.keys() - names:
            del self._services[gone]
            self._seen(gone)
            self._take(gone, {})
        for fresh in names - self._services.keys():
            self._services[fresh] = Question(
                self._store, f"health/service/{fresh}", {"tag": self._tag}, f"service {fresh}", catalogue=True
            )
            self._turns.put_nowait(fresh)
        if self._unseen is None:
            self._unseen = set(names)
        self._seen("")

    def _call_workers(self, tasks: asyncio.TaskGroup, server: Server) -> None:
        wanted = min(self._turns.qsize() - self._idle, self._granted - self._workers)
        for _ in range(wanted):
            self._workers += 1
            tasks.create_task(self._work(server), name=f"catalogue {self._workers}")

    async def _work(self, server: Server) -> None:
        """Ask for whichever service has waited longest, over one connection. What fails is asked again in its
        turn.
        """
        async with contextlib.AsyncExitStack() as stack:
            connection: Connection | None = None
            while True:
                if self._turns.empty():
                    await stack.aclose()
                    connection = None
                self._idle += 1
                try:
                    service = await self._turns.get()
                finally:
                    self._idle -= 1
                question = self._services.get(service)
                if question is None:
                    continue
                try:
                    if connection is None:
                        connection = await self._calls.open(server)
                        stack.push_async_callback(self._calls.close_connection, connection)
                    wait_s = HOLD_S if len(self._services) <= self._granted else TURN_S
                    answer = await question.ask(server, connection, wait_s)
                    if answer is not None and self._services.get(service) is question:
                        self._show(service, question, answer)
                except HftctlError as exc:
                    await stack.aclose()
                    connection = None
                    await asyncio.sleep(_pause_s(exc))
                    if getattr(exc, "retry_after_s", None) and self._workers > LEAST:
                        self._workers -= 1
                        self._granted = self._workers
                        self._again(service, question)
                        return
                self._again(service, question)

    def _again(self, service: str, question: Question) -> None:
        if self._services.get(service) is question:
            self._turns.put_nowait(service)

    def _show(self, service: str, question: Question, answer: Answer) -> None:
        try:
            rows = definition.rows.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            question.again()
            raise Unavailable(f"consul catalogue: service {service}: no list of instances: {exc}") from exc
        found = (definition.standing(row, self._keys.site) for row in rows)
        self._take(
            service,
            {
                self._keys.registration(service, each.registration.instance): each
                for each in found
                if each is not None
            },
        )
        self._seen(service)

    def _seen(self, service: str) -> None:
        if self._unseen is None or self._said_listed:
            return
        self._unseen.discard(service)
        if not self._unseen:
            self._said_listed = True
            self._listed()


def _pause_s(exc: BaseException) -> float:
    asked_s = getattr(exc, "retry_after_s", None) or RETRY_S
    return float(asked_s) * (1 + random.random())
