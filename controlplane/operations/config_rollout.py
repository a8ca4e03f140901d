"""The elected controller carries out rollouts of configuration: it looks at the site, decides
(config/rollout.py), writes, and says how far it is in the operation's record.

Promises: what it does next depends on the store alone, so that a controller that dies in the middle is
followed by the next one with the same operation; the operation ends as `succeeded` in the transaction that
promotes, and as `failed` or `cancelled` before the record of one that was taken back is deleted, so that it
ends once. What cannot be read or written is tried again at the next look.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

import anyio
import msgspec

from controlplane import clock as clocks
from controlplane import model
from controlplane.config import rollout, staged
from controlplane.errors import HftctlError, Refused
from controlplane.host import log
from controlplane.model import bounds, records
from controlplane.model.config import ConfigRevision, RolloutRecord
from controlplane.model.observed import Alarm
from controlplane.operations import log as operation_log
from controlplane.site.status import HOST_SILENT_MS
from controlplane.site.view import SiteView
from controlplane.store import Compare, Keys, Put, Store

LOOK_S = 0.2
FRESH_S = 5.0
"""A view that was not confirmed for so long tells nothing: neither that hosts are silent nor that all is
well."""
ALARM = "config.reverted"
ALARM_S = 3600.0
"""It stands for so long, or until the service's configuration is changed again."""
ALARMS_MAX = 16
CHANGES = frozenset({rollout.KIND, "config"})
"""Kinds of operations that change a service's document."""


