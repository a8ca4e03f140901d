"""Which settings each instance of a host is to have, and the site's plain keys, as this host obeys them: from
the store, and where the store cannot say, the last good ones from its own disk (`hosts/<host>/config.json`).

Promises: a record that does not decode, or a revision whose document is not there, changes nothing; what was
in force stays, and `sentence` names it. Without a readable file, on a host that has run services, and before
the store has answered, the kill switch counts as set for what is started, as it does while its record cannot
be read and never could. A kill switch that a store knew stays set in a store that has lost its data (another
incarnation) until that one says otherwise. `decide` is pure. A disk that cannot be written costs the next
agent its memory, and nothing now. Who tells the daemons: config_news.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from agents import settings
from agents.supervisor.program import Configuration, of_spec
from controlplane import model
from controlplane.host import files
from controlplane.model import ServiceSpec, Slot
from controlplane.model.bounds import cut
from controlplane.model.config import FIRST_REVISION, KILL_SWITCH, ServiceConfig
from controlplane.site.view import SiteView
from controlplane.store import Keys

WHY_MAX = 120
"""Characters of a decoder's word on a record: it may quote it."""


@dataclass(frozen=True, slots=True)
class InForce:
    """What one instance is to run."""

    config: Configuration
    wanted: int
    """The revision that the store wants."""
    why: str = ""
    """Why `config` is not that one; empty: it is."""


@dataclass(frozen=True, slots=True)
class Kept:
    """On disk."""

    configs: Mapping[str, Configuration] = field(default_factory=dict)
    """By instance of this host."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Plain keys; None at the kill switch: it could never be read, and counts as set."""
    incarnation: int | None = None
    """Of the store that `flags` are of."""


def decide(
    instance: str, spec: ServiceSpec, last: Configuration | None, view: SiteView, *, spec_known: bool = True
) -> InForce:
    """What `instance` is to run, from the view and from what was in force before. `spec_known`: the store has
    its service's spec, and says so of the settings too.
    """
    keys = Keys(view.site)
    found = view.configs.get(spec.name, ServiceConfig())
    wanted = found.wanted_revision(instance)
    if found.current is None and found.rollout is None:
        # Of a service that was removed and comes back the history stands, and nothing of it is in force here.
        damaged = keys.config_current(spec.name) in view.undecodable
        if last is None or (spec_known and not found.revisions and not damaged):
            return InForce(of_spec(spec), wanted)
        if not spec_known:
            return InForce(last, last.revision)
        what = "does not decode" if damaged else "is not there"
        why = f"the record of its wanted revision {what}"
        return InForce(last, wanted if damaged else last.revision, f"{why}, revision {last.revision} stays")
    blind = found.rollout is None and keys.config_rollout(spec.name) in view.undecodable
    if blind and last is not None and last.revision != wanted and last.revision in found.revisions:
        return InForce(
            last, wanted, f"the record of its rollout does not decode, revision {last.revision} stays"
        )
    row = found.wanted(instance)
    if row is not None:
        return InForce(Configuration(row.revision, row.document), wanted)
    damage = view.undecodable.get(keys.config_revision(spec.name, wanted))
    why = f"the document of revision {wanted} "
    why += f"does not decode ({cut(damage, WHY_MAX)})" if damage else "is not in the store"
    if last is not None:
        return InForce(last, wanted, f"{why}, revision {last.revision} stays")
    return InForce(
        of_spec(spec), wanted, f"{why} and no earlier one is known here: it has what its spec says"
    )


def switch_set(flags: Mapping[str, Any]) -> bool:
    """What is not known to be off counts as set."""
    return flags.get(KILL_SWITCH, False) is not False


def flags_of(last: Kept, view: SiteView) -> tuple[dict[str, Any], bool]:
    """The plain keys in force, and whether the kill switch is one that this store does not know of."""
    keys = Keys(view.site)
    flags: dict[str, Any] = {key: record.value for key, record in view.plain.items()}
    for key, value in last.flags.items():
        if key not in flags and keys.plain_key(key) in view.undecodable:
            flags[key] = value
    if KILL_SWITCH in flags:
        return flags, False
    if keys.plain_key(KILL_SWITCH) in view.undecodable:
        flags[KILL_SWITCH] = None
        return flags, False
    other = last.incarnation is not None and view.incarnation != last.incarnation
    kept = other and switch_set(last.flags)
    if kept:
        flags[KILL_SWITCH] = last.flags[KILL_SWITCH]
    return flags, kept


