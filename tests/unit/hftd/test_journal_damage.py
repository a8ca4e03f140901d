"""The journal's promise over damage: whatever bit of its files is flipped, no record that is intact on the
disk is lost in silence.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.storage import damage, segments
from hftd.storage.journal import Journal

RECORDS = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "journal"
    journal = Journal(folder, segment_bytes=4_000)
    for n in range(1, RECORDS + 1):
        journal.append(1 + n // 100, b"order %d " % n + bytes(n % 50))
    journal.close()
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(whole, tmp_path / "journal")
    yield tmp_path / "journal"


def flip(folder: Path, bit: int) -> None:
    """Of all bits of all its segments, one after the other."""
    for path in sorted(folder.glob("0*.journal")):
        size = path.stat().st_size * 8
        if bit < size:
            content = bytearray(path.read_bytes())
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            return
        bit -= size
    raise AssertionError("no such bit")


def bits(folder: Path) -> int:
    return 8 * sum(path.stat().st_size for path in folder.glob("0*.journal"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_costs_its_own_record_and_no_other_in_silence(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    flip(folder, data.draw(st.integers(0, bits(folder) - 1), label="bit"))

    try:
        refusing = Journal(folder)
    except InvalidInput as exc:
        assert isinstance(exc, damage.Damaged) and "whole records" in str(exc)
        assert not list(folder.glob("damaged-*")), "it was refused, and nothing was changed"
    else:
        assert refusing.last_seq == RECORDS - 1 and refusing.torn_bytes, "only the last one looks torn"
        refusing.close()
        return

    journal = Journal(folder, replicated=True)
    kept = [record.sequence for record in journal.read()]
    assert kept == list(range(1, len(kept) + 1))
    lost = journal.damage
    assert lost is not None and lost.records >= RECORDS - 1 - len(kept)
    found = {
        record.sequence
        for path in lost.kept
        for record in segments.intact(Path(path).read_bytes(), len(segments.MAGIC), 0)
    }
    assert len(set(kept) | found) >= RECORDS - 1, "what is not in use is kept, but for the damaged one"
    assert lost.last_seq == max(found)
    journal.close()
    again = Journal(folder, replicated=True)
    assert again.damage == lost, "and it is not forgotten"
    again.close()


def test_a_journal_that_was_given_back_what_it_lacked_is_whole_again(copy: Path) -> None:
    flip(copy, 40_000)
    journal = Journal(copy, replicated=True)
    assert journal.damage is not None
    for n in range(journal.last_seq + 1, RECORDS + 1):
        journal.append(1 + n // 100, b"order %d " % n + bytes(n % 50))
    journal.healed()
    assert journal.damage is None
    journal.close()
    again = Journal(copy)
    assert again.damage is None and again.last_seq == RECORDS
    assert [record.payload[:8] for record in again.read(100, 2)] == [b"order 10", b"order 10"]
    again.close()


@pytest.mark.parametrize("replicated", [True, False])
def test_after_a_kill_a_damaged_end_before_a_segment_that_was_just_begun_is_no_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, replicated: bool
) -> None:
    stands = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: stands.wait(30))
        journal = Journal(tmp_path / "journal", segment_bytes=120)
        for n in range(1, 5):
            journal.append(1, b"order %d" % n + bytes(20))
        first, *_, last = [path for path, _, _ in segments.in_order(journal.folder)]
        assert last.suffix == ".next"
        content = bytearray(first.read_bytes())
        content[-1] ^= 1
        killed = tmp_path / "killed"
        shutil.copytree(journal.folder, killed)
        (killed / first.name).write_bytes(content)
        rebooted = tmp_path / "rebooted"
        shutil.copytree(killed, rebooted)
        (rebooted / "journal.lock").unlink()
        stands.set()
        journal.close()
    if not replicated:
        with pytest.raises(damage.Damaged, match="2 whole records, up to 4"):
            Journal(killed)
    else:
        again = Journal(killed, replicated=True)
        assert again.damage is not None and again.damage.records == 2 and again.last_seq == 1
        again.close()
    after = Journal(rebooted, replicated=replicated)
    assert after.damage is None and after.last_seq == 1
    assert after.lost is not None and after.lost.records == 2 and after.torn_bytes
    assert all(Path(path).exists() for path in after.lost.kept), "put aside, and said"
    after.close()


def test_a_second_damage_does_not_make_less_of_the_first(copy: Path) -> None:
    flip(copy, 60_000)
    first = Journal(copy, replicated=True)
    assert first.damage is not None
    first.close()
    flip(copy, 20_000)
    second = Journal(copy, replicated=True)
    assert second.damage is not None
    assert second.damage.last_seq == first.damage.last_seq == RECORDS
    assert set(first.damage.kept) < set(second.damage.kept)
    second.close()


def test_a_note_that_does_not_decode_refuses_the_journal(copy: Path) -> None:
    (copy / damage.NOTE).write_bytes(b"{")
    with pytest.raises(InvalidInput, match="does not decode"):
        Journal(copy, replicated=True)
