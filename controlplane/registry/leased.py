"""Registrations as leased keys of the store, `services/<service>/<instance>`, under one lease of their owner.

What it promises, beside the port (base.py): one keep-alive and one question to the store in an interval,
however many registrations there are; the question is a transaction that compares the revision of each key and
writes nothing (ADR 0028). A key is deleted by compare-and-swap only. Leadership does not hang on this lease:
it is a record of its own. Read by discovery/.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from controlplane import model
from controlplane.clock import Clock
from controlplane.errors import HftctlError, InvalidSettings, LeaseLost, Permanent, Unavailable
from controlplane.host import log
from controlplane.model import Process, records
from controlplane.model.records import Registration
from controlplane.store import Committed, Compare, Entry, Keys, Lease, Store
from controlplane.store.limits import OPERATIONS_MAX

TTL_S = 10.0
"""An owner that is gone leaves discovery after this."""

KEEP_S = 3.0
"""Between two keep-alives: two may fail in a row within the TTL, and the third still comes in time."""

RETRY_S = 0.5
"""After an error: the store is away, and a registration may wait."""

TRIES = 3
"""Of deleting a key that changes meanwhile. Only an instance's own keeper writes its key, so even one change
is rare (an earlier write of ours that arrives late)."""

Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event's kind and fields."""


def to_log(kind: str, fields: Mapping[str, object]) -> None:
    (log.warning if kind in WARNINGS else log.info)(kind, **fields)


WARNINGS = frozenset({"registration.failed", "registration.refused", "registration.lost"})
"""Events of something that is wrong; the others tell what was done."""


@dataclass(frozen=True, slots=True)
class _Held:
    registration: Registration
    revision: int


@dataclass(frozen=True, slots=True, eq=False)
class _Leaving:
    """A key to delete, whosever it is or while it is `process`'s. Told apart by identity."""

    process: Process | None


