"""May this process lead? The lease page read, the heartbeat page written.

The page IS the promotion: no message has to arrive. A daemon obeys it only when it is addressed to exactly
this process (R2), and sends nothing new past `valid_until`, whatever else is dead or frozen.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Phase, Process, Token
from hftd.shm import bell, fence_file, pages
from hftd.shm.pages import Wanted


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Leadership:
    """The two pages of one process. Without a lease page (singletons) it never leads, and no lease limits
    what it sends.
    """

    def __init__(self, process: Process, group: str, alive: Path | None, lease: Path | None) -> None:
        self._process = process
        self._group = group
        self._lease_path = lease
        self._alive_path = alive
        self._lease = pages.LeasePage(lease) if lease else None
        self.bell = bell.Bell(lease) if lease else None
        """Rings when the page has changed."""
        self._alive = pages.HeartbeatPage(alive, writable=True) if alive else None
        self._state = pages.Alive(process.pid, process.start_time, boot_ns(), Phase.STARTING, 0, 0, 0)
        self._write()

    @property
    def has_lease(self) -> bool:
        return self._lease is not None

    def lease(self) -> pages.LeaseWord:
        """What the page says now; one addressed to another process reads as addressed to no process."""
        if self._lease is None:
            return pages.NOBODY
        lease = self._lease.read()
        return lease if lease.process == self._process else pages.NOBODY

    def leads(self) -> bool:
        """May a new order leave now? One load, one clock read, one compare."""
        lease = self.lease()
        return lease.wanted is Wanted.LEAD and boot_ns() < lease.valid_until_ns

    def token(self) -> Token | None:
        """The token to send with, or None when the page does not make this process leader."""
        lease = self.lease()
        return Token(lease.incarnation, self._group, lease.epoch) if lease.wanted is Wanted.LEAD else None

    def fences(self) -> Mapping[str, fence_file.Target]:
        """Groups to fence or serve, as read by the keeper after its own take (R11). Empty when there is no
        file yet. Raises InvalidInput.
        """
        return fence_file.read(self._lease_path) if self._lease_path is not None else {}

    # --- what the keeper sees of us -------------------------------------------------------------------------

    @property
    def current_phase(self) -> Phase:
        return self._state.phase

    @property
    def epoch(self) -> int:
        return self._state.epoch

    def phase(self, phase: Phase, epoch: int = 0) -> None:
        self._state = dataclasses.replace(self._state, phase=phase, epoch=epoch)
        self._write()

    def replicated(self, sequence: int) -> None:
        self._state = dataclasses.replace(self._state, replication_seq=sequence)
        self._write()

    def electable(self, processes: Iterable[Process]) -> None:
        """Say which standbys are within the lag: first the list on disk, then the revision that makes the
        keeper read it.
        """
        if self._alive_path is None:
            return
        path = pages.electable_path(self._alive_path)
        content = json.dumps([dataclasses.asdict(process) for process in processes]).encode()
        files.replace(path, content, Durability.CRASH)  # on tmpfs
        self._state = dataclasses.replace(self._state, electable_revision=self._state.electable_revision + 1)
        self._write()

    def beat(self) -> None:
        if self._alive is not None:
            self._alive.beat(boot_ns())

    def _write(self) -> None:
        if self._alive is not None:
            self._state = dataclasses.replace(self._state, heartbeat_ns=boot_ns())
            self._alive.write(self._state)
