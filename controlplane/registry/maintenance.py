"""Instances that an operator has taken out of service for a time: `maintenance/<service>/<instance>`, a key
of its own, so that neither the next process of the instance nor its keeper's rewriting brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from controlplane import model
from controlplane.model.records import MaintenanceRecord
from controlplane.store import Entry, Keys, Store

REASON_MAX = 256
"""Characters of it: Consul cuts what a check says."""


async def begin(store: Store, keys: Keys, service: str, instance: str, record: MaintenanceRecord) -> None:
    """In place of an earlier reason. Raises as Store.put does."""
    await store.put(keys.maintenance_of(service, instance), model.encode(record))


async def end(store: Store, keys: Keys, service: str, instance: str) -> None:
    """What is in none is fine. Raises as Store.delete does."""
    await store.delete(keys.maintenance_of(service, instance))


def reasons(entries: Iterable[Entry]) -> dict[str, str]:
    """By instance. A record that does not decode is one without a reason: what takes an instance out must not
    be undone by damage.
    """
    return {entry.key.rpartition("/")[2]: reason(entry) for entry in entries}


def reason(entry: Entry) -> str:
    try:
        return model.decode(MaintenanceRecord, entry.value).reason or "no reason given"
    except msgspec.DecodeError:
        return "no reason that can be read"
