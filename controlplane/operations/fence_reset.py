"""An operator sets the fences of a group's receivers to the token that the store holds: checked, recorded,
done on every host, answered.

For a group that is locked out: a receiver's fence is above every token that the store has given out, so that
the leader is refused. It cannot make two leaders: the store's token is read AFTER each receiver has said what
it holds, and a receiver refuses when it has admitted a claim since (docs/protocol.md, Fencing). `judge` and
`stands` are pure; `FenceResets.run` reads, records and asks the hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Refused, Unavailable
from controlplane.host import system_clock
from controlplane.model import Mode, Process, Token, bounds, records
from controlplane.operations import log as operation_log
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

KIND = "fence-reset"
FINISH_S = 1.0
TIMEOUT_MAX_S = 300.0


class FenceResetRequest(msgspec.Struct):
    """Body of POST /v1/site/fences/SERVICE/reset."""

    reason: str
    timeout_s: float = 10.0
    service: str = ""
    actor: str = "unknown"


def decode(body: bytes) -> FenceResetRequest:
    """Raises InvalidInput."""
    try:
        asked = model.decode(FenceResetRequest, body)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"fence reset: {exc}") from exc
    if not asked.reason.strip():
        raise InvalidInput("fence reset: a reason is wanted (it is kept in the history)")
    if not 0 < asked.timeout_s <= TIMEOUT_MAX_S:
        raise InvalidInput(
            f"fence reset: timeout_s {asked.timeout_s}: more than 0 and at most {TIMEOUT_MAX_S:g} wanted"
        )
    return asked


# --- what the store holds -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The newest token of a group, and the process that the store gave it to."""

    token: Token
    holder: Process | None
    """None: that epoch is closed."""


