"""A store that will not have us, or is none: a wrong token or password, a wrong authority, another HTTP server at
the address, a Consul that is too old. Each is one line with an exit code, and nothing is changed anywhere.
"""

from __future__ import annotations

import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from controlplane import store
from controlplane.errors import HftctlError
from controlplane.settings import StoreSettings
from controlplane.store import Compare, Put
from tests.support import real_stores, servers
from tests.support.real_stores import RealStore

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

UNREACHABLE = 3
"""Exit code (design.md section 9)."""


async def _refused(url: str, settings: StoreSettings, wanted: str) -> None:
    """Every call, and health, says `wanted` in one line; a write's error is never "applied, perhaps"."""
    client = store.connect(url, settings)
    try:
        for call in (
            lambda: client.get("hft/a"),
            lambda: client.range("hft/"),
            lambda: client.put("hft/a", b"1"),
            lambda: client.txn([Compare("hft/a", 0)], [Put("hft/a", b"1")]),
            lambda: client.lease(5.0),
        ):
            with pytest.raises(HftctlError) as caught:
                await call()
            said = str(caught.value)
            assert "\n" not in said and said.startswith("store "), said
            assert caught.value.exit_code in (1, UNREACHABLE)
        with pytest.raises(HftctlError, match=wanted) as caught:
            await client.get("hft/a")
        assert caught.value.exit_code == UNREACHABLE
        health = await client.health()
        assert not health.healthy and "\n" not in health.reason
        with pytest.raises(AssertionError):
            raise AssertionError(health.reason)
    finally:
        await client.close()
