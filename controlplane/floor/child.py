"""One process under hft-floord: started, or adopted from an earlier hft-floord; restarted with backoff when
it dies.

A child is watched by pidfd, so that one that was adopted (not our child any more) is seen to die as well.
What hft-floord itself lacks (room, descriptors, memory) is said once and tried again, and takes no child for
dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controlplane.errors import InUse
from controlplane.floor.child_log import ChildLog
from controlplane.host import identity, sched, standing
from controlplane.model import Process
from controlplane.resilience import backoff

HELD_LOOK_S = 0.1
DEATHS_SAID = 3
"""In a row, each of them; from then on it is one that stands."""


class Child:
    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        said: Callable[[str], None],
        changed: Callable[[], None],
        troubles: standing.Troubles | None = None,
        folder: Path = Path("/"),
        real_time_priority: int | None = None,
        held_by: Callable[[], str] = lambda: "",
        socket: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.environment = dict(environment)
        self.folder = folder
        """Its working directory."""
        self.held_by = held_by
        """Another process that has what this one needs to itself; "" when there is none. Until then it is not
        started."""
        self.real_time_priority = real_time_priority
        """Under SCHED_FIFO, where that is permitted; None: as hft-floord."""
        self.socket = socket
        """Where others reach it."""
        self.process: Process | None = None
        self._reached: Process | None = None
        """Of which the socket was seen."""
        self.starts = 0
        self.stopping = False
        self._said = said
        self._troubles = troubles or standing.Troubles(said)
        self._kept_log = ChildLog(log, name, self._troubles)
        self._changed = changed
        """Called when `process` is another: floor.json is written again before anything waits."""
        self._popen: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.process.pid if self.process else 'not running'}>"

    def adopt(self, known: Process | None) -> bool:
        """Take over what an earlier hft-floord started, if it still runs."""
        if known is None or not identity.runs(known):
            return False
        self.process = self._reached = known
        self._said(f"{self.name}: adopted pid {known.pid}")
        return True

    @property
    def cut_off(self) -> bool:
        """It runs, and the socket that it had is gone: nobody new can reach it."""
        if self.socket is None or self.process is None:
            return False
        if self.socket.exists():
            self._reached = self.process
            return False
        return self._reached == self.process and identity.runs(self.process)

    def start(self) -> None:
        """Raises OSError: its binary or folder is gone, or there is no descriptor or memory for it."""
        log = self._kept_log.open()
        try:
            # A session of its own: a Ctrl-C at a terminal, or the end of hft-floord, is not its end.
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
                cwd=self.folder,
            )
        finally:
            if log != subprocess.DEVNULL:
                os.close(log)
        if self.real_time_priority is not None:
            sched.make_real_time(self._popen.pid, self.real_time_priority)
        self.starts += 1
        self.process = identity.identify(self.name, self._popen.pid)
        self._changed()

    def look_after_log(self) -> None:
        """Of a child that runs and does not do so itself. Blocking."""
        if self.process is not None:
            self._kept_log.look(self.process)

    async def start_when_free(self, within_s: float = math.inf) -> None:
        """Raises InUse: another process goes on holding what it needs."""
        end_mono_s, said = time.monotonic() + within_s, ""
        while other := self.held_by():
            if time.monotonic() > end_mono_s:
                raise InUse(
                    f"{self.name}: its data is served by another process, {other}; end that one first"
                )
            if other != said:
                self._said(
                    f"{self.name}: its data is served by {other}; it is started when that one has ended"
                )
                said = other
            await asyncio.sleep(HELD_LOOK_S)
        self.start()

    async def supervise(self) -> None:
        """Until cancelled or `stopping`: wait for its death, say how it ended, start it again. Whatever
        stands in the way of that is said and tried again.
        """
        restarts, dies = backoff.Restarts(), f"{self.name} dies again and again"
        while not self._let_go():
            if self.process is None:
                try:
                    await self.start_when_free()
                except Exception as exc:  # its binary or its folder is gone, no memory: the others go on
                    restarts, delay_s = restarts.died(0)
                    self._troubles.stands(self.name, f"cannot be started ({exc}); tried again")
                    await asyncio.sleep(max(delay_s, HELD_LOOK_S))
                    continue
            self._troubles.over(self.name)
            began_mono_s = time.monotonic()
            await self._death()
            if self._let_go():
                return
            lived_s = time.monotonic() - began_mono_s
            restarts, delay_s = restarts.died(lived_s)
            again = f"started again {f'in {delay_s:g} s' if delay_s else 'at once'}"
            if restarts.count <= DEATHS_SAID:
                self._troubles.forget(dies)
                self._said(f"{self.name}: {self._ending()}; {again}")
            else:
                self._troubles.stands(dies, f"{self._ending()}; {again}")
            self.process = None
            await asyncio.sleep(delay_s)

    def _let_go(self) -> bool:
        return self.stopping

    async def _death(self) -> None:
        known = self.process
        fd = None
        while known is not None and fd is None and identity.runs(known):
            try:
                fd = identity.open_pidfd(known)
            except OSError as exc:
                self._troubles.stands("pidfd", f"cannot be had ({exc}); deaths are noticed a little later")
                await asyncio.sleep(HELD_LOOK_S)
        if fd is None:
            return
        self._troubles.over("pidfd")
        loop = asyncio.get_running_loop()
        dead = asyncio.Event()
        loop.add_reader(fd, dead.set)
        try:
            await dead.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def _ending(self) -> str:
        pid = self.process.pid if self.process else "?"
        status = None
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._popen.wait(timeout=1)  # dead already: this only reaps it
            self._popen = None
        if status is None:
            return f"pid {pid} ended"
        return (
            f"pid {pid} killed by signal {-status}" if status < 0 else f"pid {pid} ended with status {status}"
        )
