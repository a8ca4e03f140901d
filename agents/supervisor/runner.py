"""Runs programs under shims and finds again what an earlier agent has started.

`Runner` is what supervisor.py needs (a systemd runner is a later room beside this one); `ShimRunner` starts
one shim.py for each instance. A process is adopted only when boot id, pid and start time of shim AND daemon
match its state file: a pid alone may belong to another process by now. Nothing here ever signals a process
that it has not identified so. A daemon whose shim is dead is to be dead too; the kernel may have forgotten
that (shim.py), so one that lives on is ended before another is started: never beside itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import py_compile
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from agents import paths
from agents.supervisor import program as programs
from agents.supervisor import shim_search
from controlplane import model
from controlplane.errors import HftctlError
from controlplane.host import files, identity, locks
from controlplane.model import Process, Slot
from controlplane.model.config import FIRST_REVISION

START_TIMEOUT_S = 10.0
"""From fork to the shim's first byte; tens of milliseconds on an idle machine."""
LOCKED_OUT = b"0"
"""A shim's first byte, where another process has its instance's lock."""
LOG_BYTES_MAX = 8 << 20
LOG_FILES_MAX = 3
LAST_WORDS_S = 2.0
"""After the daemon's death the shim drains its pipe and writes how it ended."""


OUTLIVES_S = 0.5
"""After its shim's death a daemon gets its SIGKILL from the kernel, at once."""


class StartFailed(HftctlError):
    """The program could not be started at all; the message names it and why."""


class PidOnly(msgspec.Struct, frozen=True):
    pid: Annotated[int, msgspec.Meta(gt=0, le=identity.PID_MAX)]
    start_time: Annotated[int, msgspec.Meta(ge=0)]


class Exit(msgspec.Struct, frozen=True):
    status: int | None
    signal: int | None
    at_ns: int

    @property
    def words(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        return f"exit status {self.status}"


class ShimState(msgspec.Struct, frozen=True):
    """`<run>/<instance>.shim.json`, written by shim.py."""

    instance: str
    service: str
    host: str
    spec_hash: str
    config_revision: int
    """Of the settings that it was started with; in the file of an earlier release, of its spec."""
    restarts: int
    boot_id: str
    started_ns: int
    shim: PidOnly
    daemon: PidOnly
    left_out: list[str] = []
    stop_asked: bool = False
    log_lines_dropped: int = 0
    exit: Exit | None = None
    crashes: int = 0
    spec_revision: int | None = None
    """None: an earlier release wrote the file."""

    @property
    def revisions(self) -> tuple[int, int]:
        """Of its spec in the store, and of the settings that it was started with."""
        if self.spec_revision is None:
            return self.config_revision, FIRST_REVISION
        return self.spec_revision, self.config_revision


@dataclass(slots=True)
class Running:
    """One daemon under its shim, seen by pidfd."""

    process: Process
    shim: Process
    state_path: Path
    spec_hash: str
    spec_revision: int
    restarts: int
    """Of this slot before it, under any agent of this boot."""
    started_ns: int
    """UNIX ns."""
    left_out: tuple[str, ...]
    pidfd: int
    """Of the daemon; readable when it is dead."""
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    """The shim, when it is this agent's own child and has to be reaped."""
    crashes: int = 0
    """Of this slot before it: how often it ended, or could not be started, unasked."""
    config_revision: int = FIRST_REVISION
    """Of the settings that it was started with."""
    report: Callable[..., None] = field(default=lambda kind, **fields: None, repr=False)

    async def death(self) -> Exit | None:
        """Wait until the daemon is dead, then say how; None when its shim was killed with it. A daemon that
        outlives its shim is killed.
        """
        await self._end()
        deadline_mono_s = time.monotonic() + LAST_WORDS_S
        while True:
            # Asked before the state is read: the shim writes how its daemon ended, and then ends itself.
            last_look = not identity.runs(self.shim) or time.monotonic() > deadline_mono_s
            state = read_state(self.state_path)
            if state is not None and state.exit is not None and state.daemon.pid == self.process.pid:
                return state.exit
            if last_look:
                return None
            await asyncio.sleep(0.005)

    async def _end(self) -> None:
        try:
            shim_pidfd = identity.open_pidfd(self.shim)
        except OSError:
            await readable(self.pidfd)  # no descriptor left: then it is seen at the next agent's start
            return
        try:
            if shim_pidfd is not None:
                await readable(self.pidfd, shim_pidfd)
        finally:
            if shim_pidfd is not None:
                os.close(shim_pidfd)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OUTLIVES_S):
                await readable(self.pidfd)
            return
        await end_orphan(self.process, self.pidfd, self.report)
        await readable(self.pidfd)

    def stop(self) -> None:
        """Ask the shim to stop its daemon within the grace of its plan; it does so even if this agent dies
        now.
        """
        if identity.runs(self.shim):
            os.kill(self.shim.pid, signal.SIGTERM)
        elif identity.runs(self.process):
            os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL by pidfd: for a daemon whose shim does not do its work."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Release the pidfd and reap the shim (it is gone within its drain time)."""
        os.close(self.pidfd)
        child = self.child
        if child is not None:
            await asyncio.to_thread(wait_for, child)


