"""An append-only journal in segments: records of (epoch, sequence, payload) with a checksum, written at once
and synced by a thread of its own.

`append` returns after write(): the record survives kill -9 of this process. The thread runs fdatasync behind
it: what is not yet synced when the power goes is `last_seq - synced_seq`, bounded by `unsynced_max` (its
owner looks at `behind` before it takes new work, and shows a gauge). A full disk is `JournalFull`: nothing of
the record stays in the file, everything before it does, and the next append that fits succeeds.

Sequences rise by one within an epoch; at a new epoch the writer may leave a hole (engine/orders/replica.py
says why). A torn tail, left by a power cut, is cut when the journal is opened; damage in an earlier segment
is an error, because what follows it was acknowledged. The files: segments.py; the thread: sync_thread.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files, locks
from hftd.storage import segments
from hftd.storage.segments import MAGIC, Segment, SegmentRecord
from hftd.storage.segments import JournalFull as JournalFull
from hftd.storage.sync_thread import SyncThread


class Journal:
    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 16 << 20,
        unsynced_max: int = 10_000,
        recent_max: int = 4_096,
    ) -> None:
        """Open or begin the journal in `folder`, and recover it.

        Args:
            segment_bytes: a segment is closed when it is larger than this.
            unsynced_max: from this many records that are written and not synced, `behind` is true.
            recent_max: records kept in memory, so that a follower or a resend reads no file.

        Raises:
            InUse: another process has it open.
            InvalidInput: damaged before its end.
        """
        self.folder, self._segment_bytes, self._unsynced_max = folder, segment_bytes, unsynced_max
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = locks.take(folder / "journal.lock", folder.name, "another process has this journal open")
        self._ends: list[tuple[int, int]] = []
        self._segments: list[Segment] = []
        self._recent: deque[SegmentRecord] = deque(maxlen=recent_max)
        self._fd = -1
        self._recover()
        self._sync = SyncThread(lambda: self._fd, self.last_seq)

    # --- what it holds --------------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        return self._ends[-1][1] if self._ends else 0

    @property
    def last_epoch(self) -> int:
        return self._ends[-1][0] if self._ends else 0

    @property
    def oldest_seq(self) -> int:
        """Of the first record that is still here; 0 when there is none."""
        return self._segments[0].first if self._segments else 0

    @property
    def synced_seq(self) -> int:
        """Every record up to here is on the disk itself."""
        return self._sync.synced_seq

    @property
    def unsynced(self) -> int:
        """Records written and not yet synced (a hole at a new epoch counts as none once it is synced)."""
        return self._sync.waiting

    @property
    def behind(self) -> bool:
        """The disk is slower than the work: take nothing new until it has caught up."""
        return self._sync.waiting >= self._unsynced_max

    @property
    def sync_error(self) -> str:
        """Why the last sync failed; empty when it did not."""
        return self._sync.error

    def ends(self) -> list[tuple[int, int]]:
        """[(epoch, its last sequence)] in the order of the file."""
        return list(self._ends)

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[SegmentRecord]:
        """Records with a sequence above `after`, at most `limit`, from memory where they are recent."""
        recent = self._recent
        if recent and after >= recent[0].sequence - 1:
            found: Iterator[SegmentRecord] = (record for record in _newest(recent, after))
        else:
            found = self._read_files(after)
        for count, record in enumerate(found):
            if count == limit:
                return
            yield record

    def _read_files(self, after: int) -> Iterator[SegmentRecord]:
        at = max(0, bisect_right([segment.first for segment in self._segments], after) - 1)
        for segment in self._segments[at:]:
            with segment.path.open("rb") as file:
                offset = segment.offset(after)
                file.seek(offset)
                content = file.read(segment.size - offset)
            for record, _ in segments.records(content, 0):
                if record.sequence > after:
                    yield record

    def __repr__(self) -> str:
        return (
            f"<Journal {self.folder}: to {self.last_seq} of epoch {self.last_epoch}, {self.unsynced} "
            f"unsynced, {len(self._segments)} segments>"
        )

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, epoch: int, payload: bytes, sequence: int | None = None) -> int:
        """Write one record and return its sequence: the next one, or the given one, which must be above the
        last.

        Raises:
            JournalFull: no room; or the last sync failed, and another one has to succeed first (`recovered`).
        """
        last = self.last_seq
        sequence = last + 1 if sequence is None else sequence
        if sequence <= last:
            raise InvalidInput(f"{self.folder}: sequence {sequence} cannot follow {last}")
        if self._sync.error:
            raise JournalFull(f"{self.folder}: the last sync failed ({self._sync.error})")
        frame = segments.frame(epoch, sequence, payload)
        if not self._segments or self._segments[-1].size + len(frame) > self._segment_bytes:
            self._begin_segment(sequence)
        segment = self._segments[-1]
        self._write(frame, segment.size)
        segment.add(sequence, len(frame))
        self._remember(SegmentRecord(epoch, sequence, payload))
        self._sync.written(sequence)
        return sequence

    def sync_soon(self) -> None:
        """Let the thread sync what has been appended: called when the input has been read and what it caused
        has been sent.

        Waking a thread costs its waker more than 100 µs when that one takes the interpreter at once; an order
        must not wait for it. A writer that never calls this is synced within UNASKED_S.
        """
        self._sync.wake()

    def recovered(self) -> bool:
        """True when there is room again: something was written, synced and taken back. Asked about once a
        second while it was not.
        """
        probe = self.folder / "room.probe"
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(probe.unlink, missing_ok=True)
                fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, fd)
                # As much as a few hundred orders: room for one record would be full again at the next.
                if os.write(fd, bytes(65_536)) != 65_536:
                    return False
                os.fsync(fd)
            if self._sync.error:
                with self._sync.paused():
                    self._rewrite_last_segment()
        except OSError:
            return False
        self._sync.forgive()
        return True

    def _rewrite_last_segment(self) -> None:
        """After a failed sync the kernel calls the lost pages clean, and a second sync proves nothing: write
        what they held anew.
        """
        segment = self._segments[-1]
        fresh = segment.path.with_suffix(".fresh")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, os.pread(self._fd, segment.size, 0)) != segment.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
            fresh.rename(segment.path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        files.sync_folder(self.folder)

    def _write(self, frame: bytes, offset: int) -> None:
        """All of it or nothing: what a full disk took of a record is cut off again."""
        try:
            written = os.pwrite(self._fd, frame, offset)
            if written == len(frame):
                return
            reason = os.strerror(errno.ENOSPC)
        except OSError as exc:
            reason = exc.strerror or str(exc)
        with contextlib.suppress(
            OSError
        ):  # a torn frame fails its checksum and is cut at the next opening all the same
            os.ftruncate(self._fd, offset)
        raise JournalFull(
            f"{self.folder}: a record of {len(frame)} bytes was not written: {reason}", retry_after_s=1.0
        )

    def _begin_segment(self, first: int) -> None:
        """The finished segment is synced here and now: if a power cut could tear it while its successor
        survived, a hole would be in the middle.
        """
        path = self.folder / f"{first:020d}.journal"
        with self._sync.paused():
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    if self._fd >= 0:
                        os.fdatasync(self._fd)
                    if os.write(fd, MAGIC) != len(MAGIC):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    files.sync_folder(self.folder)
                except OSError:
                    os.close(fd)
                    path.unlink(missing_ok=True)
                    raise
            except OSError as exc:
                raise JournalFull(
                    f"{path}: the next segment was not begun: {exc.strerror or exc}", retry_after_s=1.0
                ) from exc
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = fd
        self._segments.append(Segment(path, first))

    def _remember(self, record: SegmentRecord) -> None:
        if self._ends and self._ends[-1][0] == record.epoch:
            self._ends[-1] = (record.epoch, record.sequence)
        else:
            self._ends.append((record.epoch, record.sequence))
        self._recent.append(record)

    # --- shortening -----------------------------------------------------------------------------------------

    def set_aside(self, after: int) -> int:
        """Move the records with a sequence above `after` to a side file, synced before they are cut here;
        returns how many.

        Raises:
            JournalFull: the side file did not fit; nothing was cut.
        """
        if after >= self.last_seq:
            return 0
        tail = list(self._read_files(after))
        with self._sync.paused():
            segments.write_side(self._side_path(tail[0]), tail)
            while self._segments and self._segments[-1].first > after:
                segment = self._segments.pop()
                os.close(self._fd)
                segment.path.unlink()
                self._fd = (
                    os.open(self._segments[-1].path, os.O_RDWR | os.O_CLOEXEC) if self._segments else -1
                )
            if self._segments:
                self._cut_last_segment(after)
            files.sync_folder(self.folder)
            self._recover_ends()
            self._sync.begin(self.last_seq)
        return len(tail)

    def _side_path(self, first: SegmentRecord) -> Path:
        n = 0
        while (path := self.folder / f"aside-{first.epoch}-{first.sequence}-{n}.journal").exists():
            n += 1
        return path

    def _cut_last_segment(self, after: int) -> None:
        segment = self._segments[-1]
        content = os.pread(self._fd, segment.size, 0)
        fresh = Segment(segment.path, segment.first)
        for record, end in segments.records(content, len(MAGIC)):
            if record.sequence > after:
                break
            fresh.add(record.sequence, end - fresh.size)
        os.ftruncate(self._fd, fresh.size)
        os.fsync(self._fd)
        self._segments[-1] = fresh

    def prune(self, segments_max: int, needed_after: int | None = None) -> int:
        """Delete the oldest segments beyond `segments_max`, but none that holds a record above
        `needed_after`; returns how many.
        """
        deleted = 0
        while len(self._segments) > max(1, segments_max):
            if needed_after is not None and self._segments[1].first - 1 > needed_after:
                break
            self._segments.pop(0).path.unlink()
            deleted += 1
        return deleted

    # --- opening and closing --------------------------------------------------------------------------------

    def _recover(self) -> None:
        paths = sorted(self.folder.glob("[0-9]*.journal"))
        for path in paths:
            content = segments.read_whole(path, last=path == paths[-1])
            if content is None:
                continue
            segment = Segment(path, int(path.stem))
            for record, end in segments.records(content, len(MAGIC)):
                if record.sequence <= self.last_seq:
                    raise InvalidInput(f"{path}: sequence {record.sequence} after {self.last_seq}")
                segment.add(record.sequence, end - segment.size)
                self._remember(record)
            if segment.size < len(content) and path != paths[-1]:
                raise InvalidInput(f"{path}: damaged at byte {segment.size}, and segments follow it")
            self._segments.append(segment)
        if self._segments:
            last = self._segments[-1]
            self._fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._fd, last.size)
            os.fdatasync(self._fd)

    def _recover_ends(self) -> None:
        self._ends.clear()
        self._recent.clear()
        for record in self._read_files(0):
            self._remember(record)

    def close(self) -> None:
        """Sync what is written, end the thread, let the folder go."""
        self._sync.stop()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._lock.close()


def _newest(recent: deque[SegmentRecord], after: int) -> list[SegmentRecord]:
    found: list[SegmentRecord] = []
    for record in reversed(recent):
        if record.sequence <= after:
            break
        found.append(record)
    found.reverse()
    return found
