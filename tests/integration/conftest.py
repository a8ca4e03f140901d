"""What several of these need: a real etcd, its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers


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
