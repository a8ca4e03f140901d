"""Where the control plane keeps its truth. The port: base.py; every key: keys.py; back ends: etcd/, consul/,
and memory.py for tests and drills. existing.py: a store that an operator has already.

`connect` is the one door. grpc is imported only when an etcd store is really asked for, because that costs
100 ms and 20 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.errors import InvalidSettings
from controlplane.settings import StoreSettings
from controlplane.store import endpoint, existing
from controlplane.store.base import (
    Committed,
    Compare,
    Delete,
    Entry,
    Health,
    Lease,
    Lost,
    Put,
    Snapshot,
    Store,
    Watch,
)
from controlplane.store.keys import Keys

if TYPE_CHECKING:
    from controlplane.store import memory

__all__ = [
    "Committed",
    "Compare",
    "Delete",
    "Entry",
    "Health",
    "Keys",
    "Lease",
    "Lost",
    "Put",
    "Snapshot",
    "Store",
    "Watch",
    "connect",
    "endpoint",
    "existing",
    "followed",
    "limits",
]

_memories: dict[str, memory.Memory] = {}


def connect(where: str | Iterable[str], settings: StoreSettings | None = None) -> Store:
    """A client of the store at `where`.

    "etcd://127.0.0.1:2379,127.0.0.1:2479", "etcd://unix:/ABSOLUTE/PATH", a list of such endpoints, the same
    with "consul://", or "memory://NAME" (one server for each name in this process). Files that a client needs
    are options: "consul://127.0.0.1:8501?ca_file=/etc/hft/ca.pem&token_file=/etc/hft/token" (existing.py).
    Opens no connection yet, so it does not fail when the store is away: `health` tells. Used and closed in
    one event loop.
    """
    if not isinstance(where, str):
        return _etcd(list(where), settings)
    kind, endpoints, options = endpoint.split(where)
    if kind == "memory":
        from controlplane.store import memory

        return memory.MemoryStore(_memories.setdefault(endpoints[0], memory.Memory()))
    settings = settings or _settings(where, options)
    if kind in ("", "etcd"):
        return _etcd(endpoints, settings)
    if kind == "consul":
        from controlplane.store import consul

        return consul.ConsulStore(endpoints, settings)
    raise InvalidSettings(
        f'store "{where}": no such kind of store; wanted etcd://HOST:PORT[,HOST:PORT...], '
        "etcd://unix:/ABSOLUTE/PATH, the same with consul://, or memory://NAME"
    )


WORDS = ("user", "agent")
"""Options that are themselves what they say: etcd's user, the host's own Consul agent."""


def _settings(where: str, options: Mapping[str, str]) -> StoreSettings:
    given: dict[str, Any] = {name: Path(value) for name, value in options.items() if name in existing.OPTIONS}
    given |= {name: value for name, value in options.items() if name in WORDS and value}
    if strange := sorted(set(options) - {*existing.OPTIONS, *WORDS}):
        names = ", ".join((*WORDS, *existing.OPTIONS))
        raise InvalidSettings(f'store "{where}": found the option {strange[0]}, wanted one of {names}')
    return StoreSettings(**given)


def _etcd(endpoints: list[str], settings: StoreSettings | None) -> Store:
    from controlplane.store import etcd

    return etcd.EtcdStore(endpoints, settings or StoreSettings())
