"""The shared-memory words of one instance, from the keeper's side: the lease word and the fence file
written, the alive word read.

What it promises: the word's deadline only moves forward while it is armed (R20 would hold even without the
seqlock); a fence file is complete or absent; an alive word counts only when it is this process's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from controlplane.errors import InvalidInput
from controlplane.leadership.decide import Lead, Rank
from controlplane.model import Process
from hftd.shm import bell, fence_file, pages

ELECTABLE_BYTES_MAX = 1 << 20
"""A daemon's list of standbys; a longer file is not one."""


class Words:
    def __init__(self, lease: Path | None, alive: Path) -> None:
        self.lease_path = lease
        self.alive_path = alive
        self._lease: pages.LeasePage | None = None
        self._alive: pages.HeartbeatPage | None = None
        self._alive_inode = 0
        if lease is not None:
            self._lease = _lease_word(lease)

    def close(self) -> None:
        for each in (self._lease, self._alive):
            if each is not None:
                each.close()
        self._lease = self._alive = None

    # --- the lease word -------------------------------------------------------------------------------------

    def arm(self, lead: Lead, valid_until_ns: int) -> None:
        """Make `lead.process` leader until then; an earlier deadline than the word has for the same lead
        changes nothing.
        """
        assert self._lease is not None
        now = self._lease.read()
        same = (
            now.process == lead.process
            and (now.incarnation, now.epoch) == lead.rank
            and now.wanted is pages.Wanted.LEAD
        )
        if same and now.valid_until_ns >= valid_until_ns:
            return
        self._lease.write(
            pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.LEAD, valid_until_ns)
        )
        if not same:
            self._ring()

    def hand_over(self, lead: Lead) -> None:
        """R7: the closing is in the word itself, so that it survives the keeper; nothing new leaves from here
        on.
        """
        assert self._lease is not None
        self._lease.write(
            pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.HAND_OVER, 0)
        )
        self._ring()

    def stand_by(self, lead: Lead) -> None:
        assert self._lease is not None
        self._lease.write(
            pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.STANDBY, 0)
        )
        self._ring()

    def _ring(self) -> None:
        assert self.lease_path is not None
        bell.ring(self.lease_path)

    def lease(self) -> pages.LeaseWord:
        return pages.NOBODY if self._lease is None else self._lease.read()

    def armed_for(self, lead: Lead) -> bool:
        """The word makes exactly this process leader in exactly this epoch (its time may be over)."""
        now = self.lease()
        return (
            now.process == lead.process
            and (now.incarnation, now.epoch) == lead.rank
            and now.wanted is pages.Wanted.LEAD
        )

    def closed_rank(self, process: Process) -> Rank | None:
        """The epoch that the word, addressed to `process`, calls handed over."""
        now = self.lease()
        return (
            (now.incarnation, now.epoch)
            if now.process == process and now.wanted is pages.Wanted.HAND_OVER
            else None
        )

    def write_fences(self, targets: Mapping[str, fence_file.Target]) -> None:
        """Raises OSError."""
        assert self.lease_path is not None
        fence_file.write(self.lease_path, targets)

    # --- the heartbeat page ---------------------------------------------------------------------------------

    def alive(self, process: Process) -> pages.Alive | None:
        """What the daemon says of itself; None until exactly this process has written its word."""
        if self._alive is None and not self._open_alive():
            return None
        assert self._alive is not None
        try:
            now = self._alive.read()
        except InvalidInput:  # it died in its first write
            return None
        if (now.pid, now.start_time) == (process.pid, process.start_time):
            return now
        if self._alive_inode != _inode(self.alive_path):  # made anew since it was mapped
            self._open_alive()
        return None

    def _open_alive(self) -> bool:
        try:
            inode = _inode(self.alive_path)
            fresh = pages.HeartbeatPage(self.alive_path)
        except (OSError, InvalidInput):  # not there yet, or half made
            return False
        if self._alive is not None:
            self._alive.close()
        self._alive, self._alive_inode = fresh, inode
        return True

    def electable(self) -> tuple[Process, ...]:
        """The leading daemon's list of standbys within the lag.

        Raises:
            InvalidInput: the file is not such a list.
        """
        path = pages.electable_path(self.alive_path)
        try:
            with path.open("rb") as file:
                content = file.read(ELECTABLE_BYTES_MAX + 1)
            if len(content) > ELECTABLE_BYTES_MAX:
                raise InvalidInput(f"{path}: expected at most {ELECTABLE_BYTES_MAX} bytes")
            return tuple(msgspec.json.decode(content, type=list[Process]))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{path}: expected a list of processes: {exc}") from exc


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _lease_word(path: Path) -> pages.LeasePage:
    """Open the word; make it when there is none. A file that is not a lease page is replaced: what maps the
    old one never leads.
    """
    try:
        return pages.LeasePage(path, writable=True)
    except (FileNotFoundError, InvalidInput):
        pages.create(path, pages.LEASE_MAGIC)
        return pages.LeasePage(path, writable=True)
