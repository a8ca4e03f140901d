"""What operators have forced upon circuit breakers, as this host obeys it: heard from the store, told to the
daemons over their links, kept on disk (`hosts/<host>/breakers.json`) for an agent that starts without store.

One that has an expiry ends on each host by its own boot clock, counted from when the host heard of it first;
the first host at which it ends takes the record out of the store. After a reboot what was left counts on
(to REMEMBER_EVERY_S), as the boot clock has begun anew. What daemons make of it: hftd/runtime/breakers.py;
who writes the record: controlplane/operations/breaker_override.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import msgspec

from agents.bus import Bus
from controlplane import model
from controlplane.clock import Clock
from controlplane.errors import HftctlError
from controlplane.host import files, identity
from controlplane.model.bounds import Count
from controlplane.model.records import BreakerOverride
from controlplane.store import Keys, Store
from hftd.wire.control import OverrideOnWire

LOOK_EVERY_S = 0.2
"""An override ends this much late at most."""
REMEMBER_EVERY_S = 10.0
"""Between two writes of what is left, while one with an expiry stands: what a reboot may add to it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An override, and its end on this host."""

    override: BreakerOverride
    until_boot_ns: Count
    """0: none."""
    boot_id: str
    left_ns: Count = 0
    """Until then, when this was written."""


class BreakerOverrides:
    def __init__(self, path: Path, bus: Bus, clock: Clock, report: Callable[..., None]) -> None:
        self._path, self._bus, self._clock, self._report = path, bus, clock, report
        self._boot_id = identity.boot_id()
        self.trouble = ""
        """What was wrong with the file at the start; empty: nothing."""
        self._heard = self._read()
        self._known = not self.trouble
        """What is in force: without a readable file only the store can tell."""
        self._remembered_ns = clock.boot_ns()

    def __repr__(self) -> str:
        return f"<BreakerOverrides {', '.join(each.name for each in self.in_force()) or 'none'}>"

    # --- what stands ----------------------------------------------------------------------------------------

    def in_force(self) -> list[OverrideOnWire]:
        """In order of breaker."""
        now_ns = self._clock.boot_ns()
        return [
            OverrideOnWire(name, each.override.state, each.override.reason, each.until_boot_ns)
            for name, each in sorted(self._heard.items())
            if not each.until_boot_ns or each.until_boot_ns > now_ns
        ]

    def take(
        self, overrides: Mapping[str, BreakerOverride], unreadable: Callable[[str], bool] = lambda name: False
    ) -> None:
        """What the store holds now. One that was heard before keeps its end. `unreadable(name)`: the store's
        record of it does not decode; then what was heard last stands.
        """
        now_ns = self._clock.boot_ns()
        before, self._heard, self._known = self._heard, {}, True
        for name, override in overrides.items():
            known = before.get(name)
            if known is not None and known.override == override:
                self._heard[name] = known
                continue
            until_ns = now_ns + int(override.for_s * 1e9) if override.for_s is not None else 0
            self._heard[name] = Heard(override, until_ns, self._boot_id)
            self._tell_event("breaker.override", override)
        for name, known in before.items():
            if name not in self._heard and unreadable(name):
                self._heard[name] = known
            elif name not in self._heard:
                self._tell_event("breaker.override_ended", known.override)
        if self._heard != before:
            self._write()
        self.tell_all()

    def _tell_event(self, kind: str, override: BreakerOverride) -> None:
        self._report(
            kind,
            breaker=override.name,
            state=override.state,
            reason=override.reason,
            actor=override.actor,
            operation=override.id,
        )

    # --- who is told ----------------------------------------------------------------------------------------

    def tell(self, name: str) -> None:
        if not self._known:
            return
        self._bus.overrides(name, self.in_force())

    def tell_all(self) -> None:
        for name in list(self._bus.reports):
            self.tell(name)

    # --- time -----------------------------------------------------------------------------------------------

    async def run(self, store: Store, keys: Keys) -> None:
        """End what has expired, until cancelled. A store that does not answer is asked again at the next
        look; here the override has ended all the same.
        """
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            for each in self.look():
                with contextlib.suppress(HftctlError):
                    await _remove(store, keys, each)

    def look(self) -> list[BreakerOverride]:
        """Those that have ended here and stand in the store still, as far as is known."""
        now_ns = self._clock.boot_ns()
        ending = [each for each in self._heard.values() if each.until_boot_ns]
        ended = [each.override for each in ending if each.until_boot_ns <= now_ns]
        if ended:
            self.tell_all()
        if len(ended) < len(ending) and now_ns - self._remembered_ns >= REMEMBER_EVERY_S * 1e9:
            self._write()
        return ended

    # --- the disk -------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Heard]:
        try:
            kept = model.decode(dict[str, Heard], self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as exc:
            self.trouble = f"{self._path}: not the overrides of breakers: {exc}"
            with contextlib.suppress(OSError):
                self.trouble += f"; set aside as {files.set_aside(self._path).name}"
            self.trouble += "; they come from the store alone"
            return {}
        return {name: self._of_this_boot(each) for name, each in kept.items()}

    def _of_this_boot(self, each: Heard) -> Heard:
        if each.boot_id == self._boot_id:
            return each
        until_ns = self._clock.boot_ns() + each.left_ns if each.until_boot_ns else 0
        return replace(each, until_boot_ns=until_ns, boot_id=self._boot_id)

    def _write(self) -> None:
        """A disk that cannot be written costs the next agent its memory, and nothing now."""
        now_ns = self._remembered_ns = self._clock.boot_ns()
        kept = {
            name: replace(each, left_ns=max(0, each.until_boot_ns - now_ns))
            for name, each in self._heard.items()
        }
        with contextlib.suppress(OSError):
            files.replace(self._path, model.encode(kept) + b"\n", files.Durability.POWER)


async def _remove(store: Store, keys: Keys, override: BreakerOverride) -> None:
    """Unless another has been set meanwhile."""
    key = keys.breaker_override(override.name)
    entry = await store.get(key)
    if entry is not None and entry.value == model.encode(override):
        await store.delete(key, expect=entry.revision)
