"""The journal's promise over a power cut: everything up to `synced_seq` is there, in its order, however the
files and their names have come to the disk, also while the disk stands and segments are begun beyond it.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftd.storage import segments
from hftd.storage.journal import Journal, JournalFull
from tests.support.disks import SyncedDisk


@contextmanager
def watched() -> Iterator[tuple[Path, SyncedDisk]]:
    with tempfile.TemporaryDirectory(prefix="hft-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name) / "journal"
        folder.mkdir()
        disk = SyncedDisk(folder, patch)
        try:
            yield folder, disk
        finally:
            disk.close()


def until_synced(journal: Journal) -> None:
    deadline = time.monotonic() + 20
    while journal.unsynced:
        assert time.monotonic() < deadline
        os.sched_yield()


STEPS = st.lists(
    st.sampled_from(["write", "write", "write", "write", "stand", "go", "sync", "term", "cut"]), max_size=40
)


@settings(deadline=None)  # it waits for a disk
@given(steps=STEPS, seed=st.integers(0, 1 << 30), replicated=st.booleans())
def test_a_power_cut_takes_nothing_that_was_synced_and_leaves_no_hole(
    steps: list[str], seed: int, *, replicated: bool
) -> None:
    chosen = random.Random(seed)  # how far the thread is at a cut is not ours to choose
    with watched() as (folder, disk):
        journal = Journal(folder, segment_bytes=120)
        written: list[tuple[int, int, bytes]] = []
        term, copies = 1, itertools.count()

        def cut() -> None:
            synced_seq = journal.synced_seq
            copy = folder.with_name(f"copy{next(copies)}")
            disk.power_cut(copy, lambda most: chosen.randint(0, most))
            (copy / "journal.lock").unlink(missing_ok=True)  # it names a process of this boot
            again = Journal(copy, replicated=replicated)
            assert again.damage is None, "a power cut is no damage"
            kept = [tuple(record) for record in again.read()]
            assert kept == written[: len(kept)], "a beginning of what was written, without a hole"
            assert again.last_seq >= synced_seq
            again.append(term, b"and it goes on")
            again.close()

        for step in (*steps, "cut", "sync", "cut"):
            if step == "write":
                payload = b"%d" % len(written) + bytes(len(written) % 30)
                written.append((term, journal.append(term, payload), payload))
                journal.sync_soon()
            elif step == "stand":
                disk.running.clear()
            elif step == "go":
                disk.running.set()
            elif step == "sync":
                disk.running.set()
                until_synced(journal)
            elif step == "term":
                term += 1
                sequence = journal.last_seq + 1_000
                written.append((term, journal.append(term, b"a new term", sequence), b"a new term"))
            else:
                cut()
        journal.close()


@pytest.mark.parametrize("after", [0, 1, 3, 6, 9])
def test_a_power_cut_while_a_tail_is_set_aside_leaves_each_record_here_or_there(after: int) -> None:
    with watched() as (folder, disk):
        journal = Journal(folder, segment_bytes=120)
        for n in range(1, 11):
            journal.append(1, b"%02d" % n + bytes(20))
        until_synced(journal)
        copies = itertools.count()

        def cut() -> None:
            for choice in (0, 1):
                copy = folder.with_name(f"copy{next(copies)}")
                disk.power_cut(copy, lambda most, choice=choice: most * choice)
                again = Journal(copy)
                kept = [record.sequence for record in again.read()]
                assert kept == list(range(1, len(kept) + 1)) and len(kept) >= after
                aside = {each.sequence for path in again.asides() for each in segments.read_side(path)}
                again.close()
                assert aside | set(kept) == set(range(1, 11))

        disk.each = cut
        answer = journal.set_aside(after, list)
        assert answer is not None
        answer.result(timeout=30)
        assert next(copies) > 8, "cut at every call"
        disk.each = lambda: None
        assert [each.sequence for each in journal.shorten(answer).records] == list(range(after + 1, 11))
        assert journal.append(2, b"of the new leader") == after + 1
        until_synced(journal)
        cut_after = folder.with_name("last")
        disk.power_cut(cut_after, lambda most: 0)
        again = Journal(cut_after)
        assert again.last_seq == after + 1
        again.close()
        journal.close()


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "rename"])
def test_a_sync_that_failed_at_a_new_segment_is_remembered_and_every_segment_is_written_anew(
    call: str, tmp_path: Path
) -> None:
    with watched() as (folder, disk), pytest.MonkeyPatch.context() as patch:
        journal = Journal(folder, segment_bytes=120)
        written = [journal.append(1, b"%02d" % n + bytes(20)) for n in range(2)]
        until_synced(journal)
        disk.running.clear()
        written += [journal.append(1, b"%02d" % n + bytes(20)) for n in range(2, 12)]
        assert len(segments.in_order(folder)) >= 4
        real = getattr(os, call)

        def broken(*_: object) -> None:
            raise OSError(5, os.strerror(5))

        with pytest.MonkeyPatch.context() as breaking:
            breaking.setattr(os, call, broken)
            disk.running.set()
            deadline = time.monotonic() + 20
            while not journal.sync_error:
                assert time.monotonic() < deadline
            with pytest.raises(JournalFull, match="sync failed"):
                journal.append(1, b"refused")
        assert getattr(os, call) is real
        # What the kernel did not write it calls clean: from now on a sync of those files proves nothing.
        lying = {path.stat().st_ino for path in folder.glob("[0-9]*")}

        def proves_nothing(fd: int) -> None:
            if os.fstat(fd).st_ino not in lying:
                honest(fd)

        honest = os.fdatasync
        patch.setattr(os, "fdatasync", proves_nothing)
        deadline = time.monotonic() + 20
        while not journal.recovered():
            assert time.monotonic() < deadline
        written.append(journal.append(1, b"taken"))
        until_synced(journal)
        copy = folder.with_name("copy")
        disk.power_cut(copy, lambda most: 0)
        again = Journal(copy)
        assert [record.sequence for record in again.read()] == written
        again.close()
        journal.close()


def test_a_tail_whose_side_file_does_not_fit_stays_where_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for _ in range(4):
        journal.append(1, b"kept")
    until_synced(journal)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = journal.set_aside(2, list)
        assert answer is not None
        with pytest.raises(JournalFull, match="being set aside"):
            journal.append(1, b"not now")
        with pytest.raises(JournalFull, match="2 records were not set aside"):
            answer.result(timeout=20)
        with pytest.raises(JournalFull, match="were not set aside"):
            journal.shorten(answer)
    assert journal.asides() == []
    assert journal.append(1, b"and on") == 5
    journal.close()
