"""For people with scripts on the libraries that they know: etcd3 0.12, python-consul 1.1.0, each in an
environment of its own, and py-consul list, watch and read what we register, over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import registry, store
from controlplane.errors import InvalidSettings
from controlplane.registry.consul import library
from tests.support import checks, consul_servers, environments, servers

SOON_S = 60.0
PORT = checks.free_ports(1)[0]

ETCD3 = """
import json, sys, etcd3
host, _, port = sys.argv[1].rpartition(":")
client = etcd3.client(host=host, port=int(port))
events, cancel = client.watch_prefix("services/")
listed = {meta.key.decode(): json.loads(value) for value, meta in client.get_prefix("services/")}
print(json.dumps({"listed": listed}), flush=True)
for event in events:
    print(json.dumps({"event": type(event).__name__, "key": event.key.decode()}), flush=True)
"""

PYTHON_CONSUL = """
import json, sys, consul
host, _, port = sys.argv[1].rpartition(":")
client = consul.Consul(host=host, port=int(port))
_, names = client.catalog.services()
index, rows = client.health.service("quoter", passing=True)
_, kv = client.kv.get("hft/lab/services/quoter/", recurse=True)
print(json.dumps({"names": names, "rows": [row["Service"] for row in rows],
                  "kv": [json.loads(each["Value"]) for each in kv or []]}), flush=True)
while True:
    index, rows = client.health.service("quoter", passing=True, index=index, wait="60s")
    print(json.dumps({"ids": [row["Service"]["ID"] for row in rows]}), flush=True)
"""


class Script:
    """One that prints a JSON object a line."""

    def __init__(self, python: Path, code: str, endpoint: str) -> None:
        self.process = subprocess.Popen(
            [str(python), "-c", code, endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    async def said(self) -> Any:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), SOON_S)
        assert line, self.process.stderr.read()
        return json.loads(line)

    async def until(self, name: str, value: object) -> Any:
        while (found := await self.said()).get(name) != value:
            pass
        return found


@contextlib.contextmanager
def script(python: Path, code: str, endpoint: str) -> Iterator[Script]:
    made = Script(python, code, endpoint)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(10)


@contextlib.asynccontextmanager
async def quoter(where: str, instance: str = "quoter-1", prefix: str | None = None) -> AsyncIterator[None]:
    async with registry.registered(
        where,
        "quoter",
        address="127.0.0.1",
        port=PORT,
        instance=instance,
        prefix=prefix,
        meta={"desk": "rates"},
    ):
        yield


def test_etcd3_lists_watches_and_reads_services_under_a_bare_prefix() -> None:
    python = environments.python_with("etcd3==0.12.0", "protobuf==3.20.3")

    async def case(endpoint: str) -> None:
        where = f"etcd://{endpoint}"
        async with quoter(where, prefix="/"):
            with script(python, ETCD3, endpoint) as scripted:
                listed = (await scripted.said())["listed"]
                said = listed["services/quoter/quoter-1"]
                assert (said["address"], said["port"], said["service"]) == ("127.0.0.1", PORT, "quoter")
                assert abs(said["timestamp"] - time.time()) < 600
                async with quoter(where, "quoter-2", prefix="/"):
                    put = await scripted.until("key", "services/quoter/quoter-2")
                    assert put["event"] == "PutEvent"
                assert (await scripted.until("event", "DeleteEvent"))["key"] == "services/quoter/quoter-2"

    with servers.running(servers.etcd()) as server:
        asyncio.run(case(server.endpoint))


def test_python_consul_lists_watches_and_reads_services() -> None:
    python = environments.python_with("python-consul==1.1.0")

    async def case(endpoint: str) -> None:
        where = f"consul://{endpoint}"
        async with checks.answered(PORT), quoter(where):
            with script(python, PYTHON_CONSUL, endpoint) as scripted:
                found = await scripted.said()
                assert "site-lab" in found["names"]["quoter"]
                (row,) = found["rows"]
                assert (row["ID"], row["Port"], row["Meta"]["desk"]) == ("quoter-1", PORT, "rates")
                assert [each["instance"] for each in found["kv"]] == ["quoter-1"]
                async with quoter(where, "quoter-2"):
                    await scripted.until("ids", ["quoter-1", "quoter-2"])
                await scripted.until("ids", ["quoter-1"])

    with consul_servers.running(consul_servers.consul()) as server:
        asyncio.run(case(server.endpoint))


def test_py_consul_is_set_up_by_the_store_s_address_and_sees_what_is_registered() -> None:
    """And what it says of a node counts here: in maintenance, all of its instances are."""

    async def case(endpoint: str) -> None:
        where = f"consul://{endpoint}"
        client = await asyncio.to_thread(library.client, where)
        reader = store.connect(where)
        async with checks.answered(PORT), quoter(where):
            _, names = await asyncio.to_thread(client.catalog.services)
            assert "site-lab" in names["quoter"]
            _, rows = await asyncio.to_thread(lambda: client.health.service("quoter", passing=True))
            assert [row["Service"]["ID"] for row in rows] == ["quoter-1"]
            await asyncio.to_thread(lambda: client.agent.maintenance(True, reason="new disk"))
            async for snapshot in registry.watch(reader, store.Keys("lab")):
                if [each.maintenance for each in registry.decode(snapshot.entries.values())] == ["new disk"]:
                    break
        await reader.close()

    with consul_servers.running(consul_servers.consul()) as server:
        asyncio.run(asyncio.wait_for(case(server.endpoint), SOON_S))
    for where, why in (
        ("etcd://127.0.0.1:1", "wanted consul"),
        ("consul://unix:/run/c.sock", "over TCP alone"),
    ):
        with pytest.raises(InvalidSettings, match=why):
            library.client(where)