class ConfigRollouts:
    """A task of the controller."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: clocks.Clock,
        *,
        view: Callable[[], SiteView | None],
        age_s: Callable[[], float],
        silent_ms: Callable[[], Mapping[str, int]],
    ) -> None:
        """As a Follower has them: the site, how old that view is, and for how long each host has said
        nothing.
        """
        self.alarms: tuple[Alarm, ...] = ()
        """One for each service whose last rollout was taken back."""
        self._store, self._keys, self._clock = store, keys, clock
        self._view, self._age_s, self._silent_ms = view, age_s, silent_ms
        self._seen: dict[str, rollout.Seen | None] = {}
        """By operation."""
        self._told: dict[str, str] = {}
        """By operation: the step that its record has."""
        self._said: dict[str, str] = {}
        """By operation: what was logged last."""

    def __repr__(self) -> str:
        return f"<ConfigRollouts {self._keys.site}: {', '.join(self._said) or 'none under way'}>"

    async def run(self, elected: Callable[[], bool]) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(LOOK_S)
            if elected():
                await self.once()
            else:
                self._forget()

    async def once(self) -> None:
        """One look at every rollout. What fails costs that rollout its look."""
        view = self._view()
        if view is None:
            return
        under_way = [each.rollout for each in view.configs.values() if each.rollout is not None]
        for record in under_way:
            try:
                await self._advance(record, view)
            except HftctlError as exc:
                self._say(record, f"{exc}; tried again")
        with contextlib.suppress(HftctlError):  # the store is away, which has alarms of its own
            await self._settle_orphans(view)
        going = {record.operation for record in under_way}
        for known in (self._seen, self._told, self._said):
            for operation in known.keys() - going:
                del known[operation]
        self.alarms = reverted(view, self._clock.wall_ns())

    def _forget(self) -> None:
        self.alarms = ()
        self._seen.clear()
        self._told.clear()
        self._said.clear()

    async def _advance(self, record: RolloutRecord, view: SiteView) -> None:
        age_s = self._age_s()
        # What a host said while the view was not confirmed is on its way.
        silent_ms = {host: ms - age_s * 1e3 for host, ms in self._silent_ms().items()}
        silent = frozenset(host for host, ms in silent_ms.items() if ms >= HOST_SILENT_MS)
        now = rollout.Now(self._clock.boot_ns(), silent, age_s < FRESH_S)
        decision = rollout.decide(record, view, self._seen.get(record.operation), now)
        self._seen[record.operation] = decision.seen
        self._say(record, decision.says)
        match decision.action:
            case rollout.Wait():
                await self._tell(record.operation, decision.step)
                return
            case rollout.End(_, removed=True) if await self._has_spec(record.service):
                return  # the view has the record before the spec
        # The view may be behind the store: what it decided on has to stand there.
        found = await staged.find(self._store, self._keys, record.service)
        if found is None or found[0] != record:
            return
        match decision.action:
            case rollout.Change(changed):
                await staged.extend(self._store, self._keys, changed, found[1])
            case rollout.Promote():
                await self._promote(record, found[1])
            case rollout.End(outcome, state):
                await self._finish(record.operation, state, outcome)
                await staged.revert(self._store, self._keys, record, found[1])

    async def _tell(self, operation: str, step: str) -> None:
        """How far it is, once a step."""
        if self._told.get(operation) == step:
            return
        standing = await operation_log.find(self._store, self._keys, operation)
        if standing is not None:
            steps = rollout.steps(standing.steps, step, self._clock.wall_ns())
            if steps != standing.steps:
                await operation_log.progress(self._store, self._keys, operation, steps)
        self._told[operation] = step

    async def _promote(self, record: RolloutRecord, at: int) -> None:
        key, wall_ns = self._keys.operation(record.operation), self._clock.wall_ns()
        entry, also = await self._store.get(key), None
        standing = _decode(entry.value) if entry is not None else None
        if (
            entry is not None
            and standing is not None
            and standing.state in (operation_log.RUNNING, "unknown")
        ):
            steps = rollout.steps(standing.steps, rollout.PROMOTED, wall_ns, state="succeeded")
            closed = dataclasses.replace(
                standing, state="succeeded", finished_ns=wall_ns, outcome="", steps=steps
            )
            also = Compare(key, entry.revision), Put(key, model.encode(closed))
        await staged.promote(self._store, self._keys, record, at, also)

    async def _finish(self, operation: str, state: str, outcome: str) -> None:
        wall_ns = self._clock.wall_ns()
        standing = await operation_log.find(self._store, self._keys, operation)
        told = standing.steps if standing is not None else ()
        steps = rollout.steps(told, rollout.REVERTED, wall_ns, state="succeeded", detail=outcome)
        try:
            await operation_log.finish(
                self._store, self._keys, operation, state, wall_ns, outcome=outcome, steps=steps
            )
        except Refused as exc:  # there is no record to close
            log.warning("rollout.unrecorded", operation=operation, reason=str(exc))

    async def _has_spec(self, service: str) -> bool:
        """Also of one that does not decode."""
        entry = await self._store.get(self._keys.spec(service))
        try:
            return entry is not None and isinstance(records.decode_spec(entry.value), model.ServiceSpec)
        except msgspec.DecodeError:
            return True

    async def _settle_orphans(self, view: SiteView) -> None:
        """End operations whose rollout was taken from under them: with the service, or by hand."""
        for operation in view.operations:
            if (operation.kind, operation.state) != (rollout.KIND, operation_log.RUNNING):
                continue
            config = view.configs.get(operation.subject)
            under_way = config.rollout if config is not None else None
            if under_way is not None and under_way.operation == operation.id:
                continue
            if await self._is_orphan(operation):
                removed = not await self._has_spec(operation.subject)
                why = (
                    f"{operation.subject} was removed from the site" if removed else "its record was deleted"
                )
                await self._finish(operation.id, "failed", f"{why}: the rollout ended with it")

    async def _is_orphan(self, operation: records.OperationRecord) -> bool:
        """By the store itself: its revision is there, and its rollout is not. (Of one that its asker has just
        begun neither is.)
        """
        service, keys = operation.subject, self._keys
        entries = dict((await self._store.range(keys.config_of(service))).entries)
        standing = entries.pop(keys.config_rollout(service), None)
        if standing is not None and _operation_of(RolloutRecord, standing.value) in ("", operation.id):
            return False
        return any(_operation_of(ConfigRevision, each.value) == operation.id for each in entries.values())

    def _say(self, record: RolloutRecord, text: str) -> None:
        if self._said.get(record.operation) == text:
            return
        self._said[record.operation] = text
        fields = {"service": record.service, "revision": record.revision, "operation": record.operation}
        log.info("rollout", **fields, stage=record.stage, says=text)


def reverted(view: SiteView, wall_ns: int) -> tuple[Alarm, ...]:
    """Of each service whose last change was a rollout that was taken back not long ago."""
    last: dict[str, records.OperationRecord] = {}
    for operation in view.operations:
        if operation.kind in CHANGES and operation.subject in view.specs:
            before = last.get(operation.subject)
            if before is None or before.created_ns <= operation.created_ns:
                last[operation.subject] = operation
    alarms = []
    for service, operation in sorted(last.items()):
        since_ns = operation.finished_ns or 0
        if (operation.kind, operation.state) != (
            rollout.KIND,
            "failed",
        ) or wall_ns - since_ns > ALARM_S * 1e9:
            continue
        text = (
            f"{service}: the rollout of its configuration was taken back: {operation.outcome}; correct it "
            f"and set it again (hftctl op show {operation.id})"
        )
        alarms.append(Alarm(f"{ALARM}.{service}", "warning", service, bounds.cut(text), since_ns))
    return tuple(alarms[:ALARMS_MAX])


def _operation_of(kind: type[RolloutRecord] | type[ConfigRevision], value: bytes) -> str:
    """Empty: it does not decode, or is of another kind."""
    try:
        return model.decode(kind, value).operation
    except msgspec.DecodeError:
        return ""


def _decode(value: bytes) -> records.OperationRecord | None:
    try:
        return model.decode(records.OperationRecord, value)
    except msgspec.DecodeError:
        return None
