"""The journal's promise: what append returned for is there after kill -9, a torn tail is not, and a full disk
costs only what it refused.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import InUse, InvalidInput
from hftd.storage import segments
from hftd.storage.journal import Journal, JournalFull


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.close()


def content(journal: Journal, after: int = 0) -> list[tuple[int, int, bytes]]:
    return [tuple(record) for record in journal.read(after)]


def as_if_killed(journal: Journal) -> Journal:
    """A second opening of the same files, as after kill -9: nothing of the first process's memory or close()
    helps.
    """
    copy = journal.folder.with_name("after-the-kill")
    copy.mkdir()
    for path in (*journal.folder.glob("*.journal"), *journal.folder.glob("*.next")):
        (copy / path.name).write_bytes(path.read_bytes())
    return Journal(copy)


def until(claim: object) -> None:
    """The thread's work is awaited, never slept for."""
    deadline = time.monotonic() + 10
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline
        os.sched_yield()


def tried(journal: Journal) -> bool:
    """What one whole try to find room has found."""
    found = journal.recovered()
    until(lambda: journal._room is None or journal._room.done())
    return found or journal.recovered()


def set_aside(journal: Journal, after: int) -> int:
    answer = journal.set_aside(after, list)
    if answer is None:
        return 0
    until(answer.done)
    taken = journal.shorten(answer)
    assert taken.rebuilt == list(journal.read()), "what is left is what it is rebuilt from"
    return len(taken.records)


def test_what_append_returned_for_survives_the_process(journal: Journal) -> None:
    assert [journal.append(1, b"one"), journal.append(1, b"two"), journal.append(2, b"three")] == [1, 2, 3]
    again = as_if_killed(journal)
    assert content(again) == [(1, 1, b"one"), (1, 2, b"two"), (2, 3, b"three")]
    assert again.ends() == [(1, 2), (2, 3)]
    assert again.append(2, b"four") == 4
    again.close()


@pytest.mark.parametrize("cut", range(1, 27))
def test_a_torn_tail_is_cut_and_writing_goes_on_after_it(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    journal.append(1, b"whole")
    journal.append(1, b"torn")
    journal.close()
    path = next(tmp_path.glob("0*.journal"))
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(tmp_path)
    assert content(again) == [(1, 1, b"whole")]
    assert again.append(1, b"new") == 2
    again.close()
    last = Journal(tmp_path)
    assert content(last) == [(1, 1, b"whole"), (1, 2, b"new")]
    last.close()


def test_a_changed_byte_in_an_earlier_segment_stops_the_opening(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=64)
    for _ in range(4):
        journal.append(1, bytes(40))
    journal.close()
    first = min(tmp_path.glob("0*.journal"))
    damaged = bytearray(first.read_bytes())
    damaged[-1] ^= 1
    first.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=r"damaged at byte .*; 3 whole records, up to 4, are in the"):
        Journal(tmp_path)


def test_records_run_through_segments_and_are_read_from_anywhere(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1_000, recent_max=5)
    for n in range(1, 601):
        journal.append(1 + n // 300, b"%d" % n)
    assert len(segments.in_order(tmp_path)) > 10
    assert [record.sequence for record in journal.read(0)] == list(range(1, 601))
    assert [record.sequence for record in journal.read(297, limit=3)] == [298, 299, 300]
    assert [record.sequence for record in journal.read(598)] == [599, 600]
    assert list(journal.read(600)) == []
    journal.close()
    again = Journal(tmp_path)
    assert again.ends() == [(1, 299), (2, 599), (3, 600)]
    again.close()


def test_a_hole_is_left_at_a_new_epoch_but_no_sequence_goes_back(journal: Journal) -> None:
    journal.append(1, b"old")
    assert journal.append(2, b"new", sequence=1_000) == 1_000
    assert journal.append(2, b"next") == 1_001
    with pytest.raises(InvalidInput, match="cannot follow"):
        journal.append(2, b"back", sequence=1_001)


def test_a_tail_is_set_aside_in_a_file_and_the_rest_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=100)
    for n in range(1, 11):
        journal.append(1, b"%02d" % n + bytes(30))
    assert set_aside(journal, 4) == 6
    assert [record.sequence for record in journal.read()] == [1, 2, 3, 4]
    assert journal.last_seq == journal.synced_seq == 4
    assert journal.append(2, b"of the new leader") == 5
    journal.close()
    again = Journal(tmp_path)
    assert again.ends() == [(1, 4), (2, 5)]
    again.close()
    side = next(tmp_path.glob("aside-1-5-0.unaudited")).read_bytes()
    kept = [record.sequence for record, _ in segments.records(side, len(segments.MAGIC))]
    assert kept == [5, 6, 7, 8, 9, 10]


