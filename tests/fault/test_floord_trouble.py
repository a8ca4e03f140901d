"""Fault: hft-floord's own trouble: no descriptors, a disk that takes nothing, a run.json and keys that are
rubbish. The floor trades on, nothing is started twice, the trouble is said once and heals by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import resource
import signal
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import store
from controlplane.floor import consul, folders
from controlplane.host import identity
from controlplane.store.etcd.client import EtcdStore
from controlplane.store.etcd.rpc import etcd_pb2 as rpc
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
STANDS_S = 3.0
"""So long a trouble is let stand: a dozen tries."""


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        yield one


def floord_of(floor: floors.Floor) -> int:
    known = identity.from_plain(floor.parent().get("floord"), "floord")
    assert known is not None and identity.runs(known)
    return known.pid


@contextlib.contextmanager
def limited(pid: int, limit: int, soft: int) -> Iterator[None]:
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, before)


def said(floor: floors.Floor, *words: str) -> list[str]:
    log = folders.Folders(floor.site_dir).log("floord").read_text()
    return [line for line in log.splitlines() if all(word in line for word in words)]


def test_without_descriptors_it_starts_nothing_twice_and_what_died_once_it_can(floor: floors.Floor) -> None:
    floord, before = floord_of(floor), floor.pids()
    store = floor.store_pid()
    old = floor.holder("alpha", "agent")
    with limited(floord, resource.RLIMIT_NOFILE, 3):
        floor.kill(old)
        floors.wait_for(
            "it said", lambda: said(floor, "agent-alpha: cannot be started", "Too many open files")
        )
        time.sleep(STANDS_S)
        assert floor.holder("alpha", "agent") == 0 and floord_of(floor) == floord
    floors.wait_for("a new agent", lambda: floor.holder("alpha", "agent") not in (0, old))
    floors.wait_for("healthy", floor.healthy)
    assert floor.pids() == before and floor.store_pid() == store
    assert len(said(floor, "agent-alpha: cannot be started")) == 1
    assert len(said(floor, "'agent-alpha: over, after")) == 1


def test_a_disk_that_takes_nothing_costs_the_record_of_what_runs_and_nothing_else(
    floor: floors.Floor,
) -> None:
    """RLIMIT_FSIZE 0: every write into a file of hft-floord fails, its log and floor.json."""
    floord, before = floord_of(floor), floor.pids()
    path = folders.Folders(floor.site_dir).floor_json
    controller = floor.parent()["processes"]["controld"]["pid"]
    kept = path.read_bytes()
    with limited(floord, resource.RLIMIT_FSIZE, 0):
        path.unlink()
        floor.kill(controller)
        floors.wait_for("the old one reaped", lambda: identity.start_time(controller) is None)
        time.sleep(STANDS_S)
        assert not path.exists() and identity.start_time(floord)
    floors.wait_for("what runs on record", lambda: path.exists() and floor.parent() != {})
    assert path.read_bytes() != kept and floord_of(floor) == floord
    floors.wait_for("healthy", floor.healthy)
    assert floor.parent()["processes"]["controld"]["pid"] != controller and floor.pids() == before


def test_a_run_json_that_is_rubbish_is_said_once_and_healed(floor: floors.Floor) -> None:
    path, before = folders.Folders(floor.site_dir).run_json, floor.pids()
    kept = path.read_bytes()
    path.write_bytes(b"rubbish")
    floors.wait_for("it said", lambda: said(floor, "not read", "run.json"))
    time.sleep(STANDS_S)
    path.write_bytes(kept)
    floors.wait_for("it is over", lambda: said(floor, "the controller", ": over, after"))
    assert len(said(floor, "not read")) == 1
    assert floor.healthy() and floor.pids() == before


KEYS = {
    b"hft/lab/groups/\xff\xfe/epoch": b"\xff",
    b"hft/lab/groups/": b"",
    b"hft/lab/groups//epoch": b"{}",
    b"hft/lab/controller": b"\x00",
    b"hft/lab/\xff": b"x",
}


def spoil(floor: floors.Floor) -> int:
    """Put them past every check of ours; how many the store has taken."""
    endpoint = floor.parent()["store"]["endpoints"][0]
    if floor.parent()["store"]["kind"] == "consul":
        return sum(put_in_consul(floor, endpoint, key, value) for key, value in KEYS.items())

    async def put() -> int:
        client = store.connect(f"etcd://{endpoint}")
        assert isinstance(client, EtcdStore)
        try:
            for key, value in KEYS.items():
                await client.calls.unary("Put", rpc.PutRequest(key=key, value=value), writes=True)
        finally:
            await client.close()
        return len(KEYS)

    return asyncio.run(put())


def put_in_consul(floor: floors.Floor, endpoint: str, key: bytes, value: bytes) -> bool:
    token = (floor.site_dir / consul.FOLDER / consul.TOKEN).read_text().strip()
    client = http.client.HTTPConnection("store", timeout=10)
    client.sock = socket.socket(socket.AF_UNIX)
    try:
        client.sock.connect(endpoint.removeprefix("unix:"))
        target = f"/v1/kv/{urllib.parse.quote_from_bytes(key)}"
        client.request("PUT", target, value, {"X-Consul-Token": token})
        return client.getresponse().status == 200
    finally:
        client.close()


def test_a_floord_that_comes_over_bad_keys_adopts_what_runs(floor: floors.Floor) -> None:
    before = floor.pids()
    floord = floord_of(floor)
    floor.kill(floord)
    floors.wait_for("its end", lambda: identity.start_time(floord) is None)
    assert spoil(floor) >= 3
    floor.up()
    assert floord_of(floor) != floord and floor.pids() == before
    assert not said(floor, "cannot go on")
    time.sleep(STANDS_S)
    os.kill(floord_of(floor), signal.SIGTERM)
    floors.wait_for("the floor down", lambda: not floors.processes_of(floor.site_dir))
    assert not Path(folders.Folders(floor.site_dir).floor_json).exists(), "SIGTERM takes it down in order"
