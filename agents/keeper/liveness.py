"""One process watched: its death seen at once and for certain (pidfd), its heartbeat judged fresh or stale.

The pidfd becomes readable when the process has ended, before its parent has collected it. The identity is
checked after the pidfd is open: from then on the pid cannot come to mean another process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from controlplane.host import identity
from controlplane.model import Process

COUNTED_MAX_NS = 75_000_000
"""The most that one look adds to a heartbeat's age: three polls. A longer interval is one in which the keeper
itself did not run."""


class Heartbeat:
    """Age of a heartbeat, counted only while the keeper ran: after a stall of the whole machine nobody is
    called frozen.
    """

    def __init__(self, stale_ns: int) -> None:
        self._stale_ns = stale_ns
        self._last_ns = -1
        self._looked_ns = 0
        self._age_ns = 0

    def look(self, heartbeat_ns: int, now_ns: int) -> None:
        if heartbeat_ns != self._last_ns:
            self._last_ns, self._age_ns = heartbeat_ns, 0
        else:
            self._age_ns += min(now_ns - self._looked_ns, COUNTED_MAX_NS)
        self._looked_ns = now_ns

    def missed(self, now_ns: int) -> None:
        """There is no heartbeat to be believed: as if none had come since the last look."""
        self.look(self._last_ns, now_ns)

    @property
    def fresh(self) -> bool:
        """False also before the first look."""
        return self._last_ns >= 0 and self._age_ns < self._stale_ns


class Watched:
    def __init__(self, process: Process, on_death: Callable[[], None]) -> None:
        """Watch from now on; `on_death` is called once, from the running loop, also when the process is gone
        already. After `close` it is not called any more: another process may have the name by then.
        """
        self.process = process
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._fd: int | None = identity.open_pidfd(process)
        self.runs = self._fd is not None
        self._due: asyncio.Handle | None = None
        """The call for a process that was gone already."""
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._died)
        else:
            self._due = self._loop.call_soon(self._on_death)

    def kill(self) -> None:
        if self._fd is not None:
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            except ProcessLookupError:
                return  # died meanwhile; the pidfd says so

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _died(self) -> None:
        self.close()
        self.runs = False
        self._on_death()

    def __repr__(self) -> str:
        return f"Watched({self.process.instance} pid {self.process.pid}, {'runs' if self.runs else 'dead'})"
