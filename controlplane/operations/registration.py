"""An operator registers a service that is not the floor's, takes it out, or takes instances out of service
for a time: checked, recorded, written, answered.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Refused, Retryable, Unavailable
from controlplane.model import records
from controlplane.model.records import MaintenanceRecord, Registration
from controlplane.operations import log as operation_log
from controlplane.registry import by_hand, maintenance
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

REGISTER, DEREGISTER, MAINTENANCE = "register", "deregister", "maintenance"


class RegisterRequest(msgspec.Struct):
    """Body of POST /v1/site/register."""

    service: str
    address: str
    port: int
    instance: str = ""
    """Empty: SERVICE-ADDRESS-PORT."""
    tags: list[str] = []
    meta: dict[str, str] = {}
    weight: int = 1
    zone: str = ""
    check: str = ""
    reason: str = ""
    actor: str = "unknown"


class DeregisterRequest(msgspec.Struct):
    """Body of POST /v1/site/deregister."""

    instance: str
    reason: str = ""
    actor: str = "unknown"


class MaintenanceRequest(msgspec.Struct):
    """Body of POST /v1/site/maintenance."""

    what: str
    """A service, or an instance."""
    reason: str = ""
    """Empty: it is over."""
    actor: str = "unknown"


T = TypeVar("T")


def decode(kind: type[T], body: bytes) -> T:
    """Raises InvalidInput."""
    try:
        return model.decode(kind, body)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{kind.__name__.removesuffix('Request').lower()}: {exc}") from exc


class Registrations:
    def __init__(self, store: Store, keys: Keys, follower: Follower) -> None:
        self._store, self._keys, self._follower = store, keys, follower

    async def register(self, asked: RegisterRequest) -> dict[str, Any]:
        """Raises InvalidInput, Unavailable: nothing was changed."""
        view = self._view()
        if asked.service in view.specs:
            raise InvalidInput(
                f"{asked.service} is a service of this floor: its own keepers register it (hftctl apply)"
            )
        instance = asked.instance or f"{asked.service}-{asked.address}-{asked.port}"
        registration = _registration(asked, instance)

        async def act(operation: str) -> None:
            await by_hand.register(self._store, self._keys, registration)

        return await self._run(REGISTER, instance, asked.actor, asked.reason, [instance], act)

    async def deregister(self, asked: DeregisterRequest) -> dict[str, Any]:
        """Raises InvalidInput: there is no such instance. Unavailable: nothing was changed."""
        found = self._view().registrations.get(asked.instance)
        if found is None:
            raise InvalidInput(f'"{asked.instance}" is not registered (hftctl services, hftctl endpoints)')

        async def act(operation: str) -> None:
            await by_hand.deregister(self._store, self._keys, found.service, asked.instance)
            await maintenance.end(self._store, self._keys, found.service, asked.instance)

        return await self._run(DEREGISTER, asked.instance, asked.actor, asked.reason, [asked.instance], act)

    async def maintain(self, asked: MaintenanceRequest) -> dict[str, Any]:
        """Raises InvalidInput: neither a service nor an instance. Unavailable: nothing was changed."""
        if len(asked.reason) > maintenance.REASON_MAX:
            raise InvalidInput(f"maintenance: a reason of at most {maintenance.REASON_MAX} characters")
        named = await self._named(asked.what)
        if not named:
            raise InvalidInput(f'"{asked.what}" is neither a service nor an instance that is registered')

        async def act(operation: str) -> None:
            for instance, service in sorted(named.items()):
                if asked.reason:
                    said = MaintenanceRecord(asked.reason, asked.actor, operation, time.time_ns())
                    await maintenance.begin(self._store, self._keys, service, instance, said)
                else:
                    await maintenance.end(self._store, self._keys, service, instance)
                with contextlib.suppress(Retryable):  # its keeper says it when Consul's agent is back
                    await by_hand.show_maintenance(self._store, instance, asked.reason)

        why = asked.reason or "over"
        return await self._run(MAINTENANCE, asked.what, asked.actor, why, sorted(named), act)

    async def _named(self, what: str) -> Mapping[str, str]:
        """Instance -> service, of what is registered, planned, or in maintenance already."""
        view, found = self._view(), {}
        for spec in view.specs.values():
            found.update({slot.instance: spec.name for slot in spec.slots()})
        found.update({each.instance: each.service for each in view.registrations.values()})
        for key in (await self._store.range(self._keys.maintenance)).entries:
            service, _, instance = key.removeprefix(self._keys.maintenance).partition("/")
            found.setdefault(instance, service)
        return {instance: service for instance, service in found.items() if what in (service, instance)}

    async def _run(
        self,
        kind: str,
        subject: str,
        actor: str,
        reason: str,
        instances: list[str],
        act: Callable[[str], Awaitable[None]],
    ) -> dict[str, Any]:
        operation = f"{kind}-{os.urandom(5).hex()}"
        record = records.OperationRecord(operation, kind, subject, "running", actor, reason, time.time_ns())
        await operation_log.begin(self._store, self._keys, record)
        outcome, said = "succeeded", reason
        try:
            await act(operation)
        except Unavailable as exc:
            outcome, said = ("unknown" if exc.ambiguous else "failed"), str(exc)
        except HftctlError as exc:
            outcome, said = "refused" if isinstance(exc, Refused) else "failed", str(exc)
        with contextlib.suppress(HftctlError):
            await operation_log.finish(self._store, self._keys, operation, outcome, time.time_ns())
            await operation_log.trim(self._store, self._keys)
        return {
            "operation": operation,
            "kind": kind,
            "instances": instances,
            "outcome": outcome,
            "reason": said,
        }

    def _view(self) -> SiteView:
        if self._follower.view is None:
            raise Unavailable("the agent has not seen the store yet")
        return self._follower.view


def _registration(asked: RegisterRequest, instance: str) -> Registration:
    """Raises InvalidInput naming the field."""
    try:
        return msgspec.convert(
            {
                "service": asked.service,
                "instance": instance,
                "host": "",
                "process": by_hand.nobody(instance),
                "endpoints": {},
                "address": asked.address,
                "port": asked.port,
                "timestamp_ns": time.time_ns(),
                "version": "",
                "tags": asked.tags,
                "zone": asked.zone,
                "weight": asked.weight,
                "meta": asked.meta,
                "check": asked.check,
            },
            Registration,
        )
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"register {instance}: {exc}") from exc
