"""Registering an instance as one that serves, and taking it out again.

A registration lives under its keeper's store lease: the keeper's host gone, it vanishes by itself within the
lease's TTL. An instance that dies while its keeper lives is taken out at once, but only if the registration
still is that process's. Read by discovery.py.
"""

from __future__ import annotations

import msgspec

from controlplane import model
from controlplane.errors import Unavailable
from controlplane.model import Process, Registration
from controlplane.store.base import Committed, Lease, Lost, Store
from controlplane.store.keys import Keys

TRIES = 3
"""Of a compare-and-swap. Only an instance's own keeper writes its key, so even one loss is rare (an earlier
write of ours arriving late)."""


async def register(store: Store, keys: Keys, registration: Registration, lease: Lease) -> Committed:
    """Say that the instance serves, in place of whatever was said of it before.

    Raises:
        LeaseLost: take a new lease, then register again. Unavailable: when ambiguous it may be registered;
        saying it again is harmless.
    """
    key = keys.registration(registration.service, registration.instance)
    outcome = await store.put(key, model.encode(registration), lease=lease)
    assert isinstance(outcome, Committed), "a put without an expectation is never lost"
    return outcome


async def deregister(
    store: Store, keys: Keys, service: str, instance: str, process: Process | None = None
) -> bool:
    """Take the instance out; with `process`, only while the registration is that process's (R2). True if it
    is out, or another process's.

    Raises:
        Unavailable: no answer, or the key changed under every try.
    """
    key = keys.registration(service, instance)
    for _ in range(TRIES):
        entry = await store.get(key)
        if entry is None or (process is not None and _other_process(entry.value, process)):
            return True
        match await store.delete(key, expect=entry.revision):
            case Committed():
                return True
            case Lost():
                continue
    raise Unavailable(f'registration "{key}": it changed {TRIES} times while it was to be deleted')


def _other_process(value: bytes, process: Process) -> bool:
    try:
        return model.decode(Registration, value).process != process
    except msgspec.DecodeError:
        return False  # nobody can use what does not decode: away with it