async def held(store: Store, keys: Keys, service: str) -> Held:
    """Read from the store itself, at one revision.

    Raises:
        Unavailable: no answer. Refused: there is none yet, or what stands there is none.
    """
    entries = (await store.range(keys.group(service))).entries
    epoch, leader = entries.get(keys.epoch(service)), entries.get(keys.leader(service))
    if epoch is None or leader is None:
        raise Refused(f"{service}: the store has no epoch of it yet: it has never led")
    try:
        given = model.decode(records.EpochRecord, epoch.value)
        named = model.decode(records.LeaderRecord, leader.value)
    except msgspec.DecodeError as exc:
        raise Refused(f"{service}: its epoch and leader in the store do not decode: {exc}") from exc
    if not bounds.believable(given.incarnation, system_clock.latest_wall_ns() // 1_000_000):
        raise Refused(
            f"{service}: the store's own token {given.incarnation}/{given.epoch} is from the future; put "
            f"{keys.epoch(service)} right first"
        )
    token = Token(given.incarnation, service, given.epoch)
    same = (named.incarnation, named.epoch) == token.rank
    return Held(token, named.holder if same else None)


def stands(rank: tuple[int, int], claimant: Process, store: Held) -> str:
    """How a receiver's fence stands to the store: `as the store`, `below` (its leader has yet to fence it),
    `above` or `another claimant` (its leader is refused).
    """
    if rank != store.token.rank:
        return "above" if rank > store.token.rank else "below"
    return "as the store" if store.holder in (None, claimant) else "another claimant"


LOCKED = frozenset({"above", "another claimant"})


# --- the operation ------------------------------------------------------------------------------------------


def judge(view: SiteView, service: str) -> str | None:
    """Why it cannot be done as things are, or None. The service is known to exist."""
    mode = view.specs[service].mode
    if mode is not Mode.ACTIVE_STANDBY:
        return f"{service} is {mode}: it has no epoch, and no receiver a fence of it"
    return None


def hosts_of(view: SiteView) -> list[str]:
    """Where receivers may be: also a host whose agent is away, so that it is not forgotten in silence."""
    planned = {slot.host for spec in view.specs.values() for slot in spec.slots()}
    return sorted(planned | set(view.hosts))


ResetOn = Callable[[str, str, str], Awaitable[Sequence[Mapping[str, Any]]]]
"""`reset_on(host, service, operation)`: the rows of that host's receivers, each with its outcome (`reset`,
`kept`, `failed`). Raises HftctlError: the host cannot be asked."""


class FenceResets:
    def __init__(self, store: Store, keys: Keys, follower: Follower, reset_on: ResetOn) -> None:
        self._store, self._keys, self._follower, self._reset_on = store, keys, follower, reset_on
        self._steps: dict[str, list[records.OperationStep]] = {}
        """Of each operation under way: the hosts that have answered."""

    async def run(self, asked: FenceResetRequest) -> dict[str, Any]:
        """The result JSON.

        Raises:
            InvalidInput: no such service. Unavailable: the site was not seen yet, or the store cannot be
            read or written; nothing was changed.
        """
        view = self._follower.view
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        if asked.service not in view.specs:
            raise InvalidInput(
                f'service "{asked.service}" is not in site {view.site} (there are '
                f"{', '.join(sorted(view.specs)) or 'none'})"
            )
        if why_not := judge(view, asked.service):
            return self._result(asked, "refused", why_not)
        try:
            store = await held(self._store, self._keys, asked.service)
        except Refused as exc:
            return self._result(asked, "refused", str(exc))
        operation = f"{KIND}-{asked.service}-{os.urandom(5).hex()}"
        record = records.OperationRecord(
            operation, KIND, asked.service, "running", asked.actor, asked.reason, time.time_ns()
        )
        await operation_log.begin(self._store, self._keys, record)
        try:
            async with asyncio.timeout(asked.timeout_s):
                found = await asyncio.gather(
                    *(self._on_host(host, asked.service, operation) for host in hosts_of(view))
                )
        except TimeoutError:
            why = f"not every host answered within {asked.timeout_s:g} s; ask for operation {operation}"
            return await self._finish(self._result(asked, "unknown", why, operation, store))
        rows = [row for part in found for row in part]
        failed = [
            f"{row['instance'] or row['host']}: {row['reason']}" for row in rows if row["outcome"] == "failed"
        ]
        outcome, reason = ("failed", "; ".join(failed)) if failed else ("succeeded", asked.reason)
        return await self._finish(self._result(asked, outcome, reason, operation, store, rows))

    async def _on_host(self, host: str, service: str, operation: str) -> Sequence[Mapping[str, Any]]:
        began_ns = time.time_ns()
        try:
            found = await self._reset_on(host, service, operation)
        except HftctlError as exc:
            found = [{"instance": None, "host": host, "outcome": "failed", "reason": str(exc)}]
        why = "; ".join(str(row["reason"]) for row in found if row["outcome"] == "failed")
        state = "failed" if why else "succeeded"
        step = records.OperationStep(f"receivers of {host}", state, began_ns, time.time_ns(), why)
        self._steps.setdefault(operation, []).append(step)
        return found

    @staticmethod
    def _result(
        asked: FenceResetRequest,
        outcome: str,
        reason: str,
        operation: str | None = None,
        store: Held | None = None,
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        return {
            "operation": operation,
            "service": asked.service,
            "store": None if store is None else shown(store),
            "outcome": outcome,
            "reason": reason,
            "receivers": list(rows),
        }

    async def _finish(self, done: dict[str, Any]) -> dict[str, Any]:
        """Record how it ended; the answer does not depend on it."""
        with contextlib.suppress(HftctlError, TimeoutError):
            async with asyncio.timeout(FINISH_S):
                why = "" if done["outcome"] == "succeeded" else done["reason"]
                await operation_log.finish(
                    self._store,
                    self._keys,
                    done["operation"],
                    done["outcome"],
                    time.time_ns(),
                    outcome=why,
                    steps=self._steps.pop(done["operation"], ()),
                )
                await operation_log.trim(self._store, self._keys)
        return done


def shown(store: Held) -> dict[str, Any]:
    holder = store.holder.instance if store.holder else None
    return {"incarnation": store.token.incarnation, "epoch": store.token.epoch, "holder": holder}


async def check_running(store: Store, keys: Keys, operation: str, service: str) -> records.OperationRecord:
    """What another host's agent asks before it sets a fence.

    Raises:
        Refused: no such operation is under way. Unavailable.
    """
    found = await operation_log.find(store, keys, operation)
    if found is None or (found.kind, found.subject, found.state) != (KIND, service, operation_log.RUNNING):
        raise Refused(f"operation {operation}: no reset of {service}'s fences is under way by that name")
    return found


def history(view: SiteView, service: str) -> list[records.HistoryRow]:
    """The changes of leader of a service, and among them the resets of its fences, oldest first."""
    rows = sorted(view.history.get(service, ()), key=lambda row: row.epoch)
    for each in view.operations:
        if (each.kind, each.subject) != (KIND, service):
            continue
        epoch = max((row.epoch for row in rows if row.started_ns <= each.created_ns), default=0)
        rows.append(
            records.HistoryRow(
                epoch=epoch,
                from_instance=None,
                to_instance=None,
                cause=f"fence_reset {each.state}",
                actor=each.actor,
                reason=each.reason,
                operation=each.id,
                started_ns=each.created_ns,
            )
        )
    return sorted(rows, key=lambda row: (row.epoch, row.started_ns))
