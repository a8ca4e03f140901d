"""The audit log's files: lines appended, never rewritten; a new file when one is full; the head synced beside
them.

    audit/<n>.jsonl    engine/audit_chain.py's lines, n from 1
    audit.head         {"seq", "hash"} of a record that is on the disk, replaced atomically, after the lines
                       it speaks of are synced

What `append` has returned from survives kill -9. At a start the chain goes on where the log ends: a line that
was being written is cut; if the log ends before its head, or before the head that was signed last, that is
recorded in the chain itself (AUDIT_TAIL_LOST), so that a new head does not write over the evidence. So is a
log that holds another record in the place of either (AUDIT_REWRITTEN). After a sync that failed nothing is
taken, and no head speaks of anything, until what it may have lost was written again (sync_tail.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd.engine import audit_chain
from hftd.engine.audit_chain import ChainRecord, Head
from hftd.storage import audit_verify
from hftd.storage.sync_tail import SyncTail

SENDERS_MAX = 10_000
"""Epochs whose last audit_seq is remembered; an older one does not send any more."""


class AuditLog:
    def __init__(
        self, folder: Path, head_path: Path, *, file_bytes_max: int, signed: Head | None = None
    ) -> None:
        """Find the end of the log, and compare it with its head and with the head that was signed last.

        Raises:
            InvalidInput: the last whole line is not a record, so nothing can be chained to it; or the head's
            file is not a head.
            OSError: the folder cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._head_path, self.file_bytes_max = folder, head_path, file_bytes_max
        self.head = audit_chain.START
        self.torn_bytes = 0
        self.expected: Head | None = None
        """The head that the log did not reach when it was opened."""
        self.rewritten: Head | None = None
        """The head in whose place the log held another record, or none, when it was opened."""
        self._last_of: dict[tuple[int, str, int], int] = {}
        known = audit_verify.read_head(head_path)
        remembered = sorted((head for head in (known, signed) if head is not None), key=lambda head: head.seq)
        self._hashes: dict[int, str] = {head.seq: "" for head in remembered}
        """Of the records in the places of the remembered ones, as found."""
        self._known_seq = known.seq if known is not None else 0
        self._known_end = 0
        """Of the last file, the bytes up to the record that its head remembers: those are on the disk."""
        self.number, size = self._find_end()
        """The file that is written."""
        self._fd = self._open(self.number)
        self._tail = SyncTail(self._fd, size, synced=self._known_end)
        self._named = False
        """The name of the file that is written is on the disk."""
        for head in remembered:
            if head.seq > self.head.seq:
                self.expected = head
            elif head.seq and (self._hashes[head.seq] or self._look_back(head.seq)) != head.hash:
                self.rewritten = head
        self._synced = None if self.expected or self.rewritten else known

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.jsonl"

    def _find_end(self) -> tuple[int, int]:
        paths = audit_verify.files(self._folder)
        # The two last files name the epochs that may still be sent again.
        for path in paths[-2:]:
            size = self._read(path, last=path == paths[-1])
        return (int(paths[-1].stem), size) if paths else (1, 0)

    def _read(self, path: Path, *, last: bool) -> int:
        """Bytes of its whole lines."""
        size, lines = 0, 0
        self._known_end = 0
        record: ChainRecord | None = None
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    if last:
                        self.torn_bytes = len(line)
                        os.truncate(path, size)
                    break
                size, lines = size + len(line), lines + 1
                record = audit_chain.parse(line)
                if record is not None:
                    self.head = record.head
                    if record.seq in self._hashes:
                        self._hashes[record.seq] = record.hash
                        if record.seq == self._known_seq:
                            self._known_end = size
                    self._remember(record.sender, record.audit_seq)
        if lines and record is None:
            raise InvalidInput(
                f"{path}:{lines}: the last line is not an audit record, so the chain cannot go on from it; "
                "`hftctl audit verify` says more"
            )
        return size

    def _look_back(self, seq: int) -> str:
        """The hash of that record in the files that a start does not read; "" when it is not there."""
        for path in reversed(audit_verify.files(self._folder)[:-2]):
            with path.open("rb") as file:
                first = audit_chain.parse(file.readline())
                if first is None or first.seq > seq:
                    continue
                file.seek(0)
                found = (audit_chain.parse(line) for line in file)
                return next((each.hash for each in found if each is not None and each.seq == seq), "")
        return ""

    def _open(self, number: int) -> int:
        return os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _remember(self, sender: tuple[int, str, int], audit_seq: int) -> None:
        if not audit_seq:
            return
        self._last_of[sender] = max(self._last_of.pop(sender, 0), audit_seq)
        if len(self._last_of) > SENDERS_MAX:
            del self._last_of[next(iter(self._last_of))]

    def last_of(self, sender: tuple[int, str, int]) -> int:
        """The sender's last audit_seq that is kept; 0 for none."""
        return self._last_of.get(sender, 0)

    def last_of_group(self, group: str) -> int:
        """The last audit_seq of the group's newest epoch that is kept; 0 for none. Later epochs count on from
        above the earlier ones.
        """
        senders = [sender for sender in self._last_of if sender[1] == group]
        return self._last_of[max(senders)] if senders else 0

    def append(
        self,
        *,
        timestamp: int,
        action: str,
        user: str,
        details: dict[str, str | int],
        sender: tuple[int, str, int] = (0, "", 0),
        audit_seq: int = 0,
    ) -> ChainRecord:
        """Write one record. The caller has dropped what was kept before (`last_of`).

        Raises:
            OSError: not written (disk full, or a sync has failed); nothing of it stays, and it may be tried
            again.
        """
        if self._tail.size >= self.file_bytes_max:
            self._roll()
        record = audit_chain.append(
            self.head,
            timestamp=timestamp,
            action=action,
            user=user,
            sender=sender,
            audit_seq=audit_seq,
            details=details,
        )
        self._tail.append(audit_chain.line(record))
        self.head = record.head
        self._remember(sender, audit_seq)
        return record

    def _roll(self) -> None:
        self.sync()
        fd = self._open(self.number + 1)
        os.close(self._fd)
        self.number, self._fd, self._named = self.number + 1, fd, False
        self._tail = SyncTail(fd, 0, synced=0)

    def sync(self) -> None:
        """Put the log on the disk, then the head that speaks of it. Raises OSError."""
        if self._tail.dirty or not self._named:
            self._tail.sync()
            if not self._named:
                files.sync_folder(self._folder)
                self._named = True
        if self._synced == self.head or self.expected is not None or self.rewritten is not None:
            return
        files.replace(self._head_path, audit_verify.format_head(self.head), Durability.POWER)
        self._synced = self.head

    @property
    def synced(self) -> Head | None:
        """The head that the disk has; None while a loss is not yet in the chain."""
        return self._synced

    def record_loss(self, timestamp: int, user: str) -> None:
        """Put into the chain that the log ended before a head, or holds another record in its place. Until
        then `sync` leaves the old head in place.
        """
        if self.expected is not None:
            details: dict[str, str | int] = {
                "found_seq": self.head.seq,
                "head_seq": self.expected.seq,
                "head_hash": self.expected.hash,
            }
            self.append(timestamp=timestamp, action=audit_verify.TAIL_LOST, user=user, details=details)
            self.expected = None
        if self.rewritten is not None:
            details = {
                "found_hash": self._hashes[self.rewritten.seq],
                "head_seq": self.rewritten.seq,
                "head_hash": self.rewritten.hash,
            }
            self.append(timestamp=timestamp, action=audit_verify.REWRITTEN, user=user, details=details)
            self.rewritten = None

    def close(self) -> None:
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1
