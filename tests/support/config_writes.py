"""Changes of configuration as an operator's agent makes them, from a test: straight into a floor's store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from controlplane import model, store
from controlplane.floor import folders
from controlplane.model.config import ConfigRevision, CurrentConfig
from controlplane.operations.config_change import ConfigChange, ConfigRequest, KeyRequest
from controlplane.site import nouns
from controlplane.store import Keys, Store
from tests.support.floors import Floor

KEYS = Keys("lab")
T = TypeVar("T")


def with_store(floor: Floor, call: Callable[[Store], Awaitable[T]]) -> T:
    url = folders.Folders(floor.site_dir).store_url()
    assert url is not None

    async def run() -> T:
        client = store.connect(url)
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def _change(client: Store) -> ConfigChange:
    view = nouns.view_of(KEYS, await client.range(KEYS.root))
    return ConfigChange(client, KEYS, lambda: view)


def set_settings(floor: Floor, service: str, reason: str = "a test", **settings: Any) -> int:
    """Returns the revision that is wanted from now on."""

    async def call(client: Store) -> dict[str, Any]:
        asked = ConfigRequest("set", reason, "ann", service, set=settings)
        return await (await _change(client)).run(asked)

    done = with_store(floor, call)
    assert done["outcome"] == "succeeded", done
    return int(done["to"])


def put_key(floor: Floor, key: str, value: object, reason: str = "a test") -> None:
    async def call(client: Store) -> dict[str, Any]:
        asked = KeyRequest(reason, value, actor="ann", delete=value is None)
        return await (await _change(client)).run_key(key, asked)

    with_store(floor, call)


def put_raw(floor: Floor, key: str, value: bytes) -> None:
    with_store(floor, lambda client: client.put(key, value))


def in_force(floor: Floor, service: str, revision: int) -> bool:
    """Every instance of the service runs, and has acknowledged it."""
    instances = floor.service(service)["instances"]
    return all(
        (each["config_revision"], each["config_wanted"], each["ready"]) == (revision, revision, True)
        for each in instances
    )


def put_document(floor: Floor, service: str, revision: int, document: Mapping[str, Any]) -> None:
    """As a foreign client may: unchecked, and wanted from now on."""
    row = ConfigRevision(service, revision, document, "set", "eve", "unchecked", 1)

    async def call(client: Store) -> None:
        await client.put(KEYS.config_revision(service, revision), model.encode(row))
        await client.put(KEYS.config_current(service), model.encode(CurrentConfig(service, revision, "n")))

    with_store(floor, call)
