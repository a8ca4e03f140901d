"""Discovery: what `resolve` costs beside one look-up at the store, how soon a change is heard beside the bare
client, and how all of it grows with the site.

    python benchmarks/discovery.py [--stores etcd,consul] [--changes 60] [--sizes 50,500,5000] [--catalogue]

Ratios first; each figure has its baseline from the same run. The watchers are processes of their own
(_watchers.py), one at a time, in turn; the stores are real ones on loopback with files in a temporary folder.
With --catalogue the instances are services of Consul's agent and no keys, and the bare client is a blocking
query of the one service; 5,000 of them take the agent a minute to write.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._watchers import WATCHED
from controlplane import model, registry
from controlplane import store as stores
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.records import Registration
from controlplane.registry import discovery
from controlplane.registry.consul import definition
from controlplane.store import Keys, Put, Store
from controlplane.store.consul import ConsulStore
from controlplane.store.limits import OPERATIONS_MAX
from tests.support import consul_servers, servers

WATCHERS = Path(__file__).with_name("_watchers.py")
SERVICES = 100
GROUPS = 10
"""With roles: a leader, an epoch and two more records each, 40 keys."""
HOSTS = 8
INCARNATION = 1_700_000_000_000
LOOKED_UP = "looked-up"
AT_ONCE = 16
"""Of registering at Consul's agent."""
APART_S = 0.08
"""Between two changes: more than the least time between two looks of a follower, so that each is seen by
itself."""
RENEWALS = 200
RENEWAL_S = 0.01
"""Between two renewals: ten leaders renew ten times a second each."""
ROUNDS = 3
"""In turn: ours, the bare client, ours ..."""
CALLS = 10_000
SOON_S = 30.0
GOAL_RESOLVE_US = 0.2
GOAL_CALLBACK = 1.5
GOAL_FIRST_S, GOAL_SEEN_MS, GOAL_MB = 1.0, 50.0, 20.0


# --- a site -------------------------------------------------------------------------------------------------


def service(number: int) -> str:
    return f"service-{number:03d}"


def registration(number: int, stamp_ns: int = 1) -> Registration:
    """The instances go to the services in turn."""
    name, host = service(number % SERVICES), f"host-{number % HOSTS}"
    process = Process(f"{name}-{host}-{number}", "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f", 1000 + number, 77)
    endpoints = {
        socket: f"ipc:///run/hft/bench/{process.instance}.{socket}" for socket in ("orders", "events")
    }
    return Registration(
        name, process.instance, host, process, endpoints, "10.0.0.1", 9000, stamp_ns, "0.1.0", zone="rack-1"
    )


def leader(number: int, nonce: str) -> records.LeaderRecord:
    process = registration(number).process
    return records.LeaderRecord(process, INCARNATION, 1, process.instance, nonce, lease_ms=1500)


def content(keys: Keys, instances: int) -> Iterator[Put]:
    for number in range(GROUPS):
        spec = ServiceSpec(service(number), "omsd", Mode.ACTIVE_STANDBY, ("host-0", "host-1"))
        yield Put(keys.spec(spec.name), model.encode(spec))
        yield Put(keys.leader(spec.name), model.encode(leader(number, "n")))
        yield Put(keys.epoch(spec.name), model.encode(records.EpochRecord(INCARNATION, 1)))
        electable = records.ElectableRecord((registration(number).process,), 1)
        yield Put(keys.electable(spec.name), model.encode(electable))
        row = records.HistoryRow(1, None, registration(number).instance, "first", "system", "", None, 1, 2, 3)
        yield Put(keys.history_row(spec.name, 1), model.encode(row))
    for number in range(instances):
        each = registration(number)
        yield Put(keys.registration(each.service, each.instance), model.encode(each))