class WantedConfig:
    """The configuration in force on one host, and its copy on its disk."""

    def __init__(
        self,
        path: Path,
        host: str,
        report: Callable[..., None],
        started_with: Callable[[str], Configuration | None] = lambda instance: None,
        *,
        expected: bool = False,
    ) -> None:
        """`started_with`: what the last process of an instance was given, where that is known. `expected`:
        this host has run services, so that a file that is not there was lost.
        """
        self.path, self.host, self._report, self._started_with = path, host, report, started_with
        self.trouble = ""
        """What was wrong with the file at the start, and what was done; empty: nothing."""
        self._kept = self._read(expected)
        self._seen = False
        """The store has answered."""
        self._other_store = False
        self._in_force: dict[str, InForce] = {}
        self._dirty = asyncio.Event()

    def __repr__(self) -> str:
        found = (f"{name} {each.config.revision}" for name, each in self._in_force.items())
        return f"<WantedConfig {self.host}: {', '.join(found) or 'none'}>"

    # --- what is in force -----------------------------------------------------------------------------------

    def take(self, view: SiteView | None, specs: Iterable[tuple[ServiceSpec, bool]]) -> None:
        """What is in force from now on, of the services of `specs`, each with whether the store has its spec;
        None: what the disk says.
        """
        kept, in_force = self._kept, {}
        for spec, known in specs:
            for slot in spec.slots():
                if slot.host != self.host:
                    continue
                last = kept.configs.get(slot.instance)
                if view is not None:
                    found = decide(slot.instance, spec, last, view, spec_known=known)
                else:
                    config = last or self._started_with(slot.instance) or of_spec(spec)
                    found = InForce(config, config.revision)
                in_force[slot.instance] = found
        self._in_force = in_force
        if view is None:
            return
        flags, self._other_store = flags_of(kept, view)
        incarnation = kept.incarnation if self._other_store else view.incarnation
        configs = {name: each.config for name, each in in_force.items()}
        self._seen = True
        if (now := Kept(configs, flags, incarnation)) != kept:
            self._kept = now
            self._dirty.set()
            self._tell_events(kept)

    def _tell_events(self, before: Kept) -> None:
        for name, config in self._kept.configs.items():
            known = before.configs.get(name)
            if known is not None and known.revision != config.revision:
                self._report("config.wanted", instance=name, revision=config.revision, before=known.revision)
        was_set, is_set = (switch_set(kept.flags) for kept in (before, self._kept))
        if was_set != is_set:
            self._report("kill_switch.set" if is_set else "kill_switch.cleared")

    def of(self, spec: ServiceSpec, slot: Slot) -> InForce:
        """Of one slot of this host, as taken last."""
        found = self._in_force.get(slot.instance)
        return found if found is not None else InForce(config := of_spec(spec), config.revision)

    def flags(self) -> Mapping[str, Any]:
        """The plain keys, as a daemon that starts is to know them."""
        return self._kept.flags if self._seen or not self.trouble else {KILL_SWITCH: None}

    def told_flags(self) -> Mapping[str, Any] | None:
        """The same for one that runs; None until the store has answered: what the agent before this one told
        it may be newer than the disk.
        """
        return self._kept.flags if self._seen else None

    # --- what is wrong --------------------------------------------------------------------------------------

    def sentence(self) -> str:
        """Which instances do not have what the store wants, and why; empty: all have."""
        return "; ".join(f"{name}: {each.why}" for name, each in sorted(self._in_force.items()) if each.why)

    def switch_trouble(self) -> str:
        """Why nobody set the kill switch and it counts as set all the same; empty: somebody did, or it does
        not.
        """
        undo = "`hftctl config set /kill_switch false --reason WHY` writes it again"
        if self.trouble and not self._seen:
            return (
                f"{self.host}: what its disk knew of the site's plain keys is damaged or lost, and the store "
                "has not answered yet: until it does the kill switch counts as set for every daemon that "
                "starts here (no new orders, no replaces; cancels pass): bring the store back "
                "(`hftctl doctor`)"
            )
        if self._kept.flags.get(KILL_SWITCH, False) is None:
            return (
                f"{self.host}: the store's record of the kill switch does not decode, and no earlier one is "
                f"known here: it counts as set (no new orders, no replaces; cancels pass): {undo}"
            )
        if self._other_store:
            return (
                f"{self.host}: the kill switch was set in the store before it lost its data, and this one "
                f"does not know it: it stays set (no new orders, no replaces; cancels pass): {undo}"
            )
        return ""

    # --- the disk -------------------------------------------------------------------------------------------

    def _read(self, expected: bool) -> Kept:
        """A file that does not decode is set aside."""
        try:
            return model.decode(Kept, self.path.read_bytes())
        except FileNotFoundError:
            if expected:
                self.trouble = f"{self.path}: not there, on a host that has run services"
                self.trouble += "; it comes from the store alone"
            return Kept()
        except (OSError, msgspec.DecodeError) as exc:
            self.trouble = f"{self.path}: expected the last good configuration: {exc}"
        with contextlib.suppress(OSError):
            self.trouble += f"; set aside as {files.set_aside(self.path).name}"
        self.trouble += "; it comes from the store alone"
        return Kept()

    async def keep(self) -> None:
        """Write what is in force to the disk after each change, until cancelled; beside the loop, which hands
        changes on to daemons.
        """
        while True:
            await self._dirty.wait()
            await asyncio.sleep(settings.CONFIG_KEEP_S)
            self._dirty.clear()
            await anyio.to_thread.run_sync(self.write, self._kept)

    def write(self, kept: Kept) -> None:
        content = msgspec.json.format(model.encode(kept)) + b"\n"
        with contextlib.suppress(OSError):
            # Wanted most when everything has been away: it survives a power cut.
            files.replace(self.path, content, files.Durability.POWER)


def rendered(path: Path) -> Configuration | None:
    """What HFT_CONFIG at `path` gave a process; None: there is none, or it is damaged."""
    try:
        found = model.decode(_Rendered, path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    # The revision that an earlier release wrote, which knows no flags, is its spec's.
    return Configuration(found.revision if found.flags is not None else FIRST_REVISION, found.settings)


class _Rendered(msgspec.Struct):
    revision: int
    settings: dict[str, Any]
    flags: dict[str, Any] | None = None
