"""An append-only journal in segments: records of (epoch, sequence, payload) with a checksum, written at once
and synced by a thread of its own.

`append` returns after write(): the record survives kill -9 of this process. The thread runs fdatasync behind
it: what is not yet synced when the power goes is `last_seq - synced_seq`, bounded by `unsynced_max` (its
owner looks at `behind` before it takes new work, and shows a gauge). A full disk is `JournalFull`: nothing of
the record stays in the file, everything before it does, and the next append that fits succeeds.

Nothing here but the opening and the closing waits for the disk: the owner's loop may hold a lease. What has
to wait is an errand of the thread (sync_thread.py), and its owner asks from time to time whether it is done.

A finished segment is on the disk before any record of its successor counts as synced, and a successor that
survives alone is known by its name. In this order, and what a power cut in between leaves:

1. the successor is begun under a provisional name, which says behind which record it belongs, and written at
   once. Cut: the old segment may lack its end while the successor has survived. The name tells; the successor
   is put aside at the next opening (recovery.py). None of what is lost was ever synced.
2. the thread syncs the old segment, then the successor. Cut: the successor's name fits; it is read.
3. it gives the successor its final name. Cut: either name is found, and both are right.
4. it syncs the folder, and only now the successor's records count. Cut: nothing is lost up to `synced_seq`.

Sequences rise by one within an epoch; at a new epoch the writer may leave a hole (engine/orders/replica.py
says why). The files: segments.py; their opening, and what is torn or damaged: recovery.py, damage.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from controlplane.errors import InvalidInput
from controlplane.host import files, identity, locks
from hftd.storage import damage, recovery, segments
from hftd.storage.segments import MAGIC, Segment
from hftd.storage.segments import JournalFull as JournalFull
from hftd.storage.segments import SegmentRecord as SegmentRecord
from hftd.storage.sync_thread import OpenFile, SyncThread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SetAside(Generic[T]):
    """A tail that was set aside."""

    records: list[SegmentRecord]
    path: Path
    """Where they are now: `*.unaudited`, until `Journal.keep_aside`."""
    rebuilt: T
    """What `rebuild` has made of the records that are left."""
    contents: recovery.Contents


class Journal:
    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 16 << 20,
        unsynced_max: int = 10_000,
        recent_max: int = 4_096,
        replicated: bool = False,
    ) -> None:
        """Open or begin the journal in `folder`, and recover it. Waits for the disk.

        Args:
            segment_bytes: a segment is closed when it is larger than this.
            unsynced_max: from this many records that are written and not synced, `behind` is true.
            recent_max: records kept in memory, so that a follower or a resend reads no file.
            replicated: another member has the same records: what is behind damage is quarantined, and
                `damage` stands until `healed`.

        Raises:
            InUse: another process has it open.
            Damaged: whole records are behind damage; only where it is not `replicated`.
            InvalidInput: it is no journal.
        """
        self.folder, self.segment_bytes, self.unsynced_max = folder, segment_bytes, unsynced_max
        self._recent_max = recent_max
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            files.sync_folder(folder.parent)
        last = locks.last_holder(folder / "journal.lock")
        restarted = last is None or last.boot_id != identity.boot_id()
        self._lock = locks.take(folder / "journal.lock", folder.name, "another process has this journal open")
        try:
            found = recovery.recovered(folder, recent_max, replicated=replicated, restarted=restarted)
        except BaseException:
            self._lock.close()
            raise
        self.torn_bytes = found.torn_bytes
        """Cut off when it was opened: a record that was being written when the power went."""
        self.damage = found.damage
        """What this journal lacks; None when it lacks nothing."""
        self.lost = found.lost
        """What a power cut left of records that had never been synced, and that were put aside when it was
        opened because it took those before them; None for nothing."""
        self._contents = found
        self._sync = SyncThread(found.current, found.last_seq)
        self._room: Future[bool] | None = None
        self._cutting = False

    # --- what it holds --------------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        return self._contents.last_seq

    @property
    def last_epoch(self) -> int:
        return self._contents.last_epoch

    @property
    def oldest_seq(self) -> int:
        """Of the first record that is still here; 0 when there is none."""
        held = self._contents.segments
        return held[0].first if held else 0

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
        return self._sync.waiting >= self.unsynced_max

    @property
    def sync_error(self) -> str:
        """Why the last sync failed; empty when it did not."""
        return self._sync.error

    def ends(self) -> list[tuple[int, int]]:
        """[(epoch, its last sequence)] in the order of the file."""
        return list(self._contents.ends)

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[SegmentRecord]:
        """Records with a sequence above `after`, at most `limit`, from memory where they are recent."""
        recent = self._contents.recent
        if recent and after >= recent[0].sequence - 1:
            found: Iterator[SegmentRecord] = (record for record in _newest(recent, after))
        else:
            found = self._read_files(after)
        for count, record in enumerate(found):
            if count == limit:
                return
            yield record

    def _read_files(self, after: int) -> Iterator[SegmentRecord]:
        self._let_go()
        held = self._contents.segments
        at = max(0, bisect_right([segment.first for segment in held], after) - 1)
        for segment in held[at:]:
            for record, _ in segment.read(after):
                yield record

    def __repr__(self) -> str:
        return (
            f"<Journal {self.folder}: to {self.last_seq} of epoch {self.last_epoch}, {self.unsynced} "
            f"unsynced, {len(self._contents.segments)} segments>"
        )

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, epoch: int, payload: bytes, sequence: int | None = None) -> int:
        """Write one record and return its sequence: the next one, or the given one, which must be above the
        last.

        Raises:
            JournalFull: no room; or the last sync failed, and another one has to succeed first (`recovered`);
                or a tail is being set aside.
        """
        contents = self._contents
        last = contents.last_seq
        sequence = last + 1 if sequence is None else sequence
        if sequence <= last:
            raise InvalidInput(f"{self.folder}: sequence {sequence} cannot follow {last}")
        if self._sync.error:
            raise JournalFull(f"{self.folder}: the last sync failed ({self._sync.error})")
        if self._cutting:
            raise JournalFull(f"{self.folder}: its tail is being set aside", retry_after_s=1.0)
        if self._sync.finished:
            self._let_go()
        frame = segments.frame(epoch, sequence, payload)
        if not contents.segments or contents.segments[-1].size + len(frame) > self.segment_bytes:
            self._begin_segment(sequence)
        segment = contents.segments[-1]
        assert segment.file is not None, "the last segment is open"
        self._write(segment.file.fd, frame, segment.size)
        segment.add(sequence, len(frame))
        contents.remember(SegmentRecord(epoch, sequence, payload))
        self._sync.written(segment.file, sequence, segment.size)
        return sequence

    def sync_soon(self) -> None:
        """Let the thread sync what has been appended: called when the input has been read and what it caused
        has been sent.

        Waking a thread costs its waker more than 100 µs when that one takes the interpreter at once; an order
        must not wait for it. A writer that never calls this is synced within UNASKED_S.
        """
        self._sync.wake()

    def _write(self, fd: int, frame: bytes, offset: int) -> None:
        """All of it or nothing: what a full disk took of a record is cut off again."""
        try:
            written = os.pwrite(fd, frame, offset)
            if written == len(frame):
                return
            reason = os.strerror(errno.ENOSPC)
        except OSError as exc:
            reason = exc.strerror or str(exc)
        with contextlib.suppress(
            OSError
        ):  # a torn frame fails its checksum and is cut at the next opening all the same
            os.ftruncate(fd, offset)
        raise JournalFull(
            f"{self.folder}: a record of {len(frame)} bytes was not written: {reason}", retry_after_s=1.0
        )

    def _begin_segment(self, first: int) -> None:
        """Write on in a new file, under its provisional name. What a full disk leaves of one is empty: the
        next try or the next opening takes it away.
        """
        path = segments.provisional(self.folder, first, self.last_seq)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, MAGIC) != len(MAGIC):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.close(fd)
                raise
        except OSError as exc:
            raise JournalFull(
                f"{path}: the next segment was not begun: {exc.strerror or exc}", retry_after_s=1.0
            ) from exc
        file = OpenFile(fd, path, segments.final(self.folder, first), len(MAGIC))
        self._contents.segments.append(Segment(path, first, file=file))
        self._sync.begin(file)

    def _let_go(self) -> None:
        """Segments that are wholly on the disk are read by their names from now on."""
        finished = self._sync.finished
        while finished:
            file = finished.popleft()
            for segment in self._contents.segments:
                if segment.file is file:
                    segment.path, segment.file = file.name, None
            self._sync.errand(file.close)

    # --- room -----------------------------------------------------------------------------------------------

    def recovered(self) -> bool:
        """True when there is room again: something was written, synced and taken back, and after a failed
        sync everything that it may have lost was written anew.

        Never waits: each call begins a try or asks about the one that is under way, so ask again.
        """
        if self._room is None:
            self._room = self._sync.errand(self._try_room)
        if not self._room.done():
            return False
        room, self._room = self._room.result(), None
        return room

    @property
    def trying(self) -> bool:
        """Whether there is room is being tried."""
        return self._room is not None

    def _try_room(self) -> bool:
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
                for file in self._sync.files:
                    _write_anew(file)
                files.sync_folder(self.folder)
        except OSError:
            return False
        self._sync.forgive()
        return True

    # --- errands --------------------------------------------------------------------------------------------

    def errand(self, run: Callable[[], T]) -> Future[T]:
        """Do this in the journal's thread, behind what was asked of it before."""
        return self._sync.errand(run)

    def prune(self, segments_max: int, needed_after: int | None = None) -> int:
        """Delete the oldest segments beyond `segments_max`, but none that holds a record above
        `needed_after`; returns how many. The files go soon after; one that cannot be deleted is there again
        at the next start.
        """
        self._let_go()
        held, deleted = self._contents.segments, 0
        while len(held) > max(1, segments_max) and held[0].file is None and not self._cutting:
            if needed_after is not None and held[1].first - 1 > needed_after:
                break
            self._sync.errand(held.pop(0).path.unlink)
            deleted += 1
        return deleted

    @property
    def damage_note(self) -> Path:
        """The file by which `damage` outlives a restart. Who deletes it says that nothing is lacking."""
        return self.folder / damage.NOTE

    def healed(self) -> None:
        """The journal has everything again that `damage` had taken."""
        if self.damage is not None:
            self.damage = None
            self._sync.errand(lambda: damage.forget(self.folder))

    def set_aside(
        self, after: int, rebuild: Callable[[Iterable[SegmentRecord]], T]
    ) -> Future[SetAside[T]] | None:
        """Begin to move the records with a sequence above `after` to a side file, which is on the disk
        before they are cut here. None when there are none.

        Until the answer is done nothing can be appended, and what the journal says of itself is what it was;
        then `shorten` has to be called with the answer. `rebuild` is called in the thread with every record
        that is left.

        The answer raises:
            JournalFull: the side file did not fit; nothing was cut.
            OSError: the disk failed halfway. The files are good for another opening, this object is not.
        """
        if after >= self.last_seq:
            return None
        self._cutting = True
        held = [Segment(each.path, each.first, each.index, each.records, each.size) for each in
                self._contents.segments]  # fmt: skip
        return self._sync.errand(lambda: self._set_aside(after, held, rebuild))

    def shorten(self, answer: Future[SetAside[T]]) -> SetAside[T]:
        """Take the answer of `set_aside`, which is done. Raises what it raises."""
        self._cutting = False
        found = answer.result()
        self._let_go()
        for file in self._sync.restart(found.contents.current, found.contents.last_seq):
            self._sync.errand(file.close)
        self._contents = found.contents
        return found

    def _set_aside(
        self, after: int, held: list[Segment], rebuild: Callable[[Iterable[SegmentRecord]], T]
    ) -> SetAside[T]:
        """In the thread. Every segment has its final name once everything is synced."""
        if not self._sync.drain():
            raise JournalFull(f"{self.folder}: the last sync failed ({self._sync.error})")
        for segment in held:
            segment.path = segments.final(self.folder, segment.first)
        tail = [record for segment in held for record, _ in segment.read(after) if record.sequence > after]
        path = self._side_path(tail[0])
        segments.write_side(path, tail)
        while held and held[-1].first > after:
            held.pop().path.unlink()
            files.sync_folder(self.folder)  # from the last one back, or a power cut could leave a hole
        if held:
            held[-1] = _shortened(held[-1], after)
        contents = recovery.Contents(deque(maxlen=self._recent_max), segments=held)
        contents.open_last(doubtful=True)

        def left() -> Iterator[SegmentRecord]:
            for segment in held:
                for record, _ in segment.read(0):
                    contents.remember(record)
                    yield record

        records = left()
        rebuilt = rebuild(records)
        for _ in records:
            pass  # whatever `rebuild` has left unread
        return SetAside(tail, path, rebuilt, contents)

    def _side_path(self, first: SegmentRecord) -> Path:
        n = 0
        while any(self.folder.glob(f"aside-{first.epoch}-{first.sequence}-{n}.*")):
            n += 1
        return self.folder / f"aside-{first.epoch}-{first.sequence}-{n}.unaudited"

    def asides(self) -> list[Path]:
        """The side files of which auditd has not got everything yet, oldest first. Reads the folder."""
        return sorted(self.folder.glob("aside-*.unaudited"), key=lambda path: path.stat().st_mtime_ns)

    def read_aside(self, path: Path) -> list[SegmentRecord]:
        """What is in a side file. Raises OSError."""
        return segments.read_side(path)

    def keep_aside(self, path: Path) -> None:
        """auditd has what is in this side file: from now on it is kept for people alone."""
        self._sync.errand(lambda: path.rename(path.with_suffix(".journal")))

    # --- closing --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync what is written, end the thread, let the folder go."""
        self._sync.stop()
        for file in (*self._sync.finished, *self._sync.files):
            file.close()
        self._sync.finished.clear()
        self._sync.files.clear()
        self._lock.close()


def _newest(recent: deque[SegmentRecord], after: int) -> list[SegmentRecord]:
    found: list[SegmentRecord] = []
    for record in reversed(recent):
        if record.sequence <= after:
            break
        found.append(record)
    found.reverse()
    return found


def _shortened(segment: Segment, after: int) -> Segment:
    """The same segment without the records above `after`; the file is cut when it is opened."""
    fresh = Segment(segment.path, segment.first)
    for record, end in segment.read(0):
        if record.sequence > after:
            break
        fresh.add(record.sequence, end - fresh.size)
    return fresh


def _write_anew(file: OpenFile) -> None:
    """After a failed sync the kernel calls the lost pages clean, and a second sync proves nothing: write
    what they held anew. Raises OSError, and then the file is as it was.
    """
    fresh = file.path.with_suffix(".fresh")
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        files.write_all(fd, os.pread(file.fd, file.size, 0))
        os.fsync(fd)
        fresh.rename(file.path)
    except OSError:
        os.close(fd)
        fresh.unlink(missing_ok=True)
        raise
    file.outworn.append(file.fd)
    file.fd = fd
