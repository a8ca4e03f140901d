"""Keeps the host's instances as the specs say: starts, watches, restarts with backoff, adopts, restarts what
has changed.

One task an instance, each a short loop: decide (states.py, pure), do, wait for a death or a change.
Cancelling `run` touches no daemon: they go on and the next supervisor adopts them. How a process is run and
recognised: runner.py. What its start needs beside the process (words, config): here and in program.py. Who
asks for what: daemon.py.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from agents import paths
from agents.supervisor import program as programs
from agents.supervisor import runner as runners
from agents.supervisor.states import Move, State, Step, after, decide
from controlplane.host import sched
from controlplane.model import Mode, Process, ServiceSpec, Slot
from controlplane.model.config import FIRST_REVISION
from controlplane.resilience import backoff
from hftd.shm import fence_file, pages

KILL_AFTER_GRACE_S = 2.0
"""Beyond the grace that the shim itself keeps: then the shim is not doing its work."""
HOLD_MAX_S = 30.0
"""A leader waits at most this long for its standbys before it is restarted for a changed spec."""
HOLD_LOOK_S = 0.25
WORDS_LOOK_S = 0.5
LAST_LINE_BYTES = 4096
STABLE_S = 20.0
"""Ready for this long, an instance is no part of a crash loop: twice what resets the backoff."""

Report = Callable[..., None]
"""report(kind, **fields): an event of the host."""


@dataclass(frozen=True)
class Desired:
    """What one slot is to run."""

    spec: ServiceSpec
    spec_revision: int
    config: programs.Configuration
    """In force: the wanted one, or the last good one where that cannot be had."""
    config_wanted: int = FIRST_REVISION
    config_trouble: str = ""
    """Why the wanted one cannot be had; empty: it is in force."""

    @functools.cached_property
    def spec_hash(self) -> str:
        return programs.spec_hash(self.spec, self.config.settings)


@dataclass(slots=True, eq=False)
class Instance:
    """One slot of this host: what is wanted of it and what is known of its process."""

    slot: Slot
    desired: Desired | None = None
    """None: an adopted process whose spec is gone, or not yet known."""
    state: State = State.STOPPED
    running: runners.Running | None = None
    death: asyncio.Task[runners.Exit | None] | None = None
    """Ends when `running` has; one for its whole life, as a pidfd has one reader."""
    restarts: int = 0
    """Starts after the first, whoever asked for them."""
    crashes: int = 0
    """Times that it ended, or could not be started, unasked."""
    reason: str = ""
    """Why it is not running."""
    ready_since_mono_s: float | None = None
    due_mono_s: float = 0.0
    """End of the backoff."""
    changed_mono_s: float | None = None
    """Since when what runs differs from the spec, or is lost."""
    lost: bool = False
    """Its pages are gone from the run folder: nobody new sees it, and it is restarted in its turn."""
    row: backoff.Restarts = field(default_factory=backoff.Restarts)
    short_lives: int = 0
    """Times in a row that it ended unasked, under the present spec, before it had been ready for STABLE_S."""
    last_death: str = ""
    """Why it ended then."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    started_before: bool = False

    def __repr__(self) -> str:
        pid = f" pid {self.running.process.pid}" if self.running else ""
        return f"<Instance {self.slot.instance} {self.state}{pid} restarts {self.restarts}>"

    @property
    def id(self) -> str:
        return self.slot.instance

    @property
    def process(self) -> Process | None:
        return self.running.process if self.running else None

    @property
    def same(self) -> bool:
        return (
            self.running is None
            or self.desired is None
            or (not self.lost and self.running.spec_hash == self.desired.spec_hash)
        )

    def move(self, what: Move) -> None:
        self.state = after(self.state, what)