async def write(client: Store, keys: Keys, instances: int, *, catalogue: bool) -> None:
    puts = list(content(keys, 0 if catalogue else instances))
    for at in range(0, len(puts), OPERATIONS_MAX):
        await client.txn([], puts[at : at + OPERATIONS_MAX])
    if catalogue:
        left = iter(range(instances))

        async def some() -> None:
            for number in left:
                await register(client, keys, registration(number), catalogue=True)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def register(client: Store, keys: Keys, each: Registration, *, catalogue: bool) -> None:
    """One instance, or another stamp of it."""
    if not catalogue:
        await client.put(keys.registration(each.service, each.instance), model.encode(each))
        return
    assert isinstance(client, ConsulStore)
    body = json.dumps(definition.service(each, keys.site)).encode()
    await client.agent.ask("PUT", "agent/service/register", body=body)


# --- watchers -----------------------------------------------------------------------------------------------


class Watcher:
    """One watching process."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, str(WATCHERS), *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._lines: Queue[list[str]] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.first_s = float(self.line()[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.split())

    def line(self, timeout_s: float = SOON_S) -> list[str]:
        try:
            return self._lines.get(timeout=timeout_s)
        except Empty:
            raise SystemExit(f"a watcher said nothing for {timeout_s} s") from None

    def cpu_s(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("cpu\n")
        self.process.stdin.flush()
        return float(self.line()[1])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Seen:
    """ns, a change each."""

    from_put: list[int]
    from_commit: list[int]


async def changes(client: Store, keys: Keys, watcher: Watcher, times: int, *, catalogue: bool) -> Seen:
    """Write one registration again and again; each is waited for."""
    seen = Seen([], [])
    await asyncio.sleep(APART_S)
    for _ in range(times):
        each = registration(0, time.monotonic_ns())
        await register(client, keys, each, catalogue=catalogue)
        committed_ns = time.monotonic_ns()
        stamp_ns, at_ns = map(int, await asyncio.to_thread(watcher.line))
        assert stamp_ns == each.timestamp_ns
        seen.from_put.append(at_ns - stamp_ns)
        seen.from_commit.append(max(0, at_ns - committed_ns))
        await asyncio.sleep(APART_S)
    return seen


async def renewal_us(client: Store, keys: Keys, watcher: Watcher, times: int) -> float:
    """Processor time of the watcher for one renewal of a leader at the pace of a site of ten groups, less
    what it takes when nothing happens.
    """

    async def spent_s(renew: bool) -> float:
        before_s = await asyncio.to_thread(watcher.cpu_s)
        for number in range(times):
            if renew:
                group = number % GROUPS
                await client.put(keys.leader(service(group)), model.encode(leader(group, f"n{number}")))
            await asyncio.sleep(RENEWAL_S)
        return (await asyncio.to_thread(watcher.cpu_s)) - before_s

    idle_s = await spent_s(False)
    return (await spent_s(True) - idle_s) / times * 1e6


# --- stores -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Where:
    kind: str
    endpoint: str

    @property
    def url(self) -> str:
        return f"{self.kind}://{self.endpoint}"

    def bare_groups(self, keys: Keys) -> tuple[str, ...]:
        return ("grpc-groups" if self.kind == "etcd" else "http-groups", self.endpoint, keys.groups)

    def bare(self, prefix: str, *, catalogue: bool) -> tuple[str, ...]:
        if catalogue:
            return ("http-catalogue", self.endpoint)
        return ("grpc" if self.kind == "etcd" else "http", self.endpoint, prefix)


@contextlib.contextmanager
def running(kind: str) -> Iterator[Where]:
    if kind == "etcd":
        with servers.running(servers.etcd()) as etcd:
            yield Where(kind, etcd.endpoint)
    else:
        with consul_servers.running(consul_servers.consul()) as consul:
            yield Where(kind, consul.endpoint)


# --- resolve ------------------------------------------------------------------------------------------------


class Known:
    """A view that does not change: one service of so many instances."""

    def __init__(self, instances: int) -> None:
        self.specs: Mapping[str, ServiceSpec] = {}
        self.leaders: Mapping[str, records.LeaderRecord] = {}
        self._registered = [registration(number * SERVICES) for number in range(instances)]
        self.view = self

    def registered(self, name: str) -> Sequence[Registration]:
        return self._registered if name == WATCHED else []

    def age_s(self) -> float:
        return 0.0

    def tell(self, call: Callable[..., None], *kinds: str) -> None:
        """It never changes."""


BALANCINGS: dict[str, tuple[discovery.Balanced | Any, str | None]] = {
    "round robin": (discovery.RoundRobin(), None),
    "same host first": (discovery.SameHostFirst("host-0", "rack-1"), None),
    "least loaded": (discovery.LeastLoaded(), None),
    "weighted": (discovery.Weighted(), None),
    "sticky by key": (discovery.Sticky(), "binance"),
    "symbol partitions": (discovery.SymbolPartitions(), "BTCUSDT"),
}


def resolve_us(instances: int) -> dict[str, float]:
    found = registry.Discovery(Known(instances))
    took: dict[str, float] = {}
    for name, (balancing, key) in BALANCINGS.items():
        resolve = found.by(balancing).resolve
        call = "resolve(name)" if key is None else "resolve(name, key)"
        names = {"resolve": resolve, "name": WATCHED, "key": key}
        # Processor time, the least of many short runs: this machine has other things to do.
        runs = timeit.repeat(call, timer=time.process_time, globals=names, number=CALLS, repeat=100)
        took[name] = min(runs) / CALLS * 1e6
    return took


def consul_lookup_us(where: Where, times: int = 300) -> float:
    """GET /v1/health/service/NAME?passing of 50 instances in the catalogue, over a kept connection."""
    connection = http.client.HTTPConnection(where.endpoint)
    for number in range(50):
        each = registration(number * SERVICES)
        entry = {
            "Node": each.host,
            "Address": each.address,
            "Service": {"ID": each.instance, "Service": LOOKED_UP, "Port": each.port},
            "Check": {"Name": each.instance, "ServiceID": each.instance, "Status": "passing"},
        }
        connection.request("PUT", "/v1/catalog/register", json.dumps(entry))
        answer = connection.getresponse()
        assert answer.read() and answer.status == 200
    took = []
    for _ in range(times):
        began_s = time.perf_counter()
        connection.request("GET", f"/v1/health/service/{LOOKED_UP}?passing")
        assert len(json.loads(connection.getresponse().read())) == 50
        took.append(time.perf_counter() - began_s)
    return statistics.median(took) * 1e6


def etcd_range_us(where: Where, prefix: str, times: int = 300) -> float:
    """One range of a service's registrations over a kept channel, by the bare stub."""
    import grpc

    from controlplane.store.etcd import calls
    from controlplane.store.etcd.rpc import etcd_pb2 as rpc

    with grpc.insecure_channel(where.endpoint) as channel:
        call = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        request = rpc.RangeRequest(key=calls.range_start(prefix), range_end=calls.range_end(prefix))
        took = []
        for _ in range(times):
            began_s = time.perf_counter()
            assert call(request).kvs
            took.append(time.perf_counter() - began_s)
    return statistics.median(took) * 1e6


