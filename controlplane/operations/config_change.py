"""An operator changes a service's configuration, or a plain key: checked, recorded, written to the store.

The document is held against the daemon's own schema first; what is bad is refused with its path, and nothing
is written. Who obeys it: agents watch the records and tell their daemons, so an answer from here says that it
is written, and the status says what is in force. With a rollout the answer comes when its first instances are
named; the elected controller goes on with it (config_rollout.py) and ends the operation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from controlplane import model
from controlplane.config import canary, condition, documents, plain, revisions, staged
from controlplane.config.documents import Change
from controlplane.config.revisions import New, Standing
from controlplane.config.rollout import KIND as ROLLOUT_KIND
from controlplane.errors import HftctlError, InvalidInput, Refused, TooLarge, Unavailable
from controlplane.model import bounds, records
from controlplane.model.config import ROLLOUT_S_MAX, RolloutRecord
from controlplane.model.specs import DaemonKind
from controlplane.operations import log as operation_log
from controlplane.site.view import SiteView
from controlplane.specs import settings_check
from controlplane.specs.read import installed_kinds
from controlplane.store import Keys, Store

KIND = "config"
"""Of the operations that change a document."""
KEY_KIND = "config-key"
BODY_BYTES_MAX = 4 * documents.DOCUMENT_BYTES_MAX
"""Of a request; a document may be written with blanks."""
RACES_MAX = 100
"""Changes by others between one's own look and write, as long as no path is touched by both."""
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class RolloutWish(msgspec.Struct, frozen=True):
    canary: tuple[str, ...] = ()
    """Instances that have it first; empty: the standbys of a group, else the first instance."""
    watch_s: float = 10.0
    """For how long each stage has to stay good."""
    timeout_s: float = 60.0
    """In which each stage has to be in force and ready."""
    metric: str = ""
    """`NAME > VALUE` or `NAME < VALUE`; empty: health alone is watched."""


class ConfigRequest(msgspec.Struct):
    """Body of POST /v1/site/config/SERVICE."""

    kind: Literal["set", "edit", "apply", "rollback"]
    reason: str
    actor: str = "unknown"
    service: str = ""
    set: dict[str, Any] = {}
    """Of `set`: path -> value; null: back to the daemon's default."""
    document: dict[str, Any] | None = None
    """Of `edit` and `apply`: all of it; what it leaves out is the daemon's default."""
    to: int | None = None
    """Of `rollback`: the revision whose document is wanted again."""
    base: int | None = None
    """Revision that the asker saw; None, for `set` only: whatever stands."""
    dry_run: bool = False
    rollout: RolloutWish | None = None

    def takes_back(self, rollout: RolloutRecord) -> bool:
        """Whether it is a rollback of this rollout, to the revision that was wanted when it began."""
        return self.kind == "rollback" and self.to == rollout.base


class KeyRequest(msgspec.Struct):
    """Body of POST /v1/site/keys/KEY."""

    reason: str
    value: Any = None
    type: str = ""
    """bool, int, float, string or json; empty: what the value looks like."""
    ttl_s: float | None = None
    delete: bool = False
    actor: str = "unknown"


def decode(body: bytes) -> ConfigRequest:
    """Raises InvalidInput, TooLarge."""
    asked: ConfigRequest = _decoded(ConfigRequest, body, "configuration")
    wanted = {"set": "set", "edit": "document", "apply": "document", "rollback": "to"}[asked.kind]
    given = {"set": bool(asked.set), "document": asked.document is not None, "to": asked.to is not None}
    for name, there in given.items():
        if there != (name == wanted):
            found = f"found {name}" if there else f"found no {name}"
            raise InvalidInput(f"configuration: {found}, wanted {wanted} alone with {asked.kind}")
    if asked.base is None and asked.kind != "set":
        raise InvalidInput(
            f"configuration: found no base, wanted the revision that the {asked.kind} was made on"
        )
    if asked.rollout is not None:
        _check_wish(asked.rollout)
    return asked


def decode_key(body: bytes) -> KeyRequest:
    """Raises InvalidInput, TooLarge."""
    asked: KeyRequest = _decoded(KeyRequest, body, "key")
    if asked.delete and (asked.value is not None or asked.ttl_s is not None or asked.type):
        raise InvalidInput("key: found a value, type or TTL, wanted none with delete")
    if not asked.delete and asked.value is None:
        raise InvalidInput("key: found no value, wanted one, or delete")
    return asked


