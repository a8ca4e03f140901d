"""An operator's failover, from the request record to the answer: checked, written, waited for.

Nothing is moved here: the leader's keeper acts on the record (R15, R16). What cannot be done is refused
before anything is written; what is written and not answered in time is `unknown`, with the operation's id to
ask by. `judge` is pure; `Failovers.run` writes and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

import msgspec

from controlplane import model, operation_log
from controlplane.errors import HftctlError, InvalidInput, Refused, Unavailable
from controlplane.model import Mode, records
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store import Committed, Entry, Keys, Store

TIMEOUT_MAX_S = 300.0
FINISH_S = 1.0
TRIES = 3
"""Of the compare-and-swap on the request record, against other operators."""


class FailoverRequest(msgspec.Struct):
    """Body of POST /v1/site/failover."""

    service: str
    reason: str
    to: str | None = None
    actor: str = "unknown"
    timeout_s: float = 10.0


def decode(body: bytes) -> FailoverRequest:
    """Raises InvalidInput."""
    try:
        asked = model.decode(FailoverRequest, body)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"failover: {exc}") from exc
    if not asked.reason.strip():
        raise InvalidInput(f'failover of "{asked.service}": a reason is wanted (it is kept in the history)')
    if not 0 < asked.timeout_s <= TIMEOUT_MAX_S:
        raise InvalidInput(
            f"failover: timeout_s {asked.timeout_s}: more than 0 and at most {TIMEOUT_MAX_S:g} wanted"
        )
    return asked


def judge(view: SiteView, asked: FailoverRequest) -> str | None:
    """Why it cannot be done as things are, or None. The service is known to exist."""
    spec = view.specs[asked.service]
    if spec.mode is not Mode.ACTIVE_STANDBY:
        return f"{asked.service} is {spec.mode}: it has no leader to fail over"
    leader = view.leaders.get(asked.service)
    if leader is None or leader.holder is None:
        return f"{asked.service} has no leader now"
    electable = view.electable.get(asked.service)
    standbys = (
        {process.instance for process in electable.processes} - {leader.holder.instance}
        if electable
        else set()
    )
    if asked.to is not None:
        if asked.to not in {slot.instance for slot in spec.slots()}:
            return f"{asked.to} is not an instance of {asked.service}"
        if asked.to == leader.holder.instance:
            return f"{asked.to} leads already"
        if asked.to not in standbys:
            return f"{asked.to} is not electable now"
    if not standbys:
        return f"{asked.service} has no electable standby"
    return None


def result(
    asked: FailoverRequest,
    outcome: str,
    reason: str,
    *,
    operation: str | None = None,
    old: str | None = None,
    row: records.HistoryRow | None = None,
) -> dict[str, Any]:
    took_ns = row.active_ns - row.started_ns if row is not None and row.active_ns is not None else None
    return {
        "operation": operation,
        "service": asked.service,
        "from": old,
        "to": row.to_instance if row else asked.to,
        "epoch": row.epoch if row else None,
        "took_ms": None if took_ns is None else round(took_ns / 1e6, 1),
        "outcome": outcome,
        "reason": reason,
    }


class Failovers:
    def __init__(self, store: Store, keys: Keys, follower: Follower) -> None:
        self._store, self._keys, self._follower = store, keys, follower

    async def run(self, asked: FailoverRequest) -> dict[str, Any]:
        """The result JSON, whatever the outcome.

        Raises:
            InvalidInput: no such service. Unavailable: the site has not been seen yet.
        """
        view = self._follower.view
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        if asked.service not in view.specs:
            raise InvalidInput(
                f'service "{asked.service}" is not in site {view.site} (there are '
                f"{', '.join(sorted(view.specs)) or 'none'})"
            )
        leader = view.leaders.get(asked.service)
        old = leader.holder.instance if leader and leader.holder else None
        if why_not := judge(view, asked):
            return result(asked, "refused", why_not, old=old)
        assert leader is not None
        operation = f"failover-{asked.service}-{os.urandom(5).hex()}"
        request = records.RequestRecord(
            operation,
            "failover",
            asked.to,
            leader.epoch,
            "pending",
            asked.actor,
            asked.reason,
            time.time_ns(),
        )
        try:
            async with asyncio.timeout(asked.timeout_s):
                try:
                    await self._write(asked, request)
                except Refused as exc:
                    return await self._finish(
                        result(asked, "refused", str(exc), operation=operation, old=old)
                    )
                done = await self._wait(asked, request, old)
        except (TimeoutError, Unavailable) as exc:
            why = str(exc) or f"not settled within {asked.timeout_s:g} s"
            done = result(
                asked, "unknown", f"{why}; ask for operation {operation}", operation=operation, old=old
            )
        return await self._finish(done)

    async def _write(self, asked: FailoverRequest, request: records.RequestRecord) -> None:
        """Raises Refused when another operation is under way, Unavailable."""
        operation = records.OperationRecord(
            request.operation,
            "failover",
            asked.service,
            "running",
            asked.actor,
            asked.reason,
            request.created_ns,
        )
        await operation_log.begin(self._store, self._keys, operation)
        key = self._keys.request(asked.service)
        for _ in range(TRIES):
            entry = await self._store.get(key)
            standing = _standing(entry)
            if standing is not None:
                if standing.operation == request.operation:
                    return  # written by a try whose answer was lost
                if standing.state == "pending":
                    raise Refused(
                        f"{asked.service}: operation {standing.operation} of {standing.actor} is under way"
                    )
            try:
                written = await self._store.put(
                    key, model.encode(request), expect=entry.revision if entry else 0
                )
            except Unavailable as exc:
                if not exc.ambiguous:
                    raise
                continue  # the next look tells whether it is there
            if isinstance(written, Committed):
                return
        raise Refused(f"{asked.service}: the request changed {TRIES} times while this one was to be written")

    async def _wait(
        self, asked: FailoverRequest, request: records.RequestRecord, old: str | None
    ) -> dict[str, Any]:
        """Until the request is settled and, if it succeeded, its new leader is active."""
        while True:
            changed, view = self._follower.changed, self._follower.view
            assert view is not None
            standing = view.requests.get(asked.service)
            if (
                standing is not None
                and standing.operation == request.operation
                and standing.state not in ("pending", "succeeded")
            ):
                return result(
                    asked,
                    standing.state,
                    standing.outcome or standing.state,
                    operation=request.operation,
                    old=old,
                )
            row = next(
                (row for row in view.history.get(asked.service, ()) if row.operation == request.operation),
                None,
            )
            if row is not None and row.active_ns is not None:
                return result(
                    asked,
                    "succeeded",
                    asked.reason,
                    operation=request.operation,
                    old=row.from_instance or old,
                    row=row,
                )
            await changed.wait()

    async def _finish(self, done: dict[str, Any]) -> dict[str, Any]:
        """Record how the operation ended; the answer does not depend on it."""
        with contextlib.suppress(HftctlError):
            async with asyncio.timeout(FINISH_S):
                await operation_log.finish(
                    self._store, self._keys, done["operation"], done["outcome"], time.time_ns()
                )
                await operation_log.trim(self._store, self._keys)
        return done


def _standing(entry: Entry | None) -> records.RequestRecord | None:
    """The request that stands; one that does not decode can be acted on by no keeper, and is written over."""
    if entry is not None:
        with contextlib.suppress(msgspec.DecodeError):
            return model.decode(records.RequestRecord, entry.value)
    return None
