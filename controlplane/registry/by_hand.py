"""Services that are not the floor's: registered by an operator's hand, and standing until one takes them out.
No lease, as nothing of ours lives and dies with them: on Consul a service of the host's own agent with a
check that Consul makes, elsewhere a key of the store.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import msgspec

from controlplane.errors import Refused
from controlplane.model import Process, records
from controlplane.model.records import Registration
from controlplane.store import Committed, Keys, Store

if TYPE_CHECKING:
    from controlplane.registry.consul.local_agent import LocalAgent
    from controlplane.store.consul import ConsulStore

TRIES = 3


def local_agent(store: Store) -> LocalAgent | None:
    """Consul's agent of this host; None where the store is another."""
    if store.kind != "consul":
        return None
    from controlplane.registry.consul.local_agent import LocalAgent

    return LocalAgent(cast("ConsulStore", store).agent)


def nobody(instance: str) -> Process:
    """The process of a registration that is of none of ours."""
    return Process(instance, "", 0, 0)


async def register(store: Store, keys: Keys, registration: Registration) -> None:
    """In place of an earlier one by hand.

    Raises:
        Refused: a process of ours is registered under that id. Unavailable, Denied.
    """
    agent = local_agent(store)
    if agent is None:
        await _change(store, keys, registration.service, registration.instance, registration)
        return
    from controlplane.registry.consul import definition
    from controlplane.registry.consul.local_agent import serves_now

    standing = await agent.service(registration.instance)
    if standing is not None:
        _require_by_hand(definition.registration(standing, keys.site), registration.instance)
    check = None
    if registration.check:
        status = "passing" if await serves_now(registration.check) else "critical"
        check = definition.check(registration, definition.CheckTimes(), status)
    await agent.register(definition.service(registration, keys.site), check)


async def deregister(store: Store, keys: Keys, service: str, instance: str) -> None:
    """Raises Refused: it is not registered, or by a process of ours. Unavailable, Denied."""
    agent = local_agent(store)
    if agent is None:
        await _change(store, keys, service, instance, None)
        return
    from controlplane.registry.consul import definition

    standing = await agent.service(instance)
    if standing is None:
        raise Refused(f"{instance}: not registered at this host's Consul agent ({agent.address})")
    _require_by_hand(definition.registration(standing, keys.site), instance)
    await agent.deregister(instance)


async def show_maintenance(store: Store, instance: str, reason: str) -> None:
    """Let Consul's own agent say it as well, where it holds the instance; what is held by a keeper is told by
    that. Raises Unavailable, Denied.
    """
    agent = local_agent(store)
    if agent is not None and await agent.service(instance) is not None:
        from controlplane.registry.consul import definition

        await agent.maintain(instance, definition.MARK + reason if reason else "")


async def _change(store: Store, keys: Keys, service: str, instance: str, to: Registration | None) -> None:
    key = keys.registration(service, instance)
    for _ in range(TRIES):
        entry = await store.get(key)
        if entry is None and to is None:
            raise Refused(f"{instance}: not registered for {service}")
        if entry is not None:
            with contextlib.suppress(msgspec.DecodeError):  # of no use to anybody: replaced, or taken out
                _require_by_hand(records.decode_registration(entry.value, service, instance), instance)
        expect = entry.revision if entry is not None else 0
        if to is None:
            done = await store.delete(key, expect=expect)
        else:
            done = await store.put(key, records.encode_registration(to), expect=expect)
        if isinstance(done, Committed):
            return
    raise Refused(f"{key}: it changed {TRIES} times while it was to be written; ask again")


def _require_by_hand(standing: Registration | None, instance: str) -> None:
    if standing is not None and standing.process.pid:
        raise Refused(
            f"{instance}: registered by pid {standing.process.pid} on {standing.host or 'its host'}, which "
            "takes it out when it ends (hftctl maint takes it out of service for a time)"
        )
