"""What several of these need: a real etcd, its own for each test; the order path in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import order_path, servers
from tests.support.order_path import OrderPath


@pytest.fixture(scope="module")
def binary() -> Path:
    try:
        return servers.etcd()
    except servers.NoServer as exc:
        pytest.skip(str(exc))


@pytest.fixture
def server(binary: Path) -> Iterator[servers.Server]:
    with servers.running(binary) as running:
        yield running


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-", dir="/dev/shm") as folder:
        yield from order_path.path(Path(folder))