def _decoded(kind: type[Any], body: bytes, subject: str) -> Any:
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(
            f"{subject}: found {len(body)} bytes, wanted a document of at most {documents.DOCUMENT_BYTES_MAX}"
        )
    try:
        asked = model.decode(kind, body)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{subject}: {exc}") from exc
    if not asked.reason.strip():
        raise InvalidInput(f"{subject}: a reason is wanted (it is kept in the history)")
    return asked


def _check_wish(wish: RolloutWish) -> None:
    for name, found in (("watch_s", wish.watch_s), ("timeout_s", wish.timeout_s)):
        if not (math.isfinite(found) and 0 < found <= ROLLOUT_S_MAX):
            raise InvalidInput(
                f"rollout: found {name} {found:g}, wanted more than 0 and at most {ROLLOUT_S_MAX:g} s"
            )
    if wish.metric:
        condition.parse(wish.metric)


# --- what would change --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    document: Mapping[str, Any]
    changes: Sequence[Change]
    restarts: tuple[str, ...]
    """Names of changed settings that only a restart changes."""
    restored: int = 0


def plan(asked: ConfigRequest, stands: Standing, kind: DaemonKind) -> Planned:
    """Pure: the document that the request makes of what stands.

    Raises:
        InvalidInput: a bad path or value, or a revision that is not kept. TooLarge. Refused: it is of a
        setting that names a service, or what stands is damaged.
    """
    service = stands.service
    before = stands.document
    given = _with_services(kind, asked, stands)
    document = settings_check.check(kind, given, service)
    changes = documents.difference(before or {}, document)
    _keep_services(service, kind, before, document)
    assert stands.spec is not None, "a service without a spec has no configuration"
    only_restarts = stands.spec.restart
    touched = dict.fromkeys(change.path.partition(".")[0] for change in changes)
    restarts = tuple(name for name in touched if only_restarts is None or name in only_restarts)
    return Planned(document, changes, restarts, asked.to or 0)


def _wanted(asked: ConfigRequest, stands: Standing) -> Mapping[str, Any]:
    if asked.kind == "rollback":
        assert asked.to is not None, "checked when it was decoded"
        found = stands.document_of(asked.to)
        if found is None:
            kept = ", ".join(map(str, sorted(stands.config.revisions))) or str(stands.revision)
            raise InvalidInput(
                f"{stands.service}: found no revision {asked.to}, wanted one that is kept ({kept})"
            )
        return found
    if asked.kind != "set":
        assert asked.document is not None, "checked when it was decoded"
        return asked.document
    if stands.document is None:
        raise Refused(
            f"{stands.service}: the document of revision {stands.revision} is not in the store, or damaged; "
            "a single setting cannot be set in it: put all of it with `hftctl config apply`, or roll back"
        )
    try:
        return documents.edited(stands.document, asked.set)
    except InvalidInput as exc:
        raise InvalidInput(f"{stands.service}: {exc}") from exc


def _with_services(kind: DaemonKind, asked: ConfigRequest, stands: Standing) -> Mapping[str, Any]:
    """What is wanted, with the services that it uses as they are, where a whole document does not name them
    or is one of before.
    """
    given = _wanted(asked, stands)
    if asked.kind == "set" or stands.document is None:
        return given
    uses = {
        name: stands.document[name] for name in settings_check.service_fields(kind) & stands.document.keys()
    }
    return {**given, **uses} if asked.kind == "rollback" else {**uses, **given}


def _keep_services(
    service: str, kind: DaemonKind, before: Mapping[str, Any] | None, document: Mapping[str, Any]
) -> None:
    try:
        was = settings_check.services_named(kind, before) if before is not None else {}
    except (msgspec.ValidationError, HftctlError):
        was = {}  # an older release's document, which is to be replaced
    for path, names in settings_check.services_named(kind, document).items():
        if path in was and was[path] != names:
            raise Refused(
                f"{service}: {path}: found {', '.join(names)}, wanted {', '.join(was[path])} as it is: what "
                "a service uses follows from services.yml; change it there and run `hftctl apply`"
            )


# --- doing it -----------------------------------------------------------------------------------------------


