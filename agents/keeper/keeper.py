"""The keeper of one host without a process around it: constructible in a test, two of them in one event loop.

    keeper = Keeper(store, keys, host, settings, clock, seen_tokens)
    async with asyncio.TaskGroup() as tasks: tasks.create_task(keeper.run()); ...; await keeper.stop()

`apply` takes the agent's table; `run` watches the store, looks at the heartbeat pages, pings the peers and
keeps registrations. What the watches show is shown.py; what each member of a group does with it, member.py;
the process around all this is daemon.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.keeper import kept_process, liveness, peers, ping_key, protocol, settings, shown, words
from agents.keeper import member as members
from agents.keeper.seen_tokens import SeenTokens
from controlplane import model, registry
from controlplane.clock import Clock
from controlplane.errors import HftctlError, InvalidInput, InvalidSettings
from controlplane.host import log
from controlplane.leadership import budget
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.store import Entry, Keys, Snapshot, Store

STOP_LOOK_S = 0.005
"""Between two looks whether everything is released, on stop."""


class _Host(msgspec.Struct):
    """What of a HostRecord concerns a keeper."""

    keeper: str = ""


class Keeper:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        host: str,
        settings: settings.Settings,
        clock: Clock,
        seen_tokens: SeenTokens,
        tell: Callable[[protocol.FromKeeper], None] = lambda message: None,
        ping_key: ping_key.PingKey | None = None,
    ) -> None:
        """`tell` gets what the agent should hear (protocol.py lists the messages). Without `ping_key` the
        keeper neither pings nor answers.
        """
        self.store = store
        self.keys = keys
        self.host = host
        self.settings = settings
        self.clock = clock
        self.seen_tokens = seen_tokens
        self.tell = tell
        self.lines_undecodable: Callable[[], int] = lambda: 0
        """Of the line to the agent; its owner says."""
        self._pages_undecodable = 0
        """Looks at heartbeat pages that held no heartbeat."""
        self.stopping = False
        self._host_leaves = False
        self.instances: dict[str, kept_process.KeptProcess] = {}
        self.members: dict[str, members.Member] = {}
        self.shown = shown.Shown()
        self.peers = peers.Peers(keys.site, host, clock, self._fit, self._asked)
        self.ping_key = ping_key
        self.registry: registry.Registry = registry.of(
            store,
            keys,
            clock,
            ttl_s=settings.registration_ttl_s,
            keep_s=settings.registration_keep_s,
            check_s=settings.check_s,
            report=self._registry_says,
        )
        self._announced: set[Process] = set()
        """Those whose endpoints the store has had from here."""
        self._registered: dict[str, protocol.WantedProcess] = {}
        """What the registry was last told to keep, by instance."""
        self._tasks: asyncio.TaskGroup | None = None
        self._ended = False
        self._acted = asyncio.Event()
        """A transaction has ended: what it began is looked at now."""
        self._to_save = asyncio.Event()
        """The keeper's disk lacks a token that was seen."""
        self._early: list[tuple[Coroutine[Any, Any, None], str]] = []
        self._wanted: set[str] = set()
        self._slots: dict[str, tuple[int, frozenset[str]]] = {}

    # --- what the members have in common (member.KeeperOf) --------------------------------------------------

    @property
    def leaving(self) -> bool:
        """This keeper stops, or its agent takes the host down."""
        return self.stopping or self._host_leaves

    def successors(self) -> frozenset[Process]:
        return self.peers.passing(self.clock.boot_ns(), int(self.settings.ping_fresh_s * 1e9))

    def slots(self, service: str) -> frozenset[str]:
        """Instances that the spec has; empty when there is none, or none that can be read."""
        entry = self.shown.specs.entries.get(self.keys.spec(service)) if self.shown.specs else None
        if entry is None:
            return frozenset()
        revision, found = self._slots.get(service, (0, frozenset()))
        if revision != entry.revision:
            try:
                spec = records.decode_spec(entry.value)
                slots = spec.slots() if isinstance(spec, ServiceSpec) else []  # a removed service has none
                found = frozenset(slot.instance for slot in slots)
            except msgspec.DecodeError as exc:
                log.warning("spec.undecodable", key=entry.key, reason=str(exc))
                found = frozenset()
            self._slots[service] = (entry.revision, found)
        return found

    def announced(self, process: Process) -> bool:
        """Its endpoints are, or were, in the store by an acknowledged write: a take of its own is fenced by
        them.
        """
        if process not in self._announced:
            held = self.registry.held().get(process.instance)
            if held is None or held.process != process:
                return False
            self._announced = {known for known in self._announced if known.instance != process.instance} | {
                process
            }
        return True

    def _registry_says(self, kind: str, fields: Mapping[str, object]) -> None:
        registry.to_log(kind, fields)
        if kind == "registered":
            self._acted.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._ended:
            work.close()
        elif self._tasks is None:
            self._early.append((work, name))
        else:
            self._tasks.create_task(self._act(work), name=name)

    async def _act(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        self._acted.set()

    # --- the agent's table ----------------------------------------------------------------------------------

    def apply(self, table: protocol.Table) -> None:
        """Keep exactly these processes. A member that leads, or is handing over, is kept until that is done.

        Raises:
            InvalidInput: an unknown profile, or a word that cannot be made; the table before stays.
        """
        try:
            chosen = budget.profile(table.profile)
        except InvalidSettings as exc:
            raise InvalidInput(f"table: {exc}") from exc
        wanted = {entry.process.instance: entry for entry in table.instances}
        opened = self._open_pages(wanted.values())
        if chosen != self.settings.budget:
            self.settings = dataclasses.replace(self.settings, budget=chosen)
            self.store.try_within(chosen.try_s)
        self._host_leaves = table.leaving
        for name, entry in wanted.items():
            self._keep(entry, opened.get(name))
        for name in [name for name in self.instances if name not in wanted]:
            self._let_go(name)
        self._register(wanted)
        for member in list(self.members.values()):
            member.step()
            member.follow_fences()

    def _open_pages(self, wanted: Iterable[protocol.WantedProcess]) -> dict[str, words.Words]:
        """The pages of the processes that are new here, all or none. Raises InvalidInput."""
        opened: dict[str, words.Words] = {}
        for entry in wanted:
            name = entry.process.instance
            if self._is_kept(entry):
                continue
            leased = entry.mode is Mode.ACTIVE_STANDBY and entry.lease
            try:
                opened[name] = words.Words(Path(leased) if leased else None, Path(entry.alive))
            except OSError as exc:
                for each in opened.values():
                    each.close()
                raise InvalidInput(f"table: {name}: its words cannot be opened: {exc}") from exc
        return opened

    def _is_kept(self, entry: protocol.WantedProcess) -> bool:
        kept = self.instances.get(entry.process.instance)
        pages = (entry.process, entry.lease, entry.alive)
        return kept is not None and (kept.entry.process, kept.entry.lease, kept.entry.alive) == pages

    def _keep(self, entry: protocol.WantedProcess, found: words.Words | None) -> None:
        """`found`: the pages of a process that is new here."""
        name = entry.process.instance
        old = self.instances.get(name)
        if found is None:
            assert old is not None, "only what is kept already was not opened"
            old.entry = entry
            if not old.watched.runs:  # a new agent may not have heard it
                self.tell(protocol.FromKeeper(died=protocol.Died(entry.process)))
            return
        if old is not None:
            old.watched.close()
            old.words.close()
        heartbeat = liveness.Heartbeat(int(self.settings.heartbeat_stale_s * 1e9))
        instance = kept_process.KeptProcess(
            entry, liveness.Watched(entry.process, lambda: self._died(entry)), found, heartbeat
        )
        instance.look(self.clock.boot_ns())
        self.instances[name] = instance
        if entry.mode is not Mode.ACTIVE_STANDBY:
            return
        member = self.members.get(name)
        if member is not None:
            member.replace(instance)
        else:
            self.members[name] = member = members.Member(self, instance)
            if self.shown.complete:
                member.observe()

    def _let_go(self, name: str) -> None:
        member = self.members.get(name)
        if member is not None and not member.idle:
            self.instances[name].entry = dataclasses.replace(self.instances[name].entry, ending=True)
            return  # looked at again when it has stepped (see _sweep)
        self.members.pop(name, None)
        instance = self.instances.pop(name)
        instance.watched.close()
        instance.words.close()

    def _register(self, wanted: dict[str, protocol.WantedProcess]) -> None:
        """Tell the registry which instances serve. One that does not is taken out even when this keeper never
        registered it: the keeper before may have.
        """
        before, self._registered = self._registered, {}
        for name, entry in wanted.items():
            kept = self.instances.get(name)
            if entry.registration is None or kept is None or not kept.watched.runs:
                self.registry.deregister(entry.service, name)
                continue
            self._registered[name] = entry
            known = before.get(name)
            if known is not None and known.process == entry.process:
                self.registry.update(entry.registration)
            else:
                self.registry.register(entry.registration)
        for name in before.keys() - wanted.keys():
            self.registry.deregister(before[name].service, name)
        self._wanted = set(wanted)

    def _died(self, entry: protocol.WantedProcess) -> None:
        """Called by the event loop the moment a pidfd becomes readable: the hand-over first, then everything
        else.
        """
        name = entry.process.instance
        member = self.members.get(name)
        if member is not None:
            member.step()
        self.registry.deregister(entry.service, name, entry.process)
        self._registered.pop(name, None)
        log.info("instance.died", instance=name, pid=entry.process.pid)
        self.tell(protocol.FromKeeper(died=protocol.Died(entry.process)))

    def _fit(self) -> Iterator[Process]:
        """Processes that peers may name as successors."""
        if self.leaving:
            return
        for instance in self.instances.values():
            entry = instance.entry
            fit = instance.watched.runs and instance.heartbeat.fresh and entry.registration is not None
            if fit and self.announced(entry.process):
                yield entry.process

    def _asked(self) -> dict[str, list[Process]]:
        """By host, the processes of other hosts that a member here could name, or has to wait for (R14)."""
        found: dict[str, list[Process]] = {}
        for member in self.members.values():
            for process in member.group.candidates if member.group else ():
                host = model.host_of(process.instance, member.service)
                if host != self.host:
                    found.setdefault(host, []).append(process)
        return found

    # --- running --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bind the socket on which peers are answered; `peers.address` is known then."""
        await self.peers.open(self.settings.address)

    async def run(self) -> None:
        """Until cancelled, or until something fails that nobody here expects (then the agent starts a new
        keeper; R18).
        """
        if not self.peers.bound:
            await self.open()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for work, name in self._early:
                    self._tasks.create_task(self._act(work), name=name)
                self._early.clear()
                for noun, prefix in shown.prefixes(self.keys).items():
                    self._tasks.create_task(self._follow(noun, prefix), name=f"watch of {noun}")
                self._tasks.create_task(self._look(), name="alive words")
                self._tasks.create_task(self._save(), name="seen tokens")
                self._tasks.create_task(self._ask_peers(), name="pings")
                self._tasks.create_task(self._follow_key(), name="key of the pings")
                self._tasks.create_task(self.registry.run(), name="registrations")
                self._tasks.create_task(self._report(), name="report")
        finally:
            self._ended, self._tasks = True, None
            self.peers.close()
            for instance in self.instances.values():
                instance.watched.close()
                instance.words.close()
            self.instances.clear()
            self.members.clear()

    async def stop(self) -> None:
        """Give back what is led here (close, zero, holder none) and take the registrations back; at most
        `stop_s`.
        """
        self.stopping = True
        try:
            async with asyncio.timeout(self.settings.stop_s):
                for member in list(self.members.values()):
                    member.step()
                while any(not member.idle for member in self.members.values()):  # noqa: ASYNC110 - a state of several, that nobody announces
                    await asyncio.sleep(STOP_LOOK_S)
                await self.registry.close()
        except TimeoutError:
            log.warning("keeper.left_leases", reason="no answer from the store", until="they run out")
        except HftctlError as exc:
            log.warning("keeper.left_registrations", until="their lease ends", reason=str(exc))

    async def _follow(self, noun: str, prefix: str) -> None:
        async with contextlib.aclosing(self.store.watch(prefix)) as watch:
            async for snapshot in watch:
                self.take(noun, prefix, snapshot)

    def take(self, noun: str, prefix: str, snapshot: Snapshot) -> None:
        """The next snapshot of one of the watches. Costs what changed: only members whose group, or a group
        that they fence, is among it look at it. A record that does not decode is logged, or said by its
        member, and leaves all others as they are.
        """
        was_complete = self.shown.complete
        setattr(self.shown, noun, snapshot)
        if self.shown.complete and not was_complete:
            self._first_look()
        changed = snapshot.entries.keys() if snapshot.changed is None else snapshot.changed
        if noun == "hosts":
            self._meet(snapshot.entries[key] for key in changed if key in snapshot.entries)
        elif not was_complete or noun in ("pause", "incarnation"):
            self._observe(None)
        elif noun != "specs":  # those are looked at in each step
            self._observe(shown.services_in(prefix, changed), groups=noun == "groups")

    def _first_look(self) -> None:
        """Before any member looks: after a rebuild of the keeper's disk, which groups it must not lead."""
        assert self.shown.groups is not None and self.shown.incarnation is not None
        keys, before = self.keys, self.seen_tokens.trouble
        entry = self.shown.incarnation.entries.get(keys.incarnation)
        incarnation = int(entry.value) if entry is not None and entry.value.isdigit() else None
        led = {key.split("/")[-2] for key in self.shown.groups.entries if key.endswith("/epoch")}
        self.seen_tokens.first_look(incarnation, led)
        if self.seen_tokens.trouble != before:
            log.warning("seen_tokens.not_known", reason=self.seen_tokens.trouble)
            self.tell(self.hello())

    def _observe(self, services: set[str] | None, *, groups: bool = True) -> None:
        """Let the members look whose group, or a group that they fence, is among these (None: all)."""
        if not self.shown.complete:
            return
        for member in list(self.members.values()):
            if groups and (services is None or member.service in services):
                member.observe()
            if services is None or not services.isdisjoint(member.instance.entry.fences):
                member.follow_fences()

    def _meet(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            try:
                found = model.decode(_Host, entry.value)
            except msgspec.DecodeError as exc:
                log.warning("host_record.undecodable", key=entry.key, reason=str(exc))
                continue
            self.peers.meet({entry.key.removeprefix(self.keys.hosts): found.keeper})

    async def _look(self) -> None:
        """Nothing here waits for a disk, or for anything else but the next look."""
        beat_ns = 0
        while True:
            self._acted.clear()
            now_ns = self.clock.boot_ns()
            for instance in self.instances.values():
                self._pages_undecodable += not instance.look(now_ns)
            for member in list(self.members.values()):
                member.step()
            self._sweep()
            if self.seen_tokens.dirty:
                self._to_save.set()
            if now_ns - beat_ns >= self.settings.beat_every_s * 1e9:
                beat_ns = now_ns
                self.tell(protocol.BEAT)
            soon = any(member.in_transition for member in self.members.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.transition_poll_s if soon else self.settings.poll_s):
                    await self._acted.wait()

    def _sweep(self) -> None:
        for name in [name for name in self.instances if name not in self._wanted]:
            self._let_go(name)

    async def _save(self) -> None:
        """Beside everything else: a disk that takes seconds to sync holds up no renewal."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            try:
                await asyncio.to_thread(self.seen_tokens.save, self.seen_tokens.content())
            except OSError as exc:
                log.warning(
                    "seen_tokens.not_saved",
                    path=str(self.seen_tokens.path),
                    reason=exc.strerror,
                    consequence="a store that goes back would not be noticed after a restart",
                )

    async def _ask_peers(self) -> None:
        while True:
            self.peers.ask()
            await asyncio.sleep(self.settings.ping_every_s)

    async def _follow_key(self) -> None:
        """The agent may put another secret there, or heal the file. A key that was once good stays in force
        until there is another; what is wrong with the file is said when it changes.
        """
        if self.ping_key is None:
            return
        while True:
            changed = await asyncio.to_thread(self.ping_key.read)
            self.peers.key = self.ping_key.key
            if changed:
                log.info("pings.key", in_force=self.peers.key is not None, trouble=self.ping_key.trouble)
                self.tell(self.hello())
            await asyncio.sleep(self.settings.key_look_s)

    def hello(self) -> protocol.FromKeeper:
        """What an agent hears first, and when something in it changes."""
        trouble = self.ping_key.trouble if self.ping_key else ""
        return protocol.FromKeeper(
            hello=protocol.Hello(self.peers.address, trouble, self.seen_tokens.trouble, self.registry.trouble)
        )

    async def _report(self) -> None:
        trouble = self.registry.trouble
        while True:
            self.tell(self.report())
            if trouble != self.registry.trouble:
                trouble = self.registry.trouble
                self.tell(self.hello())
            await asyncio.sleep(self.settings.report_every_s)

    def report(self) -> protocol.FromKeeper:
        """What is led, as this keeper sees it."""
        now_ns = self.clock.boot_ns()
        groups = {
            member.service: protocol.LedGroup(
                epoch=member.group.epoch_number,
                leader=member.group.holder.instance if member.group.holder else None,
                lease_remaining_ms=member.lease_remaining_ms(now_ns),
                text=member.sentence,
            )
            for member in self.members.values()
            if member.group is not None
        }
        undecodable = self.peers.undecodable + self.lines_undecodable() + self._pages_undecodable
        return protocol.FromKeeper(
            groups=groups,
            registered=list(self.registry.held()),
            undecodable=undecodable,
            unauthenticated=dict(self.peers.unauthenticated),
        )
