"""Both decoders of market data: the native one (hftd/native/market.c) and its Python twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from hftd.native import market as native


def need_native() -> None:
    """Skips without the native decoder; in CI, where it must be built, such a skip fails the run
    (tests/conftest.py).
    """
    if native.pack_line is None:
        pytest.skip("the native decoder is not built, or HFT_NATIVE=0")


@contextmanager
def python_alone() -> Iterator[None]:
    """As on a machine without a C compiler."""
    absent: dict[str, Any] = dict.fromkeys(("pack_line", "normalise", "unpack"))
    with mock.patch.multiple(native, **absent):
        yield
