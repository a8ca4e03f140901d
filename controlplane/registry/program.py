"""For a program of one's own: registered while a block of it runs, without an agent, on either store.

    async with registry.registered("etcd://127.0.0.1:2379", "quoter", address="10.0.0.7", port=7000):
        ...

and for a program without an event loop:

    with registry.registered_in_thread("consul://127.0.0.1:8500", "quoter", address="10.0.0.7", port=7000):
        ...

On etcd it stands by a lease, and is gone within its TTL when the program dies. On Consul it is a service of
the host's own agent too, and Consul probes the program itself: the URL or port that it names, its address and
port when it names none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from controlplane import store as stores
from controlplane.errors import HftctlError, InvalidInput, Unavailable
from controlplane.host import identity
from controlplane.host.in_thread import in_thread
from controlplane.host.system_clock import SystemClock
from controlplane.model.records import Registration
from controlplane.registry.chosen import CHECK_EVERY_S, of
from controlplane.registry.leased import KEEP_S, TTL_S, Report, to_log
from controlplane.settings import StoreSettings

LOOK_S = 0.01


@contextlib.asynccontextmanager
async def registered(
    where: str,
    service: str,
    *,
    address: str,
    port: int,
    site: str = "lab",
    prefix: str | None = None,
    instance: str = "",
    endpoints: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    version: str = "",
    zone: str = "",
    weight: int = 1,
    meta: Mapping[str, str] | None = None,
    check: str = "",
    ttl_s: float = TTL_S,
    keep_s: float = KEEP_S,
    check_s: float = CHECK_EVERY_S,
    within_s: float = 10.0,
    settings: StoreSettings | None = None,
    report: Report = to_log,
) -> AsyncIterator[Registration]:
    """Registered from here to the end of the block, and kept so through outages of the store.

    `where` and `settings`: as store.connect takes them. `instance`: SERVICE-PID when left out. `endpoints`:
    of ZeroMQ sockets, name -> ipc://PATH. `check`: an http://, https:// URL or tcp://ADDRESS:PORT for Consul.

    Raises:
        InvalidInput: what is not within the bounds of a registration, or not accepted by the store.
        Unavailable: not registered within `within_s`; it is taken back then.
    """
    name = instance or f"{service}-{os.getpid()}"
    made: dict[str, Any] = {
        "service": service,
        "instance": name,
        "host": os.uname().nodename,
        "process": identity.myself(name),
        "endpoints": dict(endpoints or {}),
        "address": address,
        "port": port,
        "timestamp_ns": time.time_ns(),
        "version": version,
        "tags": tuple(tags),
        "zone": zone,
        "weight": weight,
        "meta": dict(meta or {}),
        "check": check or f"tcp://{f'[{address}]' if ':' in address else address}:{port}",
    }
    try:
        registration = msgspec.convert(made, Registration)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"registration of {name}: {exc}") from exc
    refused: list[str] = []

    def told(kind: str, fields: Mapping[str, object]) -> None:
        if kind == "registration.refused":
            refused.append(str(fields.get("reason", "")))
        report(kind, fields)

    client = stores.connect(where, settings)
    running: asyncio.Task[None] | None = None
    try:
        keys = stores.Keys(site, prefix)
        kept = of(client, keys, SystemClock(), ttl_s=ttl_s, keep_s=keep_s, check_s=check_s, report=told)
        running = asyncio.create_task(kept.run(), name=f"registration of {name}")
        try:
            kept.register(registration)
            end_s = time.monotonic() + within_s
            while not kept.holds(name):
                if running.done():
                    running.result()  # a defect
                if refused:
                    raise InvalidInput(f"registration of {name}: refused: {refused[0]}")
                if time.monotonic() > end_s:
                    why = kept.trouble or "the store does not answer"
                    raise Unavailable(f"registration of {name}: not within {within_s:g} s: {why}")
                await asyncio.sleep(LOOK_S)
            yield registration
        finally:
            with contextlib.suppress(HftctlError):  # it leaves by its lease, or by its check
                await kept.close()
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await client.close()


@contextlib.contextmanager
def registered_in_thread(where: str, service: str, **given: Any) -> Iterator[Registration]:
    """`registered`, kept by a thread of its own."""
    with in_thread(lambda: registered(where, service, **given), f"registration of {service}") as held:
        yield held.value
