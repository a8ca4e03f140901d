"""An etcd or a Consul under one face, for tests that run on both: a server, or several; its address; and what
an administrator does to it with other tools than ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane import store
from controlplane.errors import Unavailable
from controlplane.settings import StoreSettings
from tests.support import consul_servers, servers
from tests.support.stores import SOON_S

KINDS = ("etcd", "consul")
Server = servers.Server | consul_servers.Server


@dataclass
class RealStore:
    kind: str
    members: Sequence[Server]
    master: str = ""
    """Consul's token that may do everything; etcd's password of root."""

    @property
    def server(self) -> Server:
        return self.members[0]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def url(self, *endpoints: str) -> str:
        return f"{self.kind}://{','.join(endpoints or self.endpoints)}"

    def connect(self, *endpoints: str, settings: StoreSettings | None = None) -> store.Store:
        """At these endpoints (proxies in front of it), or at its own."""
        return store.connect(self.url(*endpoints), settings)

    async def wipe(self) -> None:
        """Nothing of an earlier test is left; waits for a store that is electing."""
        client = self.connect()
        async with asyncio.timeout(SOON_S):
            while True:
                try:
                    for key in (await client.range("hft/")).entries:
                        await client.delete(key)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        await client.close()

    # --- what an administrator does (blocking: for asyncio.to_thread) ---------------------------------------

    def revoke(self, lease: str) -> None:
        """End a lease, or destroy a session, behind its owner's back."""
        if self.kind == "etcd":
            self.ask("POST", "v3/lease/revoke", {"ID": str(int(lease, 16))})
        else:
            self.ask("PUT", f"v1/session/destroy/{lease}")

    def leases(self) -> list[str]:
        """The ids of all that there are."""
        if self.kind == "etcd":
            found = json.loads(self.ask("POST", "v3/lease/leases", {})).get("leases", [])
            return [f"{int(each['ID']):x}" for each in found]
        return [each["ID"] for each in json.loads(self.ask("GET", "v1/session/list"))]

    def leading(self) -> Server:
        """Of several members, the one that leads them now."""
        if self.kind == "consul":
            found = json.loads(self.ask("GET", "v1/status/leader"))
            (leader,) = [each for each in self.members if found.endswith(f":{each.ports['server']}")]  # type: ignore[union-attr]
            return leader
        for member in self.members:
            said = json.loads(self.ask("POST", "v3/maintenance/status", {}, of=member))
            if said["leader"] == said["header"]["member_id"]:
                return member
        raise AssertionError("no member says that it leads")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        of: Server | None = None,
        token: str = "",
    ) -> bytes:
        """Over HTTP: etcd's JSON gateway (`token`: of its auth), Consul's API (as the master)."""
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"X-Consul-Token": self.master} if self.master and self.kind == "consul" else {}
        headers |= {"Authorization": token} if token else {}
        request = urllib.request.Request(
            f"http://{(of or self.server).endpoint}/{path}", data=content, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def binary(kind: str) -> Path:
    return servers.etcd() if kind == "etcd" else consul_servers.consul()


@contextlib.contextmanager
def running(kind: str, **options: Any) -> Iterator[RealStore]:
    """A server of its own with empty data. `options`: of servers.running, or consul_servers.running."""
    if kind == "etcd":
        with servers.running(binary(kind), **options) as etcd:
            yield RealStore(kind, [etcd])
    else:
        with consul_servers.running(binary(kind), **options) as consul:
            yield RealStore(kind, [consul])


@contextlib.contextmanager
def cluster(kind: str, size: int = 3) -> Iterator[RealStore]:
    if kind == "etcd":
        with servers.cluster(binary(kind), size) as etcds:
            yield RealStore(kind, etcds)
    else:
        with consul_servers.cluster(binary(kind), size) as consuls:
            yield RealStore(kind, consuls)
