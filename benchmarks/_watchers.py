"""The processes that watch registrations for benchmarks/discovery.py: ours, and the bare clients beside it.

Each prints `ready SECONDS` when it has the first list, then a line a change: the registration's stamp and
when it was seen, both of CLOCK_MONOTONIC in ns. A line `cpu` on standard input is answered by the processor
time so far.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import queue
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

WATCHED = "service-000"
"""The service whose changes are told."""
WAIT = "10s"


class Stamped(msgspec.Struct):
    timestamp_ns: int
    service: str


stamped = msgspec.json.Decoder(Stamped)


def tell(stamp_ns: int) -> None:
    print(stamp_ns, time.monotonic_ns(), flush=True)


def ready(began_s: float) -> None:
    print("ready", time.monotonic() - began_s, flush=True)


def answer_cpu() -> None:
    """In a thread of its own, which sleeps in a read."""

    def read() -> None:
        for _ in sys.stdin:
            print("cpu", time.process_time(), flush=True)

    threading.Thread(target=read, daemon=True).start()


# --- ours ---------------------------------------------------------------------------------------------------


async def ours(url: str, site: str) -> None:
    from controlplane import registry

    began_s = time.monotonic()
    async with registry.discovering(url, site=site, first_s=60) as found:

        def changed(service: str, all: tuple[registry.Serving, ...]) -> None:
            tell(max(each.registration.timestamp_ns for each in all))

        found.on_change(changed, WATCHED)
        ready(began_s)
        answer_cpu()
        await asyncio.Event().wait()


async def memory(url: str, site: str) -> None:
    """Prints `memory BYTES`: what discovery holds once each service has been asked for."""
    from controlplane import registry

    async with registry.discovering(url, site="none", first_s=60):
        pass  # what is imported and made once
    gc.collect()
    tracemalloc.start()
    async with registry.discovering(url, site=site, first_s=60) as found:
        for number in range(100):
            found.resolve(f"service-{number:03d}")
        gc.collect()
        print("memory", tracemalloc.get_traced_memory()[0], flush=True)


# --- bare clients -------------------------------------------------------------------------------------------


def grpc_bare(endpoint: str, prefix: str) -> None:
    for _, value in grpc_events(endpoint, prefix):
        record = stamped.decode(value)
        if record.service == WATCHED:
            tell(record.timestamp_ns)


def grpc_events(endpoint: str, prefix: str) -> Iterator[tuple[bytes, bytes]]:
    """Lists once, then gives each event of a watch of the bare stub."""
    import grpc

    from controlplane.store.etcd import calls
    from controlplane.store.etcd.rpc import etcd_pb2 as rpc

    began_s = time.monotonic()
    channel = grpc.insecure_channel(endpoint, options=calls._OPTIONS)
    start, end = calls.range_start(prefix), calls.range_end(prefix)
    listed = channel.unary_unary(
        "/etcdserverpb.KV/Range",
        request_serializer=rpc.RangeRequest.SerializeToString,
        response_deserializer=rpc.RangeResponse.FromString,
    )(rpc.RangeRequest(key=start, range_end=end))
    ready(began_s)
    answer_cpu()
    sent: queue.Queue[Any] = queue.Queue()
    sent.put(
        rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=start, range_end=end, start_revision=listed.header.revision + 1
            )
        )
    )
    watch = channel.stream_stream(
        calls.WATCH,
        request_serializer=rpc.WatchRequest.SerializeToString,
        response_deserializer=rpc.WatchResponse.FromString,
    )
    for answer in watch(iter(sent.get, None)):
        yield from ((event.kv.key, event.kv.value) for event in answer.events)


class Pair(msgspec.Struct, rename="pascal"):
    modify_index: int
    value: bytes


pairs = msgspec.json.Decoder(list[Pair])


def http_bodies(endpoint: str, prefix: str, what: str = "") -> Iterator[bytes]:
    """Blocking queries over one kept connection; of a prefix of the KV, or of `what`."""
    what = what or f"kv/{prefix}?recurse&"
    connection = http.client.HTTPConnection(endpoint)
    index = "0"
    while True:
        connection.request("GET", f"/v1/{what}index={index}&wait={WAIT}")
        answer = connection.getresponse()
        body = answer.read()
        before, index = index, answer.headers["X-Consul-Index"]
        if answer.status == 200 and index != before:
            yield body


def http_bare(endpoint: str, prefix: str) -> None:
    """Of each answer the newest record alone is looked at; who wants to know what else changed pays more."""
    began_s = time.monotonic()
    for number, body in enumerate(http_bodies(endpoint, prefix)):
        found = pairs.decode(body)
        if number == 0:
            ready(began_s)
            answer_cpu()
            continue
        record = stamped.decode(max(found, key=lambda pair: pair.modify_index).value)
        if record.service == WATCHED:
            tell(record.timestamp_ns)


class Listed(msgspec.Struct, rename="pascal"):
    class Service(msgspec.Struct, rename="pascal"):
        meta: dict[str, str]

    service: Service


rows = msgspec.json.Decoder(list[Listed])


def http_catalogue(endpoint: str) -> None:
    """A blocking query of the one service."""
    began_s = time.monotonic()
    for number, body in enumerate(http_bodies(endpoint, "", f"health/service/{WATCHED}?")):
        found = rows.decode(body)
        if number == 0:
            ready(began_s)
            answer_cpu()
            continue
        tell(max(int(row.service.meta["hft-timestamp-ns"]) for row in found))


class Named(msgspec.Struct, rename="pascal"):
    key: str
    modify_index: int
    value: bytes


named = msgspec.json.Decoder(list[Named])


def group_decoders() -> dict[str, Any]:
    from controlplane.model import records

    kinds = {
        "leader": records.LeaderRecord,
        "epoch": records.EpochRecord,
        "electable": records.ElectableRecord,
    }
    return {kind: msgspec.json.Decoder(record) for kind, record in kinds.items()}


def http_groups(endpoint: str, prefix: str) -> None:
    """Each answer of the blocking query, read and decoded into what its records are."""
    began_s = time.monotonic()
    decoders = group_decoders()
    for number, body in enumerate(http_bodies(endpoint, prefix)):
        for pair in named.decode(body):
            kind = pair.key.rpartition("/")[2]
            if kind in decoders:
                decoders[kind].decode(pair.value)
        if number == 0:
            ready(began_s)
            answer_cpu()


def grpc_groups(endpoint: str, prefix: str) -> None:
    """Each event of the watch, decoded."""
    decoders = group_decoders()
    for key, value in grpc_events(endpoint, prefix):
        kind = key.rpartition(b"/")[2].decode()
        if kind in decoders:
            decoders[kind].decode(value)


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if kind in ("ours", "memory"):
        asyncio.run({"ours": ours, "memory": memory}[kind](*words))
    else:
        bare = {
            "grpc": grpc_bare,
            "http": http_bare,
            "grpc-groups": grpc_groups,
            "http-groups": http_groups,
            "http-catalogue": http_catalogue,
        }
        bare[kind](*words)