class ConfigChange:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        view: Callable[[], SiteView | None],
        kinds: Callable[[], Mapping[str, DaemonKind]] = installed_kinds,
    ) -> None:
        """`view`: the site as the asker sees it; names and leaders are taken from it, documents never."""
        self._store, self._keys, self._view, self._kinds = store, keys, view, functools.cache(kinds)

    async def run(self, asked: ConfigRequest) -> dict[str, Any]:
        """The result JSON: `outcome` is succeeded, running (of a rollout, which goes on) or dry_run.

        Raises:
            InvalidInput, TooLarge: what the daemon's schema does not allow, with the path to it.
            Refused: a concurrent change, or a rollout that is under way.
            Unavailable: the site was not seen yet, or the store cannot be read or written; with `ambiguous`
            the revision may stand.
        """
        view = self._seen()
        if not _SERVICE.fullmatch(asked.service):
            raise self._unknown(asked.service, view)
        operation = ""
        try:
            for _ in range(RACES_MAX):
                stands = await revisions.read(self._store, self._keys, asked.service)
                if stands.config.rollout is not None and asked.takes_back(stands.config.rollout):
                    return await self._take_back(asked, stands, stands.config.rollout)
                planned = await self._plan(asked, stands, view)
                if asked.dry_run or not planned.changes:
                    outcome = "dry_run" if asked.dry_run else "succeeded"
                    why = "nothing was written" if asked.dry_run else "nothing to change"
                    done = self._result(asked, stands.revision, stands.revision, planned, outcome, why)
                    break
                if not operation:
                    operation = await self._begin(
                        ROLLOUT_KIND if asked.rollout else KIND, asked.kind, asked.service, asked
                    )
                written = await self._write(asked, stands, planned, operation, view)
                if isinstance(written, revisions.Written):
                    outcome = "running" if asked.rollout else "succeeded"
                    done = self._result(asked, written.base, written.revision, planned, outcome, asked.reason)
                    break
                if written.both or written.rollout is not None:
                    raise Refused(str(written))
                # What else changed is looked at anew: it may be no matter, or the base may be another.
            else:
                raise Unavailable(f"{asked.service}: overtaken {RACES_MAX} times by other changes; ask again")
        except HftctlError as exc:
            unknown = isinstance(exc, Unavailable) and exc.ambiguous
            await self._finish(operation, "unknown" if unknown else "refused", str(exc))
            raise
        if done["outcome"] != "running":
            await self._finish(operation, "succeeded")
        return {"operation": operation or None, **done}

    async def _take_back(
        self, asked: ConfigRequest, stands: Standing, rollout: RolloutRecord
    ) -> dict[str, Any]:
        """It succeeds when it is written; the rollout's own operation fails when every instance is back."""
        if not asked.dry_run:
            rollout = await staged.abort(self._store, self._keys, asked.service, asked.reason, asked.actor)
        before, after = stands.document_of(rollout.revision), stands.document_of(rollout.base)
        changes = documents.difference(before or {}, after or {}) if before and after else []
        done = self._result(
            asked,
            rollout.revision,
            rollout.base,
            Planned(after or {}, changes, ()),
            "dry_run" if asked.dry_run else "succeeded",
            "nothing was written" if asked.dry_run else asked.reason,
        )
        return {"operation": rollout.operation, **done}

    async def run_key(self, key: str, asked: KeyRequest) -> dict[str, Any]:
        """The result JSON. Deleting a key that is not there succeeds.

        Raises:
            InvalidInput, TooLarge: the key, its value or its TTL. Unavailable: as `run`.
        """
        view = self._seen()
        now_ns = time.time_ns()
        record = None
        if asked.delete:
            plain.check_key(key)
        else:
            record = plain.made(
                key,
                asked.value,
                asked.type,
                ttl_s=asked.ttl_s,
                actor=bounds.cut(asked.actor),
                reason=bounds.cut(asked.reason),
                set_ns=now_ns,
            )
            first, dot, _ = key.partition(".")
            if dot and first in view.specs:
                raise InvalidInput(
                    f"key {key}: found the service {first} before a dot, wanted another name: the library "
                    f"reads this one as a setting of {first}"
                )
        operation = await self._begin(KEY_KIND, "delete" if asked.delete else "set", key, asked)
        try:
            if record is None:
                old = await plain.delete(self._store, self._keys, key)
            else:
                old = await plain.put(self._store, self._keys, key, record, view.plain.keys())
        except HftctlError as exc:
            unknown = isinstance(exc, Unavailable) and exc.ambiguous
            await self._finish(operation, "unknown" if unknown else "refused", str(exc))
            raise
        await self._finish(operation, "succeeded")
        return {
            "operation": operation,
            "key": key,
            "value": record.value if record else None,
            "old": old.value if old else None,
            "type": record.type if record else "",
            "ttl_s": asked.ttl_s,
            "outcome": "succeeded",
            "reason": "it was not there" if record is None and old is None else asked.reason,
        }

    @staticmethod
    def _unknown(service: str, view: SiteView) -> InvalidInput:
        there = ", ".join(sorted(view.specs)) or "none"
        return InvalidInput(
            f"service {documents.shown(service)} is not in site {view.site} (there are {there})"
        )

    def _seen(self) -> SiteView:
        view = self._view()
        if view is None:
            raise Unavailable("the agent has not seen the store yet")
        return view

    async def _plan(self, asked: ConfigRequest, stands: Standing, view: SiteView) -> Planned:
        if stands.spec is None:
            raise self._unknown(asked.service, view)
        kinds = await asyncio.to_thread(self._kinds)  # the first time every daemon's settings are imported
        kind = kinds.get(stands.spec.daemon)
        if kind is None:
            raise InvalidInput(
                f"{asked.service}: its daemon {stands.spec.daemon} is not installed on this host"
            )
        if stands.config.rollout is not None:
            raise Refused(revisions.under_way(stands.config.rollout))
        if (rollout := self._keys.config_rollout(asked.service)) in stands.damaged:
            raise Refused(
                f"{asked.service}: the record of a rollout does not decode; delete the key {rollout}"
            )
        if asked.base is not None and asked.base != stands.revision:
            raise Refused(self._behind(asked, stands, kind))
        planned = plan(asked, stands, kind)
        if kind.check is not None and planned.changes:
            await asyncio.to_thread(settings_check.check_here, kind, planned.document, asked.service)
        if asked.rollout is not None:
            canary.choose(stands.spec, view.leaders.get(asked.service), asked.rollout.canary)
            if asked.rollout.metric:
                heard = canary.heard_of(view, [slot.instance for slot in stands.spec.slots()])
                condition.check(asked.rollout.metric, asked.service, heard.values())
        return planned

    def _behind(self, asked: ConfigRequest, stands: Standing, kind: DaemonKind) -> str:
        """Of a change that was made on an older revision: both sides."""
        assert asked.base is not None
        theirs = tuple(
            row
            for number, row in sorted(stands.config.revisions.items())
            if asked.base < number <= stands.revision
        )
        before = stands.document_of(asked.base)
        both: tuple[str, ...] = ()
        if before is not None and stands.document is not None:
            others = documents.difference(before, stands.document)
            with contextlib.suppress(HftctlError):
                wanted = (
                    documents.edited(before, asked.set) if asked.kind == "set" else _wanted(asked, stands)
                )
                mine = documents.difference(before, settings_check.check(kind, wanted, asked.service))
                both = documents.touched_by_both(mine, others)
        if not theirs:
            wanted_base = f"wanted {asked.base}, which the change was made on"
            return f"{asked.service}: found revision {stands.revision}, {wanted_base}"
        return str(revisions.Conflict(asked.service, asked.base, theirs, both))

    async def _write(
        self, asked: ConfigRequest, stands: Standing, planned: Planned, operation: str, view: SiteView
    ) -> revisions.Written | revisions.Conflict:
        now_ns = time.time_ns()
        new = New(
            planned.document, asked.kind, asked.actor, asked.reason, now_ns, operation, planned.restored
        )
        if asked.rollout is None:
            return await revisions.write(self._store, self._keys, stands, new)
        wish = asked.rollout
        assert stands.spec is not None, "checked by _plan"
        first = canary.choose(stands.spec, view.leaders.get(asked.service), wish.canary)
        rollout = RolloutRecord(
            asked.service,
            1,
            1,
            operation,
            bounds.cut(asked.actor),
            bounds.cut(asked.reason),
            now_ns,
            first,
            crashes=canary.crashes_of(canary.heard_of(view, first), first),
            watch_s=wish.watch_s,
            timeout_s=wish.timeout_s,
            metric=wish.metric,
        )
        return await revisions.stage(self._store, self._keys, stands, new, rollout)

    @staticmethod
    def _result(
        asked: ConfigRequest, base: int, revision: int, planned: Planned, outcome: str, reason: str
    ) -> dict[str, Any]:
        return {
            "service": asked.service,
            "from": base,
            "to": revision,
            "changes": [msgspec.to_builtins(change) for change in planned.changes],
            "restarts": list(planned.restarts),
            "outcome": outcome,
            "reason": reason,
        }

    async def _begin(self, kind: str, verb: str, subject: str, asked: ConfigRequest | KeyRequest) -> str:
        operation = f"{kind}-{verb}-{os.urandom(5).hex()}"
        record = records.OperationRecord(
            operation,
            kind,
            subject,
            "running",
            bounds.cut(asked.actor),
            bounds.cut(asked.reason),
            time.time_ns(),
        )
        await operation_log.begin(self._store, self._keys, record)
        return operation

    async def _finish(self, operation: str, state: str, why: str = "") -> None:
        """The answer does not depend on it."""
        if not operation:
            return
        with contextlib.suppress(HftctlError):
            await operation_log.finish(self._store, self._keys, operation, state, time.time_ns(), outcome=why)
            await operation_log.trim(self._store, self._keys)
