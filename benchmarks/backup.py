"""A backup of 50,000 keys out of each store, and back: seconds, beside a bare client that lists the same keys
in the same run.

The ratio is the backup to the bare list (etcd: grpc in pages of as many keys; Consul: one recursive GET and
its JSON). The stores are of this run, on loopback, with their data in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc

from controlplane import backup, store
from controlplane.backup import file
from controlplane.store import Keys, Put
from controlplane.store.etcd import calls
from controlplane.store.etcd.client import PAGE_KEYS
from controlplane.store.etcd.rpc import etcd_pb2 as rpc
from tests.support import consul_servers, servers

KEYS = Keys("bench")
LIMIT_S = 5.0
VALUE_BYTES = 200
ROUNDS = 3


@contextmanager
def running(kind: str) -> Iterator[str]:
    if kind == "consul":
        with consul_servers.running(consul_servers.consul()) as server:
            yield server.endpoint
    else:
        with servers.running(servers.etcd()) as server:
            yield server.endpoint


async def fill(client: store.Store, count: int) -> None:
    client.try_within(30)
    await client.put(KEYS.incarnation, b"1700000000000")
    for first in range(0, count, 60):
        rows = range(first, min(first + 60, count))
        await client.txn([], [Put(f"{KEYS.root}config/x/{n:06d}", b"x" * VALUE_BYTES) for n in rows])


def bare_etcd(endpoint: str) -> int:
    path, response = calls.METHODS["Range"]
    found, start, revision = 0, calls.range_start(KEYS.root), 0
    with grpc.insecure_channel(endpoint) as channel:
        ask = channel.unary_unary(
            path, request_serializer=calls.serialize, response_deserializer=response.FromString
        )
        while True:
            answer = ask(
                rpc.RangeRequest(
                    key=start, range_end=calls.range_end(KEYS.root), limit=PAGE_KEYS, revision=revision
                )
            )
            revision = revision or answer.header.revision
            found += len([(kv.key, kv.value) for kv in answer.kvs])
            if not answer.more:
                return found
            start = answer.kvs[-1].key + b"\0"


def bare_consul(endpoint: str) -> int:
    with urllib.request.urlopen(f"http://{endpoint}/v1/kv/{KEYS.root}?recurse&consistent") as answer:
        rows = json.load(answer)
    return len([(row["Key"], base64.b64decode(row["Value"] or "")) for row in rows])


async def least_s(rounds: int, work: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(rounds):
        before_s = time.perf_counter()
        await work()
        took.append(time.perf_counter() - before_s)
    return min(took)


async def measure(kind: str, endpoint: str, count: int, folder: Path) -> bool:
    client = store.connect(f"{kind}://{endpoint}")
    path = folder / f"{kind}.hftbackup"
    bare = bare_consul if kind == "consul" else bare_etcd

    async def list_bare() -> None:
        assert await asyncio.to_thread(bare, endpoint) >= count

    async def take() -> None:
        taken = await backup.take(client, KEYS, path, actor="bench")
        assert taken.records >= count

    async def put_back() -> None:
        with file.opened(path) as found:
            await backup.restore(client, KEYS, found, actor="bench", reason="")

    try:
        await fill(client, count)
        bare_s, backup_s = await least_s(ROUNDS, list_bare), await least_s(ROUNDS, take)
        restore_s = await least_s(1, put_back)
    finally:
        await client.close()
    good = backup_s < LIMIT_S
    print(
        f"{kind:7} {count} keys  backup/bare {backup_s / bare_s:5.2f}   backup {backup_s:6.2f} s "
        f"(limit {LIMIT_S:g} s: {'kept' if good else 'MISSED'})   bare list {bare_s:6.2f} s   "
        f"restore {restore_s:6.2f} s   {path.stat().st_size / 1e6:.1f} MB"
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--store", choices=("etcd", "consul"), action="append")
    given = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="hft-backup-") as scratch:
        for kind in given.store or ("etcd", "consul"):
            with running(kind) as endpoint:
                good &= asyncio.run(measure(kind, endpoint, given.keys, Path(scratch)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
