"""The store port on etcd 3.4 to 3.7, by a thin client of our own (no Python library resumes a watch or
survives a lost endpoint; ADR 0001).

What each operation is in etcd's words is here; how a call finds an endpoint that answers is calls.py,
how a watch goes on for ever is watch.py, what an error means is errors.py.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from controlplane import clock as clocks
from controlplane.errors import HftctlError, InvalidInput, LeaseLost
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
from controlplane.store.etcd import calls, condition, snapshot
from controlplane.store.etcd import watch as watching
from controlplane.store.etcd.calls import Calls
from controlplane.store.etcd.rpc import etcd_pb2 as rpc

PAGE_KEYS = 500
"""Keys in one answer of a list: bounds the size of a message; the pages of a list are all of one revision."""

EXPIRY_BOUND_S = 0.5
"""etcd looks at its leases every 500 ms. A change of etcd's leader gives every lease a whole new TTL on
top."""

HEALTH_KEY = "hft/"
"""Read (never written) to prove that the store has a quorum: the empty name under our root."""


@dataclass(slots=True)
class EtcdLease:
    calls: Calls
    clock: clocks.Clock
    id: str
    ttl_s: float
    deadline_boot_ns: int

    async def keep_alive(self) -> None:
        # Stamp before sending: a late stamp would lengthen our belief in the lease.
        before_ns = self.clock.boot_ns()
        answer = await self.calls.unary("LeaseKeepAlive", rpc.LeaseKeepAliveRequest(id=int(self.id, 16)))
        if answer.ttl <= 0:  # etcd answers OK without a TTL when it does not know the lease
            raise LeaseLost(
                f"store etcd: lease {self.id} (ttl {self.ttl_s} s) is not known any more: it ended or was "
                "revoked"
            )
        self.ttl_s = float(answer.ttl)
        self.deadline_boot_ns = before_ns + answer.ttl * 1_000_000_000

    async def revoke(self) -> None:
        """End the lease and delete its keys; one that is gone already is fine."""
        try:
            await self.calls.unary("LeaseRevoke", rpc.LeaseRevokeRequest(id=int(self.id, 16)))
        except LeaseLost:
            return


class EtcdStore:
    """A client of one etcd cluster, for one event loop."""

    kind = "etcd"
    expiry_bound_s = EXPIRY_BOUND_S
    one_revision = True

    def __init__(
        self,
        endpoints: Sequence[str],
        settings: StoreSettings | None = None,
        clock: clocks.Clock | None = None,
    ) -> None:
        self.calls = calls.Calls(endpoints, settings or StoreSettings())
        self.clock = clock or SystemClock()
        self._watches: weakref.WeakSet[watching.EtcdWatch] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"EtcdStore({','.join(self.calls.addresses)})"

    async def get(self, key: str) -> Entry | None:
        limits.check_key(key)
        answer = await self.calls.unary("Range", rpc.RangeRequest(key=key.encode()))
        return calls.entry_of(answer.kvs[0]) if answer.kvs else None

    async def range(self, prefix: str) -> Snapshot:
        return (await self.list_range(prefix))[0]

    async def list_range(self, prefix: str) -> tuple[Snapshot, int]:
        """Everything under the prefix, and the id of the cluster that said so."""
        entries: dict[str, Entry] = {}
        start, end, revision = calls.range_start(prefix), calls.range_end(prefix), 0
        while True:
            answer = await self.calls.unary(
                "Range", rpc.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            )
            revision = revision or answer.header.revision
            for kv in answer.kvs:
                entry = calls.entry_of(kv)
                entries[entry.key] = entry
            if not answer.more:
                return Snapshot(revision, entries), answer.header.cluster_id
            start = answer.kvs[-1].key + b"\0"

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: Lease | None = None
    ) -> Committed | Lost:
        put = Put(key, value, lease)
        if expect is not None:
            return await self.txn([Compare(key, expect)], [put])
        limits.check([], [put])
        answer = await self.calls.unary(
            "Put", rpc.PutRequest(key=key.encode(), value=value, lease=_lease_id(lease)), writes=True
        )
        return Committed(answer.header.revision)

    async def delete(self, key: str, *, expect: int | None = None) -> Committed | Lost:
        return await self.txn([] if expect is None else [Compare(key, expect)], [Delete(key)])

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        limits.check(compares, then)
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(
                    result=rpc.Compare.EQUAL,
                    target=rpc.Compare.MOD,
                    key=compare.key.encode(),
                    mod_revision=compare.revision,
                )
                for compare in compares
            ],
            success=[_operation(operation) for operation in then],
        )
        answer = await self.calls.unary("Txn", request, writes=bool(then))
        return Committed(answer.header.revision) if answer.succeeded else Lost()

    def watch(self, prefix: str) -> watching.EtcdWatch:
        watch = watching.EtcdWatch(self, prefix)
        self._watches.add(watch)
        return watch

    async def lease(self, ttl_s: float) -> EtcdLease:
        """A new lease; etcd grants whole seconds and not less than 1.5 elections."""
        if ttl_s <= 0:
            raise InvalidInput(f"store lease: ttl {ttl_s} s, wanted more than 0")
        before_ns = self.clock.boot_ns()
        answer = await self.calls.unary("LeaseGrant", rpc.LeaseGrantRequest(ttl=math.ceil(ttl_s)))
        return EtcdLease(
            self.calls,
            self.clock,
            f"{answer.id:x}",
            float(answer.ttl),
            before_ns + answer.ttl * 1_000_000_000,
        )

    def try_within(self, seconds: float) -> None:
        self.calls.settings = replace(self.calls.settings, try_s=seconds)

    async def health(self) -> Health:
        """Of the endpoint in front, or the first that answers; healthy means that a quorum answered a read.
        Errors are its reason, never raised.
        """
        version, alarms, reason = "", "", "no endpoint answers"
        latency_ms: float | None = None
        try:
            await self.calls.authenticated()
        except HftctlError as exc:
            return Health("etcd", self.calls.addresses, False, version, latency_ms, str(exc))
        for _ in range(max(2, len(self.calls.endpoints))):
            endpoint = self.calls.preferred()
            # Status first: it makes the connection, so that the time of the read is the store's alone.
            status = await self.calls.attempt(
                endpoint, "Status", rpc.StatusRequest(), self.calls.settings.try_s, leader=False
            )
            before_s = time.monotonic()
            read = await self.calls.attempt(
                endpoint, "Range", rpc.RangeRequest(key=HEALTH_KEY.encode()), self.calls.settings.try_s
            )
            if status.error is None and read.error is None:
                latency_ms, reason = round((time.monotonic() - before_s) * 1000, 3), ""
                version, alarms = status.response.version, "; ".join(status.response.errors)
                break
            reason = str(read.error or status.error)
            self.calls.prefer_next(endpoint)
        return Health(
            "etcd",
            self.calls.addresses,
            latency_ms is not None and not alarms,
            version,
            latency_ms,
            reason or alarms,
        )

    async def condition(self) -> Condition:
        return await condition.look(self.calls)

    async def snapshot(self) -> AsyncIterator[bytes]:
        """etcd's own snapshot, of the member in front, in parts. Not of the port (backup/native.py).

        Raises:
            Unavailable: no answer, or it broke off. Denied: only etcd's root may.
        """
        await self.calls.authenticated()
        async for part in snapshot.parts(self.calls):
            yield part

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`. Not of the port: the server compacts by itself; for tests and
        maintenance.
        """
        await self.calls.unary("Compact", rpc.CompactionRequest(revision=revision, physical=True))

    async def close(self) -> None:
        for watch in list(self._watches):
            await watch.aclose()
        await self.calls.close()


def _lease_id(lease: Lease | None) -> int:
    return 0 if lease is None else int(lease.id, 16)


def _operation(operation: Put | Delete) -> rpc.RequestOp:
    if isinstance(operation, Put):
        put = rpc.PutRequest(
            key=operation.key.encode(), value=operation.value, lease=_lease_id(operation.lease)
        )
        return rpc.RequestOp(request_put=put)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=operation.key.encode()))
