"""Opening a journal: what its files hold, and what is done about each way in which they can end.

- The last segment ends in the middle of a record, and no whole record is behind: the power went while it was
  written, and it was not synced. The torn bytes are cut off.
- A whole record behind a place that is none, or a segment with its final name behind one that is not whole:
  damage. What follows was written, and perhaps acknowledged. It is refused, or quarantined (damage.py).
- A provisional segment whose predecessor lacks its end: the same, unless the machine was restarted since the
  journal was last open. Then it was a power cut before the predecessor was synced, and nothing of what
  follows was ever called synced: it is put aside, and said (`lost`).
- A segment in which nothing was written yet: the power went, or the disk was full, when it was begun. It is
  removed.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from hftd.storage import damage, segments
from hftd.storage.damage import Damage, Damaged
from hftd.storage.segments import MAGIC, Segment, SegmentRecord
from hftd.storage.sync_thread import OpenFile


@dataclass(slots=True)
class Contents:
    """What a journal holds, as its owner keeps it in memory."""

    recent: deque[SegmentRecord]
    ends: list[tuple[int, int]] = field(default_factory=list)
    """[(epoch, its last sequence)] in the order of the file."""
    segments: list[Segment] = field(default_factory=list)
    current: OpenFile | None = None
    """The last segment, opened."""
    torn_bytes: int = 0
    damage: Damage | None = None
    lost: Damage | None = None
    """What a power cut has left of records that were never synced, behind others that it took."""

    @property
    def last_seq(self) -> int:
        return self.ends[-1][1] if self.ends else 0

    @property
    def last_epoch(self) -> int:
        return self.ends[-1][0] if self.ends else 0

    def remember(self, record: SegmentRecord) -> None:
        if self.ends and self.ends[-1][0] == record.epoch:
            self.ends[-1] = (record.epoch, record.sequence)
        else:
            self.ends.append((record.epoch, record.sequence))
        self.recent.append(record)

    def open_last(self, *, doubtful: bool) -> None:
        """Open the last segment to be written on, cut to what is whole in it, and sync it. `doubtful`: who
        wrote it may have died after a sync that failed. Raises OSError.
        """
        if not self.segments:
            return
        last = self.segments[-1]
        fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(fd, last.size)
        _sync(fd, last.size, doubtful=doubtful)
        self.current = last.file = OpenFile(fd, last.path, last.path, last.size, named=True)


def recovered(folder: Path, recent_max: int, *, replicated: bool, restarted: bool) -> Contents:
    """Read every segment; everything in it is on the disk when this returns, also what a process wrote that
    has died after a sync that failed (what is read after a restart of the machine was read from the disk).

    Args:
        replicated: another member may have what is behind damage: quarantine it instead of refusing.
        restarted: the machine was, since the journal was last open.

    Raises:
        Damaged: whole records are behind damage; how many is in the message.
        InvalidInput: a file is no segment, or its sequences do not rise.
        OSError: a file cannot be read or put right.
    """
    for leftover in (folder / "room.probe", *folder.glob("[0-9]*.fresh")):
        leftover.unlink(missing_ok=True)
    found = Contents(deque(maxlen=recent_max))
    found.damage = damage.read_note(folder)
    chain = segments.in_order(folder)
    chain = [each for each in chain if not _is_empty(each, last=each is chain[-1])]
    for at, (path, first, previous) in enumerate(chain):
        content = path.read_bytes()
        if previous is not None and previous != found.last_seq:
            if restarted:
                found.lost = _put_aside(found, chain[at:], content)
            else:
                _quarantine(folder, found, chain[at:], content, None, replicated=replicated)
            break
        segment = _read(found, path, first, content)
        whole = segment.size if content.startswith(MAGIC) else 0
        if whole < len(content):
            written_on = at + 1 < len(chain) and (chain[at + 1][2] is None or not restarted)
            if written_on or any(True for _ in segments.intact(content, whole, found.last_seq)):
                _quarantine(folder, found, chain[at:], content, segment, replicated=replicated)
                break
            if not whole:
                raise InvalidInput(
                    f"{path}: not a journal segment (begins with {content[:8]!r} instead of {MAGIC!r})"
                )
            found.torn_bytes += len(content) - whole
            os.truncate(path, whole)
        if previous is not None:
            _name(found, segment, doubtful=not restarted)
        found.segments.append(segment)
    found.open_last(doubtful=not restarted)
    files.sync_folder(folder)
    return found


def _is_empty(each: tuple[Path, int, int | None], *, last: bool) -> bool:
    """Nothing was written in it but its beginning; it is removed."""
    path, _, previous = each
    if not (last or previous is not None) or path.stat().st_size > len(MAGIC):
        return False
    if not MAGIC.startswith(path.read_bytes()):
        return False
    path.unlink()
    return True


def _read(found: Contents, path: Path, first: int, content: bytes) -> Segment:
    segment = Segment(path, first)
    if not content.startswith(MAGIC):
        return segment
    for record, end in segments.records(content, len(MAGIC)):
        if record.sequence <= found.last_seq:
            raise InvalidInput(f"{path}: sequence {record.sequence} after {found.last_seq}")
        segment.add(record.sequence, end - segment.size)
        found.remember(record)
    return segment


def _name(found: Contents, segment: Segment, *, doubtful: bool) -> None:
    """Its predecessor is whole: once that is on the disk, the segment may have its final name."""
    if found.segments:
        before = found.segments[-1]
        fd = os.open(before.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _sync(fd, before.size, doubtful=doubtful)
        finally:
            os.close(fd)
    name = segments.final(segment.path.parent, segment.first)
    segment.path.rename(name)
    segment.path = name


def _sync(fd: int, size: int, *, doubtful: bool) -> None:
    if doubtful:
        files.write_again(fd, 0, size)
    os.fsync(fd)


def _quarantine(
    folder: Path,
    found: Contents,
    rest: list[tuple[Path, int, int | None]],
    content: bytes,
    begun: Segment | None,
    *,
    replicated: bool,
) -> None:
    """What is behind damage, in the files `rest`. `content` is that of the first; `begun` is what is good of
    it, None when that is nothing because the file cannot follow what is before it.
    """
    good = content[: begun.size] if begun is not None and begun.records else b""
    told = _told(found, rest, content, len(good))
    if not replicated:
        raise Damaged(f"{told}; nothing was changed")
    found.damage = damage.write_note(folder, told)
    damage.quarantine([path for path, _, _ in rest], [Path(each) for each in told.kept], good)
    if begun is not None and good:
        if rest[0][2] is not None:
            _name(found, begun, doubtful=True)
        found.segments.append(begun)


def _put_aside(found: Contents, rest: list[tuple[Path, int, int | None]], content: bytes) -> Damage:
    told = _told(found, rest, content, 0)
    damage.quarantine([path for path, _, _ in rest], [Path(each) for each in told.kept], b"")
    return told


def _told(
    found: Contents, rest: list[tuple[Path, int, int | None]], content: bytes, good_bytes: int
) -> Damage:
    """What the files `rest` hold from byte `good_bytes` of the first on, whose `content` is at hand."""
    paths = [path for path, _, _ in rest]
    size, count, last_seq = len(content) - good_bytes, 0, found.last_seq
    for path in paths:
        behind = content if path == paths[0] else path.read_bytes()
        if path != paths[0]:
            size += len(behind)
        for record in segments.intact(behind, good_bytes if path == paths[0] else 0, last_seq):
            count, last_seq = count + 1, record.sequence
    kept = damage.names_for(paths)
    return Damage(str(paths[0]), good_bytes, size, count, last_seq, [str(each) for each in kept])
