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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Refused, Unavailable
from controlplane.model import Mode, records
from controlplane.operations import log as operation_log
from controlplane.operations import shown
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
    wait: bool = False
    """For what stands in its way for a moment only, as after a death."""


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


@dataclass(frozen=True, slots=True)
class WhyNot:
    reason: str
    passes: bool = False
    """It is a matter of a moment: the same request may be possible soon."""


def judge(view: SiteView, asked: FailoverRequest, now_ns: int) -> WhyNot | None:
    """Why it cannot be done as things are, or None. The service is known to exist."""
    spec, service = view.specs[asked.service], asked.service
    if spec.mode is not Mode.ACTIVE_STANDBY:
        return WhyNot(f"{service} is {spec.mode}: it has no leader to fail over")
    members = [slot.instance for slot in spec.slots()]
    if asked.to is not None and asked.to not in members:
        return WhyNot(f"{asked.to} is not an instance of {service}")
    leader = view.leaders.get(service)
    if leader is None or leader.holder is None:
        return WhyNot(f"{service} has no leader now{_moment(view, asked, members, now_ns)}", passes=True)
    leads = leader.holder.instance
    if asked.to == leads:
        return WhyNot(f"{asked.to} leads already")
    electable = view.electable.get(service)
    standbys = {process.instance for process in electable.processes} - {leads} if electable else set()
    others = [member for member in members if member != leads]
    if not others:
        return WhyNot(
            f"{service} has no electable standby: {leads} is its only member (kill it to restart it)"
        )
    if asked.to is not None and asked.to not in standbys:
        return WhyNot(
            f"{asked.to} is not electable now{_moment(view, asked, [asked.to], now_ns)}", passes=True
        )
    if not standbys:
        return WhyNot(
            f"{service} has no electable standby{_moment(view, asked, others, now_ns)}", passes=True
        )
    return None


def _moment(view: SiteView, asked: FailoverRequest, waited_for: Sequence[str], now_ns: int) -> str:
    """What is going on: the last change of leader, how those are that may lead next, and what to do."""
    said = []
    if rows := view.history.get(asked.service):
        row = rows[-1]
        ago_s = max(0, now_ns - row.started_ns) / 1e9
        said.append(f"{row.to_instance or 'no instance'} was chosen {ago_s:.1f} s ago ({row.cause})")
    found = {each.id: each for host in view.hosts.values() for each in host.instances}
    for instance in waited_for:
        each = found.get(instance)
        state = "not seen yet" if each is None else each.state
        if each is not None and each.state == "running":
            state = "ready, and not yet known to be up to date" if each.ready else f"not ready: {each.reason}"
        said.append(f"{instance} is {state}")
    return f": {', '.join(said)} (--wait waits for it)"


def result(
    asked: FailoverRequest,
    outcome: str,
    reason: str,
    *,
    operation: str | None = None,
    old: str | None = None,
    row: records.HistoryRow | None = None,
) -> dict[str, Any]:
    took_ns = (
        max(0, row.active_ns - row.started_ns) if row is not None and row.active_ns is not None else None
    )
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
        end_mono_s = asyncio.get_running_loop().time() + asked.timeout_s
        view, why_not = await self._possible(asked, end_mono_s)
        leader = view.leaders.get(asked.service)
        old = leader.holder.instance if leader and leader.holder else None
        if why_not is not None:
            waited = f" (waited {asked.timeout_s:g} s)" if asked.wait and why_not.passes else ""
            return result(asked, "refused", f"{why_not.reason}{waited}", old=old)
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
            async with asyncio.timeout_at(end_mono_s):
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

    async def _possible(self, asked: FailoverRequest, end_mono_s: float) -> tuple[SiteView, WhyNot | None]:
        """The view in which it is judged; where it is asked to wait, the first in which it can be done, or
        the last before the time is over.
        """
        while True:
            changed, view = self._follower.changed, self._follower.view
            assert view is not None, "a follower that has had a view keeps it"
            gone = asked.service not in view.specs
            why_not = WhyNot(f"{asked.service} was removed") if gone else judge(view, asked, time.time_ns())
            if why_not is None or not (asked.wait and why_not.passes):
                return view, why_not
            try:
                async with asyncio.timeout_at(end_mono_s):
                    await changed.wait()
            except TimeoutError:
                return view, why_not

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
                why = "" if done["outcome"] == "succeeded" else done["reason"]
                await operation_log.finish(
                    self._store,
                    self._keys,
                    done["operation"],
                    done["outcome"],
                    time.time_ns(),
                    outcome=why,
                    steps=shown.steps_of(self._row(done["service"], done["operation"])),
                )
                await operation_log.trim(self._store, self._keys)
        return done

    def _row(self, service: str, operation: str) -> records.HistoryRow | None:
        """The change of leader that it has become."""
        rows = self._follower.view.history.get(service, ()) if self._follower.view else ()
        return next((row for row in rows if row.operation == operation), None)


def _standing(entry: Entry | None) -> records.RequestRecord | None:
    """The request that stands; one that does not decode can be acted on by no keeper, and is written over."""
    if entry is not None:
        with contextlib.suppress(msgspec.DecodeError):
            return model.decode(records.RequestRecord, entry.value)
    return None
