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
from hftd.storage.journal import Journal
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
            again = Journal(copy, replicated=replicated)
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