# --- all of it ----------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What one site on one store took."""

    store: str
    instances: int
    first_s: float
    ours: Seen
    bare: Seen
    renewal_us: float
    bare_renewal_us: float
    """Of the bare client that watches the same prefix and decodes what it gets: an event on etcd, all of the
    prefix on Consul."""
    cache_mb: float

    @property
    def callback_ratio(self) -> float:
        return statistics.median(self.ours.from_put) / statistics.median(self.bare.from_put)


async def of_a_site(where: Where, instances: int, times: int, *, catalogue: bool) -> Row:
    site = f"bench-{instances}"
    keys, client = Keys(site), stores.connect(where.url)
    client.try_within(SOON_S)  # a busy disk is no error here
    ours, bare, first_s = Seen([], []), Seen([], []), list[float]()
    renewals: dict[str, list[float]] = {"ours": [], "bare": []}
    try:
        await write(client, keys, instances, catalogue=catalogue)
        for _ in range(ROUNDS):
            bare_words = where.bare(keys.services, catalogue=catalogue)
            for seen, words in ((bare, bare_words), (ours, ("ours", where.url, site))):
                watcher = await asyncio.to_thread(Watcher, *words)
                try:
                    some = await changes(client, keys, watcher, times // ROUNDS, catalogue=catalogue)
                    seen.from_put += some.from_put
                    seen.from_commit += some.from_commit
                    if seen is ours:
                        first_s.append(watcher.first_s)
                finally:
                    watcher.close()
        for _ in range(ROUNDS):
            for who, words in (("ours", ("ours", where.url, site)), ("bare", where.bare_groups(keys))):
                watcher = await asyncio.to_thread(Watcher, *words)
                try:
                    renewals[who].append(await renewal_us(client, keys, watcher, RENEWALS))
                finally:
                    watcher.close()
        cache_mb = said("memory", where.url, site) / 1e6
    finally:
        await client.close()
    first, ours_us, bare_us = map(statistics.median, (first_s, renewals["ours"], renewals["bare"]))
    return Row(where.kind, instances, first, ours, bare, ours_us, bare_us, cache_mb)


def said(*words: str) -> float:
    """The number in the one line of a process."""
    command = [sys.executable, str(WATCHERS), *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1])


