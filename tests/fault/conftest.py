"""The real stores that faults of the store are tried on, each test on both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import real_stores
from tests.support.real_stores import RealStore


@pytest.fixture(scope="module", params=real_stores.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def real(kind: str) -> Iterator[RealStore]:
    """One server for the tests of a module, which leave it as whole as they found it."""
    with real_stores.running(kind) as made:
        yield made


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[RealStore]:
    with real_stores.cluster(kind) as made:
        yield made