def test_everything_can_be_set_aside(journal: Journal) -> None:
    journal.append(1, b"one")
    assert set_aside(journal, 0) == 1
    assert journal.ends() == []
    assert journal.append(2, b"first") == 1
    assert content(journal) == [(2, 1, b"first")]


def test_nothing_is_set_aside_when_there_is_no_tail(journal: Journal) -> None:
    journal.append(1, b"one")
    assert set_aside(journal, 1) == 0
    assert not list(journal.folder.glob("aside*"))


class SmallDisk:
    """os.pwrite on a disk with so many bytes left: the last write is taken in part, as ext4 and tmpfs do."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write, self._cut = os.pwrite, os.ftruncate

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self.room]
        self.room -= len(taken)
        return self._write(fd, taken, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        self.room += os.fstat(fd).st_size - size
        self._cut(fd, size)


def test_a_full_disk_refuses_a_record_whole_and_takes_one_again_when_there_is_room(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(1, b"before")
    disk = SmallDisk(room=20)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    monkeypatch.setattr(os, "ftruncate", disk.ftruncate)
    for _ in range(3):
        with pytest.raises(JournalFull, match="No space left"):
            journal.append(1, b"refused")
    killed = as_if_killed(journal)
    assert content(killed) == [(1, 1, b"before")]
    killed.close()
    disk.room = 1_000
    assert tried(journal)
    assert journal.append(1, b"after") == 2
    assert content(journal) == [(1, 1, b"before"), (1, 2, b"after")]


def test_no_room_for_a_new_segment_is_a_full_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, segment_bytes=50)
    journal.append(1, bytes(40))
    with monkeypatch.context() as patched:

        def full(_fd: int, _data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(os, "write", full)
        with pytest.raises(JournalFull, match="next segment"):
            journal.append(1, bytes(40))
        assert not tried(journal)
    assert tried(journal)
    assert journal.append(1, bytes(40)) == 2
    journal.close()


def test_the_thread_syncs_what_was_written_and_says_how_far(journal: Journal) -> None:
    for n in range(100):
        journal.append(1, b"%d" % n)
    until(lambda: journal.synced_seq == 100)
    assert journal.unsynced == 0


def test_a_disk_slower_than_the_work_is_shown_and_bounds_what_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, unsynced_max=10)
    journal.append(1, b"first")
    until(lambda: not journal.unsynced)
    go_on = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: go_on.wait(10))
        for _ in range(9):
            journal.append(1, b"work")
        assert not journal.behind
        journal.append(1, b"work")
        assert journal.behind
        go_on.set()
    until(lambda: not journal.behind)
    journal.close()


def test_a_failed_sync_refuses_records_until_the_segment_was_written_anew(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        journal.append(1, b"one")
        until(lambda: journal.sync_error)
        with pytest.raises(JournalFull, match="sync failed"):
            journal.append(1, b"two")
    assert tried(journal)
    journal.append(1, b"two")
    until(lambda: journal.synced_seq == 2)
    assert content(journal) == [(1, 1, b"one"), (1, 2, b"two")]


def test_two_processes_cannot_have_one_journal_open(journal: Journal) -> None:
    with pytest.raises(InUse):
        Journal(journal.folder)


def test_old_segments_are_pruned_but_none_that_is_still_needed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1_000, recent_max=1)
    for _ in range(200):
        journal.append(1, bytes(40))
    until(lambda: not journal.unsynced)
    assert journal.prune(3, needed_after=0) == 0
    journal.prune(3, needed_after=100)
    assert 80 < min(record.sequence for record in journal.read()) <= 101
    journal.prune(3)
    until(lambda: len(list(tmp_path.glob("0*.journal"))) == 3)
    journal.close()
    again = Journal(tmp_path)
    assert again.last_seq == 200
    again.close()


@settings(deadline=None)  # it waits for a disk
@given(payloads=st.lists(st.binary(max_size=60), max_size=20), cut=st.integers(0, 2_000))
def test_wherever_the_power_cuts_the_file_whole_records_from_its_beginning_are_left(
    payloads: list[bytes], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    journal = Journal(folder)
    for payload in payloads:
        journal.append(1, payload)
    journal.close()
    for path in folder.glob("0*.journal"):
        path.write_bytes(path.read_bytes()[:cut])
    again = Journal(folder)
    kept = [record.payload for record in again.read()]
    assert kept == payloads[: len(kept)]
    again.close()
