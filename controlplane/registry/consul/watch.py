"""All registrations of a site on Consul, for the one process of a host that follows them (its agent): the
leased keys, joined with the state of Consul's checks, with maintenance, and with the services that only the
catalogue has (a daemon of somebody else's, registered by hand).

An instance that has its leased key is judged by its own check alone: the check of its node turns critical
when only the host's Consul agent is gone, and that must take no daemon out of trading.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable

from controlplane.registry.consul.rows import CONNECTIONS_MAX, CatalogueRows
from controlplane.registry.shown import JoinedWatch, Merged
from controlplane.store import Keys
from controlplane.store.consul import ConsulStore

FEW = 16
FIRST_S = 0.5
"""How long a first snapshot waits for the catalogue: what it has not said by then comes as a change."""


class CatalogueWatch(JoinedWatch):
    def __init__(self, store: ConsulStore, keys: Keys, *, patient: bool = False) -> None:
        """`patient`: the first snapshot waits for all of the catalogue, which is asked over fewer
        connections: there is another watch beside this one."""
        super().__init__(
            store,
            keys,
            f"consul catalogue of {keys.site}",
            lambda merged: _following(store, keys, merged, patient=patient),
        )


@contextlib.asynccontextmanager
async def _following(
    store: ConsulStore, keys: Keys, merged: Merged, *, patient: bool
) -> AsyncIterator[Callable[[], int]]:
    connections_max = FEW if patient else CONNECTIONS_MAX
    rows = CatalogueRows(
        store, keys, merged.take_catalogue, lambda: merged.seen("catalogue"), connections_max
    )
    following = asyncio.create_task(rows.run(), name="consul catalogue")
    first_s = math.inf if patient else FIRST_S
    late = None
    if math.isfinite(first_s):
        late = asyncio.get_running_loop().call_later(first_s, merged.seen, "catalogue")
    try:
        yield lambda: rows.confirmed_boot_ns
    finally:
        if late is not None:
            late.cancel()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
