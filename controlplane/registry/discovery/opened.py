"""The door to discovery for programs that have no agent and no follower: open the store, follow what is
needed, close.

    async with registry.discovering("etcd://127.0.0.1:2379", site="lab") as found:
        riskd = found.resolve("riskd")

Three watches, whatever the site has: of registrations, of specs (who has roles) and of the groups (who
leads).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from controlplane import store as stores
from controlplane.host import log
from controlplane.host.in_thread import InThread, in_thread
from controlplane.host.system_clock import SystemClock
from controlplane.registry import chosen
from controlplane.registry.discovery.balancing import Balancing
from controlplane.registry.discovery.cache import Balanced, Call, Discovery, Report, to_log
from controlplane.registry.discovery.ejection import EjectionSettings
from controlplane.registry.discovery.serving import ANY, Only, Serving
from controlplane.settings import StoreSettings
from controlplane.site import anti_entropy
from controlplane.site.follower import Follower
from controlplane.store import Keys, Store

FIRST_S = 10.0
"""For the first answer of the store: several tries, also of a store that is just electing."""


@contextlib.asynccontextmanager
async def followed(
    client: Store,
    keys: Keys,
    *,
    ejection: EjectionSettings | None = None,
    report: Report = to_log,
    compare_every_s: float = anti_entropy.EVERY_S,
    catalogue: bool = True,
) -> AsyncIterator[tuple[Discovery, Follower]]:
    """Discovery over a client that somebody else opens and closes, and the follower behind it, which has
    nothing else of the site. Waits for nothing. `catalogue`: as registry.watch has it.
    """
    watch = chosen.watch(client, keys, catalogue=catalogue)
    follower = Follower(client, keys, registrations=watch, only=(keys.services, keys.specs, keys.groups))
    found = Discovery(follower, SystemClock(), ejection=ejection, report=report)
    entropy = anti_entropy.AntiEntropy(
        follower,
        client,
        keys,
        registrations=lambda: chosen.watch(client, keys, catalogue=catalogue, patient=True),
        also=found.recheck,
        report=report,
        every_s=compare_every_s,
    )
    tasks = [
        asyncio.create_task(follower.run(), name="discovery: view"),
        asyncio.create_task(found.run(), name="discovery: ejections"),
        asyncio.create_task(entropy.run(), name="discovery: comparison with the store"),
    ]
    for task in tasks:
        task.add_done_callback(_say_why)
    try:
        yield found, follower
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def discovering(
    store: str,
    *,
    site: str = "lab",
    prefix: str | None = None,
    settings: StoreSettings | None = None,
    ejection: EjectionSettings | None = None,
    first_s: float | None = FIRST_S,
    compare_every_s: float = anti_entropy.EVERY_S,
) -> AsyncIterator[Discovery]:
    """Discovery of a site, for the time of the block.

    `store` is an address as store.connect takes it, `prefix` what stands before every key (hft/<site> when
    left out). Entering waits up to `first_s` for what the store has; None: not at all, and `resolve` finds
    nothing until it has come. A store that is away later changes nothing but `age_s`.

    Raises:
        InvalidSettings: no such kind of store. Unavailable: it did not answer within `first_s`.
    """
    client = stores.connect(store, settings)
    try:
        opened = followed(client, Keys(site, prefix), ejection=ejection, compare_every_s=compare_every_s)
        async with opened as (found, follower):
            if first_s is not None:
                await follower.first_view(first_s)
            yield found
    finally:
        await client.close()


def _say_why(task: asyncio.Task[None]) -> None:
    """None of them ends by itself; a mistake of ours that ends one must be heard of."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        consequence = "what is known of the site stays as it is, and its age grows"
        log.error("discovery.ended", task=task.get_name(), reason=repr(exc), consequence=consequence)


class Blocking:
    """Discovery for a program without an event loop: a thread keeps it. From any thread."""

    def __init__(self, held: InThread[Discovery]) -> None:
        self._held = held
        self.resolve: Callable[[str], Serving | None] = held.value.resolve
        """As Discovery.resolve: it waits for nothing, the thread neither."""

    def __repr__(self) -> str:
        return f"<Blocking {self._held.value!r}>"

    def serving(self, service: str) -> tuple[Serving, ...]:
        return self._held.value.serving(service)

    def by(self, balancing: Balancing, only: Only = ANY) -> Balanced:
        return self._held.value.by(balancing, only)

    def age_s(self) -> float:
        return self._held.value.age_s()

    def on_change(self, call: Call, *services: str) -> Callable[[], None]:
        """As Discovery.on_change; the calls come in the thread."""
        return self._held.value.on_change(call, *services)

    def wait_for(
        self, service: str, *, timeout_s: float, only: Only = ANY, count: int = 1
    ) -> tuple[Serving, ...]:
        """Wait until so many serve. Raises Unavailable."""
        found = self._held.value
        return self._held.call(lambda: found.wait_for(service, timeout_s=timeout_s, only=only, count=count))


@contextlib.contextmanager
def blocking(store: str, **options: Any) -> Iterator[Blocking]:
    """`discovering` with the same options, without `async`."""
    with in_thread(lambda: discovering(store, **options), "discovery") as held:
        yield Blocking(held)
