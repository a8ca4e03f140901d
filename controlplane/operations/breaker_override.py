"""An operator forces the circuit breakers of one name, on every host, or lets them decide again: checked,
recorded, written to the store.

`open` lets no call through, `close` lets every call through and goes on counting, `auto` takes either back.
Who obeys it: agents watch the record and tell their daemons (agents/breaker_overrides.py), so an answer from
here says that it is written, and the status says who obeys.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Unavailable
from controlplane.model import bounds, records
from controlplane.operations import log as operation_log
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

KIND = "breaker"
STATES = {"open": "forced_open", "close": "metrics_only"}
"""What an operator says -> what breakers do."""


class BreakerRequest(msgspec.Struct):
    """Body of POST /v1/site/breakers/NAME."""

    wanted: str
    """open, close or auto."""
    reason: str
    for_s: float | None = None
    name: str = ""
    actor: str = "unknown"


def decode(body: bytes) -> BreakerRequest:
    """Raises InvalidInput."""
    try:
        asked = model.decode(BreakerRequest, body)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"breaker: {exc}") from exc
    if asked.wanted not in (*STATES, "auto"):
        raise InvalidInput(f'breaker: "{asked.wanted}" is none of open, close, auto')
    if not asked.reason.strip():
        raise InvalidInput("breaker: a reason is wanted (it is shown wherever the breaker refuses a call)")
    if asked.for_s is not None and (asked.wanted == "auto" or not 0 < asked.for_s <= records.OVERRIDE_MAX_S):
        raise InvalidInput(
            f"breaker {asked.wanted}: for_s {asked.for_s:g}: wanted more than 0 and at most "
            f"{records.OVERRIDE_MAX_S:g} s, and only with open and close"
        )
    return asked


def names(view: SiteView) -> set[str]:
    """Of all breakers that some instance reports, and of those that are overridden."""
    reported = {
        each.name
        for record in view.hosts.values()
        for instance in record.instances
        for each in instance.breakers
    }
    return reported | set(view.overrides)


class BreakerOverrides:
    def __init__(self, store: Store, keys: Keys, view: Callable[[], SiteView | None]) -> None:
        """`view`: the site as the asker sees it, its own host's newest word in it."""
        self._store, self._keys, self._view = store, keys, view

    async def run(self, asked: BreakerRequest) -> dict[str, Any]:
        """The result JSON.

        Raises:
            InvalidInput: no such breaker. Unavailable: the site was not seen yet, or the store cannot be
            written; with `ambiguous` the override may stand.
        """
        view = self._view()
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        if asked.name not in names(view):
            there = ", ".join(sorted(names(view))) or "none"
            raise InvalidInput(f'breaker "{asked.name}" is not in site {view.site} (there are {there})')
        operation = f"{KIND}-{asked.wanted}-{os.urandom(5).hex()}"
        record = records.OperationRecord(
            operation, KIND, asked.name, "running", asked.actor, bounds.cut(asked.reason), time.time_ns()
        )
        await operation_log.begin(self._store, self._keys, record)
        try:
            await self._write(asked, record)
        except Unavailable:
            await self._finish(operation, "unknown")
            raise
        await self._finish(operation, "succeeded")
        return {
            "operation": operation,
            "name": asked.name,
            "wanted": asked.wanted,
            "for_s": asked.for_s,
            "outcome": "succeeded",
            "reason": asked.reason,
        }

    async def _write(self, asked: BreakerRequest, record: records.OperationRecord) -> None:
        key = self._keys.breaker_override(asked.name)
        if asked.wanted == "auto":
            await self._store.delete(key)
            return
        override = records.BreakerOverride(
            name=asked.name,
            state=STATES[asked.wanted],
            id=record.id,
            actor=record.actor,
            reason=record.reason,
            set_ns=record.created_ns,
            for_s=asked.for_s,
        )
        await self._store.put(key, model.encode(override))

    async def _finish(self, operation: str, outcome: str) -> None:
        """The answer does not depend on it."""
        with contextlib.suppress(HftctlError):
            await operation_log.finish(self._store, self._keys, operation, outcome, time.time_ns())
            await operation_log.trim(self._store, self._keys)
