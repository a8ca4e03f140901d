"""The head of the audit log, copied into the store, where a changed disk cannot reach it."""

from __future__ import annotations

import anyio
import msgspec

from agents import settings
from agents.agent import Agent
from controlplane.errors import HftctlError
from controlplane.store.base import Store
from controlplane.store.keys import Keys


async def copy_audit_heads(agent: Agent, store: Store, keys: Keys) -> None:
    """Once a second: what auditd says the head of its chain is, kept where a changed disk cannot reach it."""
    copied: dict[str, bytes] = {}
    while True:
        await anyio.sleep(settings.STATUS_EVERY_S)
        for name in list(agent.bus.reports):
            instance = agent.supervisor.instances.get(name)
            if instance is None or not agent.audits(instance):
                continue
            try:
                answer = await agent.bus.ask(name, "head", {}, settings.ASK_TIMEOUT_S)
                head = msgspec.json.encode(answer.body)
                if answer.ok and copied.get(name) != head:
                    await store.put(keys.audit_head(instance.slot.service), head)
                    copied[name] = head
            except HftctlError:
                continue  # the next second asks again; the head on disk is synced all the same


async def copy_last_audit_head(agent: Agent, store: Store, keys: Keys, services: list[str]) -> None:
    """After auditd has stopped: the head that it synced as its last act. Raises HftctlError."""
    path = agent.given.site_dir / "audit.head"
    if services and path.exists():
        head = msgspec.json.encode(msgspec.json.decode(path.read_bytes()))
        for service in services:
            await store.put(keys.audit_head(service), head)
