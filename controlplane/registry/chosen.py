"""The registry of a store: which back end keeps its registrations, and where they are read. The one place
that asks what kind of store it is.
"""

from __future__ import annotations

from controlplane.clock import Clock
from controlplane.registry.base import Registry
from controlplane.registry.leased import KEEP_S, TTL_S, LeasedRegistry, Report, to_log
from controlplane.store import Keys, Store, Watch


def of(
    store: Store,
    keys: Keys,
    clock: Clock,
    *,
    ttl_s: float = TTL_S,
    keep_s: float = KEEP_S,
    report: Report = to_log,
) -> Registry:
    """Where an owner registers. Raises InvalidSettings as the back end does."""
    return LeasedRegistry(store, keys, clock, ttl_s=ttl_s, keep_s=keep_s, report=report)


def watch(store: Store, keys: Keys) -> Watch:
    """All registrations of the site, as entries `services/<service>/<instance>` whose values are
    `Registration` records, whatever the back end keeps them in.
    """
    return store.watch(keys.services)