class Runner(Protocol):
    async def start(self, program: programs.Program, restarts: int, crashes: int = 0) -> Running:
        """Raises StartFailed."""

    def adopt(self, instance: str) -> Running | None:
        """What an earlier agent left running under this name, or None."""

    def found(self) -> list[Slot]:
        """Slots of this host that an earlier agent of this boot started a process for; whether it runs,
        `adopt` says.
        """

    async def living(self, instance: str) -> Running | None:
        """Asked before each start: what runs under this name all the same, by its lock; None: nothing does (a
        daemon that had outlived its shim is ended first). Raises StartFailed: what cannot be taken over.
        """

    def last_exit(self, instance: str) -> Exit | None:
        """How the last process of this name ended, when it did while no agent was looking."""


def wait_for(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(timeout=LAST_WORDS_S)
    except subprocess.TimeoutExpired:
        child.kill()  # our own unreaped child: the pid cannot be another's
        child.wait()


async def readable(*fds: int) -> None:
    """One of them."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    for fd in fds:
        loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        for fd in fds:
            loop.remove_reader(fd)


async def end_orphan(daemon: Process, pidfd: int, report: Callable[..., None]) -> bool:
    """End a daemon that has outlived its shim; nobody looks after it. False when it does not end."""
    for number, wait_s in ((signal.SIGTERM, programs.STOP_GRACE_S), (signal.SIGKILL, LAST_WORDS_S)):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await readable(pidfd)
                report("instance.orphan_ended", instance=daemon.instance, pid=daemon.pid)
                return True
    return False


def read_state(path: Path) -> ShimState | None:
    """None when there is none or it is not readable as one (an old layout, a torn disk): what runs is then
    found by shim_search.py.
    """
    try:
        return model.decode(ShimState, path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


class ShimRunner:
    def __init__(
        self,
        folders: paths.Paths,
        *,
        log_bytes_max: int = LOG_BYTES_MAX,
        report: Callable[..., None] = lambda kind, **fields: None,
    ) -> None:
        self._folders = folders
        self._report = report
        self._log_bytes_max = log_bytes_max
        self._script = folders.run_dir / shim_search.SCRIPT
        self._make_script()

    def _make_script(self) -> None:
        """Compiled once: a shim that compiles its own source stays 1 MB larger for life."""
        py_compile.compile(str(Path(__file__).with_name("shim.py")), cfile=str(self._script), doraise=True)

    async def start(self, program: programs.Program, restarts: int, crashes: int = 0) -> Running:
        instance = program.slot.instance
        folders = self._folders
        try:
            for folder in (
                folders.log(instance).parent,
                folders.lock(instance).parent,
                folders.data(instance),
                folders.journal(instance),
            ):
                folder.mkdir(parents=True, exist_ok=True)
            if not self._script.exists():
                self._make_script()
            programs.write_config(program)
            ready, ready_shim = os.pipe()
        except OSError as exc:
            raise StartFailed(f"{instance}: cannot prepare its folders: {exc}") from exc
        try:
            child = subprocess.Popen(  # noqa: ASYNC220  vfork and exec: a millisecond
                self._arguments(program, restarts, crashes, ready_shim),
                env=dict(program.env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(ready_shim,),
                start_new_session=True,
                cwd="/",
            )
        except OSError as exc:
            os.close(ready)
            raise StartFailed(f"{instance}: cannot run {program.argv[0]}: {exc}") from exc
        finally:
            os.close(ready_shim)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await readable(ready)
            told = os.read(ready, 1)
        except BaseException as exc:
            child.kill()
            child.wait()
            if isinstance(exc, TimeoutError):
                raise StartFailed(f"{instance}: its shim said nothing for {START_TIMEOUT_S} s") from exc
            raise
        finally:
            os.close(ready)
        if told == LOCKED_OUT:
            await asyncio.to_thread(wait_for, child)
            raise StartFailed(f"{instance}: {self._held(instance)}")
        state = read_state(folders.shim_state(instance)) if told else None
        if state is None or state.shim.pid != child.pid:
            child.kill()
            child.wait()
            raise StartFailed(f"{instance}: its shim ended before it had started {program.argv[0]}")
        running = self._running(instance, state, child)
        if running is None:  # dead already: no pidfd can be had, but the shim has the status
            await asyncio.to_thread(wait_for, child)
            ended = self.last_exit(instance)
            raise StartFailed(f"{instance}: ended at once: {ended.words if ended else 'how is not known'}")
        return running

    async def living(self, instance: str) -> Running | None:
        lock = self._folders.lock(instance)
        deadline_mono_s = time.monotonic() + LAST_WORDS_S
        while locks.held(lock):
            self._rebuild()
            if (running := self.adopt(instance)) is not None:
                return running
            if time.monotonic() > deadline_mono_s:
                await self._end_orphan(instance)
                return None
            await asyncio.sleep(0.05)
        return None

    async def _end_orphan(self, instance: str) -> None:
        """A daemon that has outlived its shim: nobody looks after it, and nothing may be started beside it.

        Raises:
            StartFailed: whoever has the lock is not to be known, or does not end.
        """
        daemon = locks.held_by(self._folders.lock(instance))
        pidfd = identity.open_pidfd(daemon) if daemon is not None else None
        if daemon is None or pidfd is None:
            raise StartFailed(f"{instance}: {self._held(instance)}")
        try:
            ended = await end_orphan(daemon, pidfd, self._report)
        finally:
            os.close(pidfd)
        if not ended:
            raise StartFailed(f"{instance}: {self._held(instance)}")

    def _held(self, instance: str) -> str:
        lock = self._folders.lock(instance)
        pid = locks.flocked_by(lock)
        daemon = locks.held_by(lock)
        who = f"pid {daemon.pid if daemon else pid}" if daemon or pid else "another process"
        return f"{who} has its lock ({lock}) and runs as it; nothing is started beside it"

    def adopt(self, instance: str) -> Running | None:
        state = read_state(self._folders.shim_state(instance))
        if (
            state is None
            or state.instance != instance
            or state.boot_id != identity.boot_id()
            or state.exit is not None
        ):
            return None
        if identity.start_time(state.shim.pid) != state.shim.start_time:
            return None  # the daemon died with its shim, or `living` ends it
        return self._running(instance, state, None)

    def found(self) -> list[Slot]:
        self._rebuild()
        states = [read_state(path) for path in sorted(self._folders.run_dir.glob("*.shim.json"))]
        mine = [
            state
            for state in states
            if state is not None and state.host == self._folders.host and state.boot_id == identity.boot_id()
        ]
        return [Slot(state.instance, state.service, state.host) for state in mine]

    def _rebuild(self) -> None:
        """Write state files that are damaged or gone again, of the shims that run without a good one."""
        for found in shim_search.running(self._folders):
            path = self._folders.shim_state(found["instance"])
            if read_state(path) is not None:
                continue
            text = f"{path}: not the state of a shim"
            with contextlib.suppress(FileNotFoundError):
                text += f"; set aside as {files.set_aside(path).name}"
            files.replace(path, msgspec.json.encode(found), files.Durability.CRASH)
            pid = found["daemon"]["pid"]
            self._report("state.damaged", text=f"{text}; rebuilt from the processes that run (pid {pid})")

    def last_exit(self, instance: str) -> Exit | None:
        state = read_state(self._folders.shim_state(instance))
        return state.exit if state is not None and state.boot_id == identity.boot_id() else None

    def _arguments(self, program: programs.Program, restarts: int, crashes: int, ready_fd: int) -> list[str]:
        instance = program.slot.instance
        plan = {
            "instance": instance,
            "service": program.slot.service,
            "host": program.slot.host,
            "restarts": restarts,
            "crashes": crashes,
            "spec_hash": program.spec_hash,
            "spec_revision": program.spec_revision,
            "config_revision": program.config_revision,
            "state": self._folders.shim_state(instance),
            "lock": self._folders.lock(instance),
            "log": self._folders.log(instance),
            "log_bytes": self._log_bytes_max,
            "log_files": LOG_FILES_MAX,
            "ready_fd": ready_fd,
            "grace_s": program.grace_s,
            "cpus": ",".join(str(cpu) for cpu in program.cpus),
        }
        return [
            program.argv[0],
            "-I",
            "-S",
            str(self._script),
            *(f"{key}={value}" for key, value in plan.items()),
            "--",
            *program.argv,
        ]

    def _running(
        self, instance: str, state: ShimState, child: subprocess.Popen[bytes] | None
    ) -> Running | None:
        daemon = Process(instance, state.boot_id, state.daemon.pid, state.daemon.start_time)
        pidfd = identity.open_pidfd(daemon)
        if pidfd is None:
            return None
        spec_revision, config_revision = state.revisions
        return Running(
            process=daemon,
            shim=Process(instance, state.boot_id, state.shim.pid, state.shim.start_time),
            state_path=self._folders.shim_state(instance),
            spec_hash=state.spec_hash,
            spec_revision=spec_revision,
            config_revision=config_revision,
            restarts=state.restarts,
            crashes=state.crashes,
            started_ns=state.started_ns,
            left_out=tuple(state.left_out),
            pidfd=pidfd,
            child=child,
            report=self._report,
        )
