"""A site out of its store alone, for a machine on which no floor runs: what the records say, and which hosts
go on writing theirs. Asked only where the environment names a store (HFT_STORE_ENDPOINTS).

The rows are made by what makes an agent's (site/status.py, operations/shown.py, registry/endpoint_rows.py).
What is only in the memory or on the disk of a host (events, logs, checks, orders) is not to be had here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from controlplane import registry, store
from controlplane.cli import by_name
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput, Unavailable
from controlplane.operations import fence_reset, shown
from controlplane.registry import endpoint_rows
from controlplane.site import document, nouns, status
from controlplane.site.view import SiteView
from controlplane.store import existing

T = TypeVar("T")
LOOKS_S = 2.2
"""Between two looks: an agent writes its host's record each second."""
AGAIN_S = 0.1
HOSTS_SHOWN = 8
WHERE_S = 5.0


def of_environment(site: str, timeout_s: float, environ: Mapping[str, str] = os.environ) -> StoreSite:
    """Raises InvalidInput: the environment names a store, and something is wrong with it."""
    url = existing.url_of_environment(environ)
    assert url is not None, "asked only where the environment names one"
    return StoreSite(url, site, timeout_s)


class StoreSite:
    """One site in one store, as source.Source. Each question raises FloorUnreachable where the store does not
    answer or has no such site.
    """

    def __init__(self, url: str, site: str, timeout_s: float) -> None:
        self.url = url
        self.keys = store.Keys(site)
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<StoreSite {self.keys.site} at {self.url.partition('?')[0]}>"

    def status(self) -> document.StatusDocument:
        """Takes two looks, LOOKS_S apart."""
        _, found = self._ask(self._look)
        answer: document.StatusDocument = by_name.read(document.encode(found))
        return answer

    def endpoints(self, service: str) -> list[dict[str, Any]]:
        """Takes two looks, as `status`."""
        view, found = self._ask(self._look)
        return endpoint_rows.of_service(view, service, registry.Discovery.of(view, service), found)

    def history(self, service: str) -> list[dict[str, Any]]:
        view = self._ask(self._view)
        if service not in view.specs:
            there = ", ".join(sorted(view.specs)) or "none"
            raise InvalidInput(f'service "{service}" is not in site {view.site} (there are {there})')
        return [dataclasses.asdict(row) for row in fence_reset.history(view, service)]

    def operations(self) -> list[dict[str, Any]]:
        return shown.of(self._ask(self._view))

    def hosts(self) -> dict[str, str]:
        """Those whose agents keep a record, with the address of each."""
        view = self._ask(self._view)
        return {name: record.address for name, record in view.hosts.items()}

    # --- the looks ------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[store.Store], Awaitable[T]]) -> T:
        async def ask() -> T:
            async with _connected(self.url) as client:
                return await question(client)

        try:
            return asyncio.run(ask())
        except HftctlError as exc:
            raise FloorUnreachable(f"no floor runs here, and the store does not tell: {exc}") from exc

    async def _view(self, client: store.Store) -> SiteView:
        return nouns.view_of(self.keys, await self._records(client))

    async def _look(self, client: store.Store) -> tuple[SiteView, document.StatusDocument]:
        keys = self.keys
        health = await client.health()
        before = await self._records(client)
        registered = asyncio.create_task(self._registered(client))
        await asyncio.sleep(LOOKS_S)
        after = await self._records(client)
        entries = {key: entry for key, entry in after.entries.items() if not key.startswith(keys.services)}
        joined = store.Snapshot(after.revision, {**entries, **(await registered).entries})
        silent_ms = {
            key.removeprefix(keys.hosts): status.HOST_SILENT_MS
            for key, entry in after.entries.items()
            if key.startswith(keys.hosts) and before.entries.get(key) == entry
        }
        view = nouns.view_of(keys, joined)
        return view, status.build(view, status.Now(time.time_ns(), health, silent_ms=silent_ms))

    async def _records(self, client: store.Store) -> store.Snapshot:
        end_mono_s = time.monotonic() + self._timeout_s
        while True:
            try:
                found = await client.range(self.keys.root)
                break
            except Unavailable:
                if time.monotonic() >= end_mono_s:
                    raise
                await asyncio.sleep(AGAIN_S)  # each try has the client's own deadline, far below ours
        if not found.entries:
            raise Unavailable(f'there is no site "{self.keys.site}" in it (--site, HFT_SITE)')
        return found

    async def _registered(self, client: store.Store) -> store.Snapshot:
        """As discovery has it: joined with maintenance, and on Consul with the catalogue."""
        watch = registry.watch(client, self.keys, patient=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOKS_S + self._timeout_s), contextlib.aclosing(watch):
                async for snapshot in watch:
                    return snapshot
        raise Unavailable(f"what is registered was not told within {LOOKS_S + self._timeout_s:g} s")


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[store.Store]:
    client = store.connect(url)
    try:
        yield client
    finally:
        await client.close()


def where(environ: Mapping[str, str] = os.environ) -> str:
    """On which machine to run what needs an agent; or why that is not known."""
    site = environ.get("HFT_SITE") or "lab"
    try:
        found = of_environment(site, WHERE_S, environ).hosts()
    except HftctlError as exc:
        return f"run it on a host of the site ({exc})"
    if not found:
        return f"run it on a host of site {site}, of which none has an agent now"
    named = [f"{host} ({address})" for host, address in sorted(found.items())]
    more = f" or {len(named) - HOSTS_SHOWN} more" if len(named) > HOSTS_SHOWN else ""
    return f"run it on a host of site {site}: {', '.join(named[:HOSTS_SHOWN])}{more}"
