"""The store port on Consul: a client of one cluster, for one event loop."""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from controlplane import clock as clocks
from controlplane.errors import Denied, HftctlError
from controlplane.host.system_clock import SystemClock
from controlplane.settings import StoreSettings
from controlplane.store import limits
from controlplane.store.base import (
    Committed,
    Compare,
    Condition,
    Delete,
    Entry,
    Health,
    Lease,
    Lost,
    Put,
    Snapshot,
)
from controlplane.store.consul import calls, condition, kv, sessions, versions
from controlplane.store.consul import watch as watching
from controlplane.store.consul.http import Answer
from controlplane.store.endpoint import on_this_machine

EXPIRY_BOUND_S = 10.0
"""A session lives for up to twice its TTL. Leases of ours are at most this long; a longer one's keys may
outlive it by its own TTL.
"""
HEALTH_KEY = "hft/"
"""Read (never written) to prove that the store has a leader: the empty name under our root."""
CONSISTENT = {"consistent": ""}
"""The leader asks a quorum whether it still is one before it answers."""
TRANSACTION = frozenset({200, 409})


class _Agent(msgspec.Struct, rename="pascal"):
    class Config(msgspec.Struct, rename="pascal"):
        version: str = ""

    config: Config = msgspec.field(default_factory=Config)


class ConsulStore:
    kind = "consul"
    expiry_bound_s = EXPIRY_BOUND_S
    one_revision = False
    """A key's index counts the writes of the whole store, but a prefix's may fall or stand still."""

    def __init__(
        self,
        endpoints: Sequence[str],
        settings: StoreSettings | None = None,
        clock: clocks.Clock | None = None,
    ) -> None:
        self.calls = calls.Calls(endpoints, settings or StoreSettings())
        self.clock = clock or SystemClock()
        self._agent: calls.Calls | None = None
        self._watches: weakref.WeakSet[watching.ConsulWatch] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"ConsulStore({','.join(self.calls.addresses)})"

    @property
    def agent(self) -> calls.Calls:
        """The host's own agent, for what is registered there (StoreSettings.agent). Raises
        InvalidSettings.
        """
        if self._agent is None:
            given, settings = self.calls.settings.agent, self.calls.settings
            if given.startswith("http://"):
                settings = replace(settings, ca_file=None, cert_file=None, key_file=None)
            near = (each for each in self.calls.addresses if on_this_machine(each))
            self._agent = calls.Calls([given or next(near, self.calls.addresses[0])], settings)
        return self._agent

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        found = await self.calls.ask("GET", f"kv/{key}", CONSISTENT)
        pairs = calls.decoded(kv.pairs, found, f"get {key}") if found.status == 200 else []
        return kv.entries(pairs).get(key)

    async def range(self, prefix: str) -> Snapshot:
        answer = await self.calls.ask("GET", f"kv/{prefix}", {"recurse": "", **CONSISTENT})
        require_all_shown(answer, prefix, self.calls.token)
        return listed(answer, prefix)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: Lease | None = None
    ) -> Committed | Lost:
        return await self.txn([] if expect is None else [Compare(key, expect)], [Put(key, value, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> Committed | Lost:
        return await self.txn([] if expect is None else [Compare(key, expect)], [Delete(key)])

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        limits.check(compares, then)
        if not compares and not then:
            return Committed(None)
        body = kv.transaction(compares, then)
        answer = await self.calls.ask("PUT", "txn", body=body, good=TRANSACTION)
        done = calls.decoded(kv.outcome, answer, "transaction", writes=True)
        if answer.status == 200:
            return kv.committed(done)
        refused = kv.lost(done, len(compares))
        if isinstance(refused, Lost):
            return refused
        raise refused

    def watch(self, prefix: str) -> watching.ConsulWatch:
        watch = watching.ConsulWatch(self, prefix)
        self._watches.add(watch)
        return watch

    async def lease(self, ttl_s: float) -> sessions.ConsulLease:
        return await sessions.create(self.calls, self.clock, ttl_s)

    def try_within(self, seconds: float) -> None:
        for each in (self.calls, *([self._agent] if self._agent else [])):
            each.settings = replace(each.settings, try_s=seconds)

    async def health(self) -> Health:
        """Of the server in front, or the first that answers; healthy means that a leader which has a quorum
        answered a read, and that it is new enough. Errors are its reason, never raised.
        """
        version, reason = "", ""
        latency_ms: float | None = None
        try:
            version = (
                await self._version()
            )  # first: it makes the connection, so that the read's time is the store's
            before_s = time.monotonic()
            await self.calls.ask("GET", f"kv/{HEALTH_KEY}", CONSISTENT)
            latency_ms = round((time.monotonic() - before_s) * 1000, 3)
            reason = versions.fault(version)
        except HftctlError as exc:
            reason = str(exc)
        return Health("consul", self.calls.addresses, not reason, version, latency_ms, reason)

    async def snapshot(self) -> AsyncIterator[bytes]:
        """Consul's own snapshot. Not of the port (backup/native.py).

        Raises:
            Unavailable: no answer in time. Denied: the token is none of management.
        """
        yield (await self.calls.ask("GET", "snapshot", good=frozenset({200}))).body

    async def condition(self) -> Condition:
        return await condition.look(self.calls)

    async def _version(self) -> str:
        """Empty where the token has no right to see it."""
        answer = await self.calls.ask("GET", "agent/self", good=calls.GOOD | {403})
        try:
            return (
                msgspec.json.decode(answer.body, type=_Agent).config.version if answer.status == 200 else ""
            )
        except msgspec.DecodeError:
            return ""

    async def close(self) -> None:
        for watch in list(self._watches):
            await watch.aclose()
        await self.calls.close()
        if self._agent is not None:
            await self._agent.close()


def require_all_shown(answer: Answer, prefix: str, token: str, *, whole: bool = True) -> None:
    """Consul leaves out of a list what the token may not read, and answers as if it were not there: a keeper
    would take a site for empty.

    Raises:
        Denied: that has happened, or may have.
    """
    if not token and answer.headers.get("x-consul-default-acl-policy") == "deny":
        raise Denied(
            f'store consul: list of "{prefix}": the store wants a token, and no token_file was given'
        )
    if whole and answer.headers.get("x-consul-results-filtered-by-acls") == "true":
        raise Denied(
            f'store consul: list of "{prefix}": the token may not read all of it; wanted one with write on '
            "that key_prefix"
        )


def listed(answer: Answer, prefix: str) -> Snapshot:
    """Of a list of a prefix."""
    pairs = calls.decoded(kv.pairs, answer, f'list of "{prefix}"') if answer.status == 200 else []
    found = kv.entries(pairs)
    return Snapshot(newest(found), found)


def newest(entries: Mapping[str, Entry]) -> int:
    """The revision of what a list shows: everything that was written under its prefix up to here is in it.
    The index that Consul gives with a list is another thing (it may fall), and good only for the next
    question.
    """
    return max((entry.revision for entry in entries.values()), default=0)


def index_of(answer: Answer) -> int:
    """At least 1: with 0 a blocking query would not block."""
    try:
        return max(1, int(answer.headers.get(calls.INDEX, "1")))
    except ValueError:
        return 1