class Supervisor:
    def __init__(
        self,
        folders: paths.Paths,
        runner: runners.Runner,
        *,
        report: Report,
        changed: Callable[[], None] = lambda: None,
        released: Callable[[Instance], bool] = lambda instance: True,
        reachable: Callable[[], bool] = lambda: True,
        environment: Mapping[str, str] | None = None,
        real_time: bool | None = None,
        command: Callable[[ServiceSpec], tuple[str, ...]] = programs.command,
        flags: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`changed` is called after every change of an instance's process or state; `released` may hold back
        a restart for a changed spec or lost pages; `reachable` says whether a daemon can come to this agent;
        `flags` are the site's plain keys, as a daemon that starts is to know them.
        """
        self._folders = folders
        self._runner = runner
        self._report = report
        self._changed = changed
        self._released = released
        self._reachable = reachable
        self._environment = os.environ if environment is None else environment
        self._real_time = sched.may_be_real_time() if real_time is None else real_time
        self._command = command
        self._flags = flags
        self._tasks: anyio.abc.TaskGroup | None = None
        self._known = False
        """The specs have been seen; until then nothing is started or stopped."""
        self._said: set[str] = set()
        self.instances: dict[str, Instance] = {}
        self.closing = False

    def __repr__(self) -> str:
        return (
            f"<Supervisor {self._folders.host}: "
            f"{', '.join(f'{i.id} {i.state}' for i in self.instances.values())}>"
        )

    # --- asked from outside ---------------------------------------------------------------------------------

    def adopt(self) -> list[Instance]:
        """Take over what an earlier agent left running; touches nothing. Call before `run`."""
        adopted = []
        for slot in self._runner.found():
            running = self._runner.adopt(slot.instance)
            if running is None:
                continue
            instance = self.instances[slot.instance] = Instance(
                slot, restarts=running.restarts, crashes=running.crashes, started_before=True
            )
            self._took(instance, running, Move.ADOPT)
            self._report("instance.adopted", instance=instance.id, pid=running.process.pid)
            adopted.append(instance)
        return adopted

    def want(self, desired: Mapping[Slot, Desired]) -> None:
        """What the site wants of each slot now; slots of other hosts are ignored."""
        if self.closing:
            return
        self._known = True
        wanted = {
            slot.instance: (slot, each) for slot, each in desired.items() if slot.host == self._folders.host
        }
        for name, instance in self.instances.items():
            self._set(instance, wanted[name][1] if name in wanted else None)
        for name, (slot, each) in wanted.items():
            if name not in self.instances:
                self.instances[name] = Instance(slot, each)
                self._begin(self.instances[name])

    def hello(self, who: Process) -> Instance | None:
        """A daemon has said hello; None when it is not the process that runs here under that name."""
        instance = self.instances.get(who.instance)
        if instance is None or instance.process != who:
            return None
        if instance.state is State.STARTING:
            instance.move(Move.HELLO)
            self._changed()
        return instance

    def ready(self, instance: Instance, ready: bool) -> None:
        """Being ready is what resets the backoff, and for long enough what ends a crash loop."""
        if not ready:
            since_mono_s = instance.ready_since_mono_s
            if since_mono_s is not None and time.monotonic() - since_mono_s >= STABLE_S:
                instance.short_lives = 0
            instance.ready_since_mono_s = None
        elif instance.ready_since_mono_s is None:
            instance.ready_since_mono_s = time.monotonic()

    async def stop_all(self, grace_s: float = programs.STOP_GRACE_S) -> None:
        """Stop everything in order (users before what they use), and start nothing again."""
        self.closing = True
        batches = stop_order(
            [instance.desired.spec for instance in self.instances.values() if instance.desired]
        )
        ordered = {name for batch in batches for name in batch}
        rest = {instance.slot.service for instance in self.instances.values()} - ordered
        for batch in [*([rest] if rest else []), *batches]:
            stopping = [instance for instance in self.instances.values() if instance.slot.service in batch]
            for instance in stopping:
                self._set(instance, None)
            with anyio.move_on_after(grace_s + KILL_AFTER_GRACE_S):
                while any(instance.id in self.instances for instance in stopping):  # noqa: ASYNC110
                    await anyio.sleep(0.01)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for instance in list(self.instances.values()):
                self._begin(instance)
            tasks.start_soon(self._look_at_words, name="words")
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                for instance in self.instances.values():
                    if instance.death is not None:
                        instance.death.cancel()

    # --- one instance ---------------------------------------------------------------------------------------

    def _set(self, instance: Instance, desired: Desired | None) -> None:
        before = instance.desired
        if (
            desired is not None
            and before is not None
            and (before.spec, before.config) != (desired.spec, desired.config)
        ):
            instance.due_mono_s = 0.0  # another program: its predecessor's crashes say nothing about it
            instance.row = backoff.Restarts()
            instance.short_lives = 0
        instance.desired = desired
        if instance.same:
            instance.changed_mono_s = None
        elif instance.changed_mono_s is None:
            instance.changed_mono_s = time.monotonic()
        instance.wake.set()

    def _begin(self, instance: Instance) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._drive, instance, name=f"instance {instance.id}")

    async def _drive(self, instance: Instance) -> None:
        """Until no spec wants the instance and it is stopped."""
        while True:
            instance.wake.clear()
            match self._decide(instance):
                case Step.FORGET:
                    del self.instances[instance.id]
                    self._changed()
                    return
                case Step.START:
                    await self._start(instance)
                case Step.STOP:
                    await self._stop(instance)
                case Step.WAIT:
                    await self._wait(instance)

    def _decide(self, instance: Instance) -> Step:
        if not self._known and not self.closing:
            return Step.WAIT
        held_s = time.monotonic() - (instance.changed_mono_s or time.monotonic())
        return decide(
            instance.state,
            wanted=instance.desired is not None,
            same=instance.same,
            released=held_s > HOLD_MAX_S or self._released(instance),
            due=time.monotonic() >= instance.due_mono_s,
        )

    async def _start(self, instance: Instance) -> None:
        desired = instance.desired
        assert desired is not None, "only what is wanted is started"
        program = programs.program(
            desired.spec,
            instance.slot,
            self._folders,
            desired.spec_revision,
            config=desired.config,
            flags=self._flags(),
            argv=self._command(desired.spec),
            environment=self._environment,
            real_time=self._real_time,
        )
        if instance.started_before:
            instance.restarts += 1
        instance.started_before = True
        instance.move(Move.START)
        self._changed()
        try:
            living = await self._runner.living(instance.id)
            if living is not None:
                instance.restarts, instance.crashes = living.restarts, living.crashes
                self._took(instance, living, None)
                self._report("instance.adopted", instance=instance.id, pid=living.process.pid)
                return
            self._make_words(instance.id, desired.spec.mode)
            running = await self._runner.start(program, instance.restarts, instance.crashes)
        except (runners.StartFailed, OSError) as exc:
            self._ended(instance, str(exc))
            return
        self._took(instance, running, None)
        self._report(
            "instance.started", instance=instance.id, pid=running.process.pid, restarts=instance.restarts
        )
        for words in (*program.left_out, *running.left_out):
            self.left_out(words)

    def left_out(self, words: str) -> None:
        """What a spec asks for and this host does not give; said once."""
        if words not in self._said:
            self._said.add(words)
            self._report("host.left_out", text=words)

    def _make_words(self, instance: str, mode: Mode) -> None:
        """New files for each process: a process that still maps the old ones can do no harm."""
        alive, lease = self._folders.alive(instance), self._folders.lease(instance)
        for stale in (pages.electable_path(alive), fence_file.path_of(lease), lease):
            stale.unlink(missing_ok=True)
        pages.create(alive, pages.ALIVE_MAGIC)
        if mode is Mode.ACTIVE_STANDBY:
            pages.create(lease, pages.LEASE_MAGIC)

    async def _look_at_words(self) -> None:
        """A daemon whose pages are gone goes on with those that it has mapped, and so does its keeper; nobody
        else ever sees it again. It is restarted as for a changed spec: standbys first, a leader when another
        may take over. An agent whose own socket went as well is started anew first.
        """
        while True:
            await anyio.sleep(WORDS_LOOK_S)
            if not self._reachable():
                continue
            for instance in self.instances.values():
                if instance.state is not State.RUNNING or instance.lost or instance.desired is None:
                    continue
                pages_of = [self._folders.alive(instance.id)]
                if instance.desired.spec.mode is Mode.ACTIVE_STANDBY:
                    pages_of.append(self._folders.lease(instance.id))
                if gone := [str(path) for path in pages_of if not path.exists()]:
                    instance.lost = True
                    if instance.changed_mono_s is None:
                        instance.changed_mono_s = time.monotonic()
                    self._report("instance.pages_lost", instance=instance.id, pages=gone)
                    instance.wake.set()

    def _took(self, instance: Instance, running: runners.Running, move: Move | None) -> None:
        instance.running, instance.lost = running, False
        instance.death = asyncio.ensure_future(running.death())
        instance.reason = ""
        instance.ready_since_mono_s = None
        if move is not None:
            instance.move(move)
        if not instance.same and instance.changed_mono_s is None:
            instance.changed_mono_s = time.monotonic()
        self._changed()

    async def _wait(self, instance: Instance) -> None:
        """Until the process dies, something is wanted otherwise, or the next look is due."""
        if instance.death is not None:
            wake = asyncio.ensure_future(instance.wake.wait())
            try:
                await asyncio.wait(
                    {instance.death, wake},
                    timeout=None if instance.same else HOLD_LOOK_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                wake.cancel()
            if instance.death.done():
                await self._died(instance, instance.death.result())
            return
        timeout_s = (
            max(0.0, instance.due_mono_s - time.monotonic()) if instance.state is State.BACKOFF else None
        )
        with anyio.move_on_after(timeout_s):
            await instance.wake.wait()

    async def _stop(self, instance: Instance) -> None:
        running, death = instance.running, instance.death
        assert running is not None and death is not None, "only what runs is stopped"
        why = (
            "its pages are gone from the run folder"
            if instance.lost
            else "its spec or its settings changed"
            if instance.desired is not None
            else "its host goes down"
            if self.closing
            else "no longer wanted"
        )
        instance.move(Move.STOP)
        self._report("instance.stopping", instance=instance.id, pid=running.process.pid, reason=why)
        self._changed()
        await anyio.lowlevel.checkpoint()  # the keeper hears it before the process ends
        running.stop()
        await asyncio.wait({death}, timeout=programs.STOP_GRACE_S + KILL_AFTER_GRACE_S)
        if not death.done():
            running.kill()
        await self._died(instance, await death)

    async def _died(self, instance: Instance, ended: runners.Exit | None) -> None:
        running = instance.running
        assert running is not None
        words = ended.words if ended else "killed together with its shim"
        if ended and ended.status and (line := last_line(self._folders.log(instance.id))):
            words += f": {line}"
        pid = running.process.pid
        instance.running = instance.death = None
        await running.close()
        self._ended(instance, words, pid)

    def _ended(self, instance: Instance, words: str, pid: int | None = None) -> None:
        asked = instance.state is State.STOPPING
        healthy_s = (
            time.monotonic() - instance.ready_since_mono_s if instance.ready_since_mono_s is not None else 0.0
        )
        instance.ready_since_mono_s = None
        instance.changed_mono_s = None
        instance.move(Move.EXIT)
        instance.reason = words
        delay_s = 0.0
        if not asked:
            instance.crashes += 1
            instance.row, delay_s = instance.row.died(healthy_s)
            instance.due_mono_s = time.monotonic() + delay_s
            instance.short_lives = instance.short_lives + 1 if healthy_s < STABLE_S else 0
            instance.last_death = words
        self._report(
            "instance.stopped" if asked else "instance.exited",
            instance=instance.id,
            pid=pid,
            reason=words,
            **({} if asked else {"restart_in_s": delay_s}),
        )
        self._changed()


def last_line(log: Path) -> str:
    """The last line that the daemon wrote, for the operator's first look."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_LINE_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def stop_order(specs: Sequence[ServiceSpec]) -> list[set[str]]:
    """Services in batches to stop one after the other: a service before all that it uses, and those with a
    leader last among equals.

    Services that use each other in a ring come last, together.
    """
    left = {spec.name: spec for spec in specs}
    batches: list[set[str]] = []
    while left:
        used = {name for spec in left.values() for name in spec.uses if name != spec.name}
        free = {name for name in left if name not in used} or set(left)
        led = {name for name in free if left[name].mode is Mode.ACTIVE_STANDBY}
        batches += [batch for batch in (free - led, led) if batch]
        for name in free:
            del left[name]
    return batches
