"""The shared-memory words of one instance, from the keeper's side: the lease word and the fence file
written, the alive word read.

What it promises: the word's deadline only moves forward while it is armed (R20 would hold even without the
seqlock); a fence file is complete or absent; an alive word counts only when it is this process's own. A page
that a daemon has cut or filled with rubbish raises nothing here: a heartbeat page of no use is named in
`damage`, a lease page is made anew, and what mapped the old one never leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from agents.keeper import pings
from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import log
from controlplane.leadership.group_view import Lead, Rank
from controlplane.model import Process
from hftd.shm import bell, fence_file, pages

ELECTABLE_BYTES_MAX = 1 << 20
"""A daemon's list of standbys; a longer file is not one."""

ELECTABLE_MAX = 64
"""Standbys of one group; far more than any has."""


class Words:
    def __init__(self, lease: Path | None, alive: Path) -> None:
        self.lease_path = lease
        self.alive_path = alive
        self._lease: pages.LeasePage | None = None
        self._alive: pages.HeartbeatPage | None = None
        self._alive_inode = 0
        self.damage = ""
        """Why the heartbeat page was not believed at the last look; empty: it was, or there is none yet."""
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
        now = self.lease()
        same = (
            now.process == lead.process
            and (now.incarnation, now.epoch) == lead.rank
            and now.wanted is pages.Wanted.LEAD
        )
        if same and now.valid_until_ns >= valid_until_ns:
            return
        self._write(
            pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.LEAD, valid_until_ns)
        )
        if not same:
            self._ring()

    def hand_over(self, lead: Lead) -> None:
        """R7: the closing is in the word itself, so that it survives the keeper; nothing new leaves from here
        on.
        """
        self._write(pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.HAND_OVER, 0))
        self._ring()

    def stand_by(self, lead: Lead) -> None:
        self._write(pages.LeaseWord(lead.process, lead.incarnation, lead.epoch, pages.Wanted.STANDBY, 0))
        self._ring()

    def _write(self, word: pages.LeaseWord) -> None:
        assert self._lease is not None and self.lease_path is not None
        if self._lease.cut:
            try:
                fresh = _lease_word(self.lease_path)
            except OSError as exc:  # tried again at the next renewal; nothing leads by a page that is cut
                log.warning("lease.not_written", path=str(self.lease_path), reason=str(exc))
                return
            self._lease.close()
            self._lease = fresh
        self._lease.write(word)

    def _ring(self) -> None:
        assert self.lease_path is not None
        bell.ring(self.lease_path)

    def lease(self) -> pages.LeaseWord:
        return pages.NOBODY if self._lease is None or self._lease.cut else self._lease.read()

    def armed_for(self, lead: Lead) -> bool:
        """The word makes exactly this process leader in exactly this epoch (its time may be over)."""
        now = self.lease()
        return (
            now.process == lead.process
            and (now.incarnation, now.epoch) == lead.rank
            and now.wanted is pages.Wanted.LEAD
        )

    def armed_rank(self, process: Process) -> Rank | None:
        """The epoch in which the word tells `process` to lead (its time may be over)."""
        now = self.lease()
        return (
            (now.incarnation, now.epoch)
            if now.process == process and now.wanted is pages.Wanted.LEAD
            else None
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

    def alive(self, process: Process, now_boot_ns: int) -> pages.Alive | None:
        """What the daemon says of itself; None until exactly this process has written its word, and while
        that is not to be believed (`damage` says why).
        """
        self.damage = ""
        if self._alive is None and not self._open_alive():
            return None
        assert self._alive is not None
        try:
            now = self._alive.believed(now_boot_ns)
        except InvalidInput as exc:
            self.damage = str(exc)
        else:
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
            found = tuple(model.decode(list[Process], content))
        except (OSError, msgspec.DecodeError) as exc:
            raise InvalidInput(f"{path}: expected a list of processes: {exc}") from exc
        if len(found) > ELECTABLE_MAX or any(pings.named(process) is None for process in found):
            raise InvalidInput(f"{path}: expected at most {ELECTABLE_MAX} processes as a host can have them")
        return found


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