def percentile_ms(values: Sequence[int], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] / 1e6


def show(rows: Sequence[Row]) -> None:
    for row in rows:
        ratio = row.callback_ratio
        met = "met" if ratio <= GOAL_CALLBACK else "missed"
        print(
            f"{row.store}, {row.instances} instances: a change is heard after {ratio:.2f} times what the "
            f"bare client takes (goal {GOAL_CALLBACK}: {met}); a leader's renewal costs "
            f"{row.renewal_us / row.bare_renewal_us:.2f} times the processor time of the bare client"
        )
    print()
    print(
        "| store | instances | first snapshot s | change heard, p50 / p99 ms from the commit | from the put, "
        "p50 ms | bare client, p50 ms | renewal us | bare client, us | cache MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        commit = [percentile_ms(row.ours.from_commit, part) for part in (0.5, 0.99)]
        put_ms, bare_ms = (percentile_ms(seen.from_put, 0.5) for seen in (row.ours, row.bare))
        renewal = f"{row.renewal_us:.0f} | {row.bare_renewal_us:.0f}"
        print(
            f"| {row.store} | {row.instances} | {row.first_s:.2f} | {commit[0]:.1f} / {commit[1]:.1f} | "
            f"{put_ms:.1f} | {bare_ms:.1f} | {renewal} | {row.cache_mb:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stores", default="etcd,consul")
    parser.add_argument("--sizes", default="50,500,5000")
    parser.add_argument("--changes", type=int, default=60)
    parser.add_argument(
        "--catalogue", action="store_true", help="register in Consul's catalogue; Consul alone"
    )
    given = parser.parse_args()
    kinds = ["consul"] if given.catalogue else given.stores.split(",")
    took = resolve_us(50)
    rows: list[Row] = []
    lookups: dict[str, float] = {}
    for kind in kinds:
        with running(kind) as where:
            sizes = list(map(int, given.sizes.split(",")))
            rows += [
                asyncio.run(of_a_site(where, size, given.changes, catalogue=given.catalogue))
                for size in sizes
            ]
            if kind == "consul":
                lookups["a look-up at the Consul agent"] = consul_lookup_us(where)
            else:
                prefix = Keys(f"bench-{max(sizes)}").registrations(WATCHED)
                lookups["an etcd range"] = etcd_range_us(where, prefix)
    for name, us in took.items():
        ratios = ", ".join(f"{other / us:,.0f} times cheaper than {what}" for what, other in lookups.items())
        print(f"resolve, {name}: {us:.3f} us: {ratios}")
    for what, us in lookups.items():
        print(f"  {what} of 50 instances: {us:.0f} us")
    worst = max(took["round robin"], took["same host first"])
    print(f"  goal {GOAL_RESOLVE_US} us in turn and on the same host: {worst:.3f} us")
    show(rows)
    print(f"goals at 5000: first {GOAL_FIRST_S} s, heard within {GOAL_SEEN_MS} ms, cache {GOAL_MB} MB")


if __name__ == "__main__":
    main()