class LeasedRegistry:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        *,
        ttl_s: float = TTL_S,
        keep_s: float = KEEP_S,
        report: Report = to_log,
    ) -> None:
        """`keys` has the prefix; `keep_s` is the time between two keep-alives.

        Raises:
            InvalidSettings: one failed keep-alive would already end the lease.
        """
        if not 0 < keep_s <= ttl_s / 2:
            raise InvalidSettings(
                f"registry: keep-alive interval {keep_s} s, lease {ttl_s} s; expected an interval above 0 "
                "and of at most half the lease, so that one keep-alive may fail"
            )
        self._store, self._keys, self._clock = store, keys, clock
        self._ttl_s, self._keep_s = ttl_s, keep_s
        self._report = report
        self._desired: dict[str, Registration] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._held: dict[str, _Held] = {}
        self._refused: dict[str, type[HftctlError]] = {}
        """Key -> how the store refused it, reported already."""
        self._lease: Lease | None = None
        self._kept_boot_ns = 0
        """When the lease was last granted or renewed."""
        self._failing: type[HftctlError] | None = None
        """How the last round failed, reported already. Not the words: those hold times and endpoints, which
        differ from try to try."""
        self._news = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<LeasedRegistry {self._keys.services}: {len(self._held)} of {len(self._desired)} held"
            f"{', failing: ' + self._failing.__name__ if self._failing else ''}>"
        )

    def holds(self, instance: str) -> bool:
        return instance in self.held()

    @property
    def trouble(self) -> str:
        return ""  # where the store is away, everybody says so

    # --- what the owner says --------------------------------------------------------------------------------

    def register(self, registration: Registration) -> None:
        key = self._keys.registration(registration.service, registration.instance)
        if self._closed or self._desired.get(key) == registration:
            return
        self._desired[key] = registration
        self._leaving.pop(key, None)
        self._news.set()

    def update(self, registration: Registration) -> None:
        desired = self._desired.get(self._keys.registration(registration.service, registration.instance))
        if desired is not None and desired.process == registration.process:
            self.register(registration)

    def deregister(self, service: str, instance: str, process: Process | None = None) -> None:
        key = self._keys.registration(service, instance)
        desired = self._desired.get(key)
        if self._closed or (process is not None and desired is not None and desired.process != process):
            return
        self._desired.pop(key, None)
        self._leaving[key] = _Leaving(process)
        self._news.set()

    def held(self) -> Mapping[str, Registration]:
        found = (self._held[key].registration for key in sorted(self._held))
        return {registration.instance: registration for registration in found}

    # --- making the store agree -----------------------------------------------------------------------------

    async def run(self) -> None:
        while not self._closed:
            wait_s = await self.reconcile()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    async def close(self) -> None:
        self._closed = True
        self._news.set()
        for table in (self._desired, self._leaving, self._held, self._refused):
            table.clear()
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.revoke()  # deletes its keys; a put on its way finds the lease gone

    async def reconcile(self) -> float:
        """One round of `run`: keep the lease, delete, put. Returns the seconds until the next is due."""
        self._news.clear()
        try:
            await self._keep_lease()
            await self._withdraw()
            await self._put()
        except LeaseLost as exc:
            first = self._failing is None
            self._fail(exc)
            self._lease = None
            self._held.clear()  # its keys ended with it
            return 0.0 if first else RETRY_S
        except HftctlError as exc:
            self._fail(exc)
            return RETRY_S
        if self._failing is not None:
            self._failing = None
            self._report("registration.recovered", {"held": len(self._held)})
        if self._lease is None:
            return self._keep_s
        return max(0.0, self._kept_boot_ns / 1e9 + self._keep_s - self._clock.boot_ns() / 1e9)

    async def _keep_lease(self) -> None:
        if self._lease is None:
            if self._desired:
                before_ns = self._clock.boot_ns()
                lease = await self._store.lease(self._ttl_s)
                if self._closed:
                    return  # nothing is put under it any more; it ends by itself
                self._lease, self._kept_boot_ns = lease, before_ns
        elif self._clock.boot_ns() - self._kept_boot_ns >= self._keep_s * 1e9:
            before_ns = self._clock.boot_ns()
            await self._lease.keep_alive()
            self._kept_boot_ns = before_ns
            await self._forget_lost()

    async def _forget_lost(self) -> None:
        """Ask the store whether every key still is as this registry wrote it; what is not is put again."""
        held = iter(list(self._held.items()))
        while some := list(itertools.islice(held, OPERATIONS_MAX)):
            compares = [Compare(key, row.revision) for key, row in some]
            if isinstance(await self._store.txn(compares, []), Committed):
                continue
            for key, row in some:
                entry = await self._store.get(key)
                stands = entry is not None and entry.revision == row.revision
                if not stands and self._held.get(key) is row:
                    del self._held[key]
                    found = "deleted" if entry is None else "overwritten"
                    self._report("registration.lost", {"key": key, "found": found})

    async def _withdraw(self) -> None:
        for key, leaving in list(self._leaving.items()):
            try:
                await self._delete(key, leaving.process)
            except Permanent as exc:
                self._refuse(key, exc)
                continue
            self._refused.pop(key, None)
            if self._leaving.get(key) is leaving:
                del self._leaving[key]

    async def _delete(self, key: str, process: Process | None) -> None:
        held = self._held.get(key)
        if held is not None:  # our own write, of whichever process: nothing of this key is to stay
            outcome = await self._store.delete(key, expect=held.revision)
            if self._held.get(key) is held:
                del self._held[key]
            if isinstance(outcome, Committed):
                self._report("deregistered", {"key": key})
                return
        for _ in range(TRIES):
            entry = await self._store.get(key)
            if entry is None or (process is not None and _another_process(entry.value, process)):
                return
            if isinstance(await self._store.delete(key, expect=entry.revision), Committed):
                self._report("deregistered", {"key": key})
                return
        raise Unavailable(f'registration "{key}": it changed {TRIES} times while it was being deleted')

    async def _put(self) -> None:
        for key, registration in list(self._desired.items()):
            held = self._held.get(key)
            if held is not None and held.registration == registration:
                continue
            lease = self._lease
            if lease is None or self._desired.get(key) is not registration:
                continue  # changed during this round; the next one is due at once
            try:
                outcome = await self._store.put(key, records.encode_registration(registration), lease=lease)
            except LeaseLost:
                raise
            except Permanent as exc:
                self._refuse(key, exc)
                continue
            assert isinstance(outcome, Committed), "a put without an expectation is never lost"
            if self._closed:
                return
            self._held[key] = _Held(registration, outcome.of_puts)
            self._refused.pop(key, None)
            self._report("registered", {"key": key})

    def _refuse(self, key: str, exc: HftctlError) -> None:
        """This one the store does not take: say so once, go on with the others, try again each round."""
        if self._refused.get(key) is not type(exc):
            self._refused[key] = type(exc)
            self._report("registration.refused", {"key": key, "reason": str(exc)})

    def _fail(self, exc: HftctlError) -> None:
        if self._failing is not type(exc):
            self._failing = type(exc)
            self._report("registration.failed", {"reason": str(exc), "leaves_discovery_after_s": self._ttl_s})


def decode(entries: Iterable[Entry]) -> list[Registration]:
    """The registrations among the entries under a service's key; what does not decode is left out: it is of
    another writer, and no reason not to find the others.
    """
    found = []
    for entry in entries:
        try:
            found.append(records.decode_registration(entry.value, *entry.key.split("/")[-2:]))
        except msgspec.DecodeError:
            continue
    return found


def _another_process(value: bytes, process: Process) -> bool:
    try:
        return model.decode(Registration, value).process != process
    except msgspec.DecodeError:
        return False  # what does not decode is of no use to any reader: away with it
