"""The status of a site out of its store, for a machine on which no floor runs: what the records say, and
which hosts go on writing theirs. Asked only where the environment names a store (HFT_STORE_ENDPOINTS).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

from controlplane import store
from controlplane.cli import by_name
from controlplane.errors import FloorUnreachable, HftctlError
from controlplane.site import document, nouns, status
from controlplane.store import existing

LOOKS_S = 2.2
"""Between two looks: an agent writes its host's record each second."""


def given(environ: Mapping[str, str] = os.environ) -> str | None:
    """Raises InvalidInput: the environment names a store, and something is wrong with it."""
    return existing.url_of_environment(environ)


def read(url: str, site: str) -> document.StatusDocument:
    """Raises FloorUnreachable: the store does not answer, or has no such site."""
    try:
        found = asyncio.run(_read(url, store.Keys(site)))
    except HftctlError as exc:
        raise FloorUnreachable(f"no floor runs here, and its store does not say how it is: {exc}") from exc
    answer: document.StatusDocument = by_name.read(document.encode(found))
    return answer


async def _read(url: str, keys: store.Keys) -> document.StatusDocument:
    client = store.connect(url)
    try:
        health = await client.health()
        before = await client.range(keys.root)
        if not before.entries:
            raise FloorUnreachable(f'there is no site "{keys.site}" in it')
        await asyncio.sleep(LOOKS_S)
        after = await client.range(keys.root)
    finally:
        await client.close()
    silent_ms = {
        key.removeprefix(keys.hosts): status.HOST_SILENT_MS
        for key, entry in after.entries.items()
        if key.startswith(keys.hosts) and before.entries.get(key) == entry
    }
    return status.build(nouns.view_of(keys, after), status.Now(time.time_ns(), health, silent_ms=silent_ms))
