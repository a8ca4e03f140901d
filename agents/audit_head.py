"""The head of the audit log, copied into the store, where a changed disk cannot reach it."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec

from agents import settings
from agents.instances import Instances
from agents.supervisor.supervisor import Instance
from controlplane.errors import HftctlError
from controlplane.store import Keys, Store

AUDIT_DAEMON = "auditd"
"""The one daemon that the agent knows by name: the head of its chain is copied into the store."""


def services(instances: Instances) -> list[str]:
    """Services of this host that keep an audit log."""
    return [instance.slot.service for instance in instances if _audits(instance)]


async def copy_audit_heads(instances: Instances, store: Store, keys: Keys) -> None:
    """Once a second: what auditd says the head of its chain is, kept where a changed disk cannot reach it.

    A daemon that does not answer, or a store that is away, costs that second: the next one asks again, and
    the head on disk is synced all the same.
    """
    copied: dict[str, bytes] = {}
    while True:
        await anyio.sleep(settings.STATUS_EVERY_S)
        for name in instances.reported():
            instance = instances.find(name)
            if instance is None or not _audits(instance):
                continue
            try:
                answer = await instances.ask(name, "head", {}, settings.ASK_TIMEOUT_S)
                head = msgspec.json.encode(answer.body)
                if answer.ok and copied.get(name) != head:
                    await store.put(keys.audit_head(instance.slot.service), head)
                    copied[name] = head
            except HftctlError:
                continue


async def copy_last_audit_head(site_dir: Path, store: Store, keys: Keys, services: list[str]) -> None:
    """After auditd has stopped: the head that it synced as its last act. Raises HftctlError, OSError,
    DecodeError.
    """
    path = site_dir / "audit.head"
    if services and path.exists():
        head = msgspec.json.encode(msgspec.json.decode(path.read_bytes()))
        for service in services:
            await store.put(keys.audit_head(service), head)


def _audits(instance: Instance) -> bool:
    return instance.desired is not None and instance.desired.spec.daemon == AUDIT_DAEMON
