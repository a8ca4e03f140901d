"""A store that is there already, looked at before anything of a floor is started: does it answer, may we read
and write, is it new enough, and is the site this floor's? A no is one line, and nothing has been changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from controlplane import store
from controlplane.errors import InUse, InvalidSettings, Unavailable
from controlplane.floor import claim, etcd_versions
from controlplane.floor.folders import Folders
from controlplane.store.consul import versions

REACH_S = 6.0
"""An election of a new leader takes about two."""
AGAIN_S = 0.2
T = TypeVar("T")


def require(url: str, site: str, folders: Folders, hosts: Iterable[str], *, join: bool) -> None:
    """The store serves, and the site in it is of the floor in `folders` from now on. `hosts`: whose agents
    will run here.

    Raises:
        Unavailable: no answer within REACH_S, with the reason. Denied: token, password or certificate.
        InvalidSettings: too old. InUse: the site is another floor's, or one of the hosts has an agent.
    """
    asyncio.run(_require(url, store.Keys(site), folders, hosts, join=join))


async def _require(url: str, keys: store.Keys, folders: Folders, hosts: Iterable[str], *, join: bool) -> None:
    client = store.connect(url)
    try:
        await _within_reach(lambda: client.get(keys.site_record))
        health = await client.health()
        if fault := version_fault(health.kind, health.version):
            raise InvalidSettings(f"store {', '.join(health.endpoints)}: {fault}")
        if join and (busy := sorted(set(await claim.hosts_at_work(client, keys)) & set(hosts))):
            raise InUse(
                f'site "{keys.site}": host {", ".join(busy)} has an agent already, or had one until a moment '
                "ago: one host is run by one floor (hftctl down there, or other names of hosts here)"
            )
        await claim.claim(client, keys, folders, join=join)
    finally:
        await client.close()


async def _within_reach(ask: Callable[[], Awaitable[T]]) -> T:
    end_mono_s = time.monotonic() + REACH_S
    while True:
        try:
            return await ask()
        except Unavailable as exc:
            if time.monotonic() > end_mono_s:
                raise Unavailable(f"{exc} (asked for {REACH_S:g} s; nothing was started)") from exc
        await asyncio.sleep(AGAIN_S)


def version_fault(kind: str, version: str) -> str:
    """Why a server of this version must not be used; empty: it may, or does not say its version."""
    if kind == "consul":
        return versions.fault(version)
    found = etcd_versions.parse(version) if kind == "etcd" else None
    return etcd_versions.fault(found) if found is not None else ""
