"""The registry of a store: which back end keeps its registrations, and where they are read. The one place
that asks what kind of store it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from controlplane.clock import Clock
from controlplane.registry.base import Registry
from controlplane.registry.leased import KEEP_S, TTL_S, LeasedRegistry, Report, to_log
from controlplane.registry.shown import JoinedWatch
from controlplane.store import Keys, Store, Watch

if TYPE_CHECKING:
    from controlplane.store.consul import ConsulStore

CHECK_EVERY_S = 10.0
"""Between two of Consul's own probes of an instance."""


def of(
    store: Store,
    keys: Keys,
    clock: Clock,
    *,
    ttl_s: float = TTL_S,
    keep_s: float = KEEP_S,
    check_s: float = CHECK_EVERY_S,
    report: Report = to_log,
) -> Registry:
    """Where an owner registers. `check_s`: how often Consul probes an instance, and twice its patience;
    nothing elsewhere. Raises InvalidSettings as the back end does.
    """
    if store.kind == "consul":
        from controlplane.registry import consul

        times = consul.CheckTimes(interval_s=check_s, timeout_s=check_s / 2)
        on_consul = cast("ConsulStore", store)
        return consul.ConsulRegistry(
            on_consul, keys, clock, ttl_s=ttl_s, keep_s=keep_s, times=times, report=report
        )
    return LeasedRegistry(store, keys, clock, ttl_s=ttl_s, keep_s=keep_s, report=report)


def watch(store: Store, keys: Keys, *, catalogue: bool = True, patient: bool = False) -> Watch:
    """All registrations of the site, as entries `services/<service>/<instance>` whose values are
    `Registration` records, whatever the back end keeps them in, with what operators said of maintenance.

    `catalogue` False leaves Consul's catalogue out: the state of its checks, and services that are only
    there. One process of a host follows that, its agent. `patient`: the first snapshot has all of it,
    however long that takes, over few connections: to compare with.
    """
    if store.kind == "consul" and catalogue:
        from controlplane.registry import consul

        return consul.CatalogueWatch(cast("ConsulStore", store), keys, patient=patient)
    return JoinedWatch(store, keys)
