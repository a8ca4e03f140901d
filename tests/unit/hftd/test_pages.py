"""The two words: what one side writes the other reads whole; a word addressed to another process leads
nobody.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from controlplane.host import identity
from controlplane.model import Phase, Process
from hftd.shm import pages

BOOT = "0f1e2d3c-4b5a-4678-89ab-cdef01234567"
LEADER = Process("omsd-alpha-1", BOOT, 4711, 123456)


def lease_word(folder: Path) -> tuple[pages.LeasePage, pages.LeasePage]:
    path = folder / "omsd-alpha-1.lease"
    pages.create(path, pages.LEASE_MAGIC)
    return pages.LeasePage(path, writable=True), pages.LeasePage(path)


def test_a_fresh_word_is_addressed_to_nobody(tmp_path: Path) -> None:
    _, reader = lease_word(tmp_path)
    assert reader.read() == pages.NOBODY


def test_what_the_keeper_writes_the_daemon_reads(tmp_path: Path) -> None:
    writer, reader = lease_word(tmp_path)
    for epoch in range(1, 50):
        lease = pages.LeaseWord(LEADER, 1_700_000_000_000, epoch, pages.Wanted.LEAD, 10**15 + epoch)
        writer.write(lease)
        assert reader.read() == lease


def test_only_the_process_addressed_leads_and_only_while_valid(tmp_path: Path) -> None:
    lease = pages.LeaseWord(LEADER, 1, 7, pages.Wanted.LEAD, 1_000)
    assert lease.leads(LEADER, 999)
    assert not lease.leads(LEADER, 1_000)
    assert not lease.leads(Process("omsd-alpha-1", BOOT, 4711, 999), 999), (
        "same pid, another start: another process (R2)"
    )
    assert not pages.LeaseWord(LEADER, 1, 7, pages.Wanted.HAND_OVER, 1_000).leads(LEADER, 999)


def test_a_writer_that_died_in_the_middle_does_not_block_the_next(tmp_path: Path) -> None:
    writer, reader = lease_word(tmp_path)
    writer._words[1] = 5  # odd: a write was under way
    lease = pages.LeaseWord(LEADER, 1, 2, pages.Wanted.LEAD, 3)
    writer.write(lease)
    assert reader.read() == lease
    assert reader.sequence % 2 == 0


def test_a_reader_of_a_half_done_write_goes_on_with_what_it_read_last(tmp_path: Path) -> None:
    """The keeper was killed in the middle of a write: its daemon must not hang, and its lead still ends at
    the deadline that it has.
    """
    writer, reader = lease_word(tmp_path)
    lease = pages.LeaseWord(LEADER, 1, 2, pages.Wanted.LEAD, 3)
    writer.write(lease)
    assert reader.read() == lease
    writer._words[1] |= 1
    writer._map[pages._BODY_AT : pages._BODY_AT + 8] = b"\xff" * 8
    assert reader.read() == lease
    assert reader.read() == lease
    with pages.LeasePage(tmp_path / "omsd-alpha-1.lease") as new:
        assert new.read() == pages.NOBODY
    later = pages.LeaseWord(LEADER, 1, 2, pages.Wanted.STANDBY, 0)
    with pages.LeasePage(tmp_path / "omsd-alpha-1.lease", writable=True) as next_keeper:
        next_keeper.write(later)
    assert reader.read() == later


def test_a_half_done_alive_word_keeps_its_last_heartbeat_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.alive"
    pages.create(path, pages.ALIVE_MAGIC)
    writer, reader = pages.HeartbeatPage(path, writable=True), pages.HeartbeatPage(path)
    state = pages.Alive(4711, 123456, 10, Phase.ACTIVE, 3, 77, 2)
    writer.write(state)
    assert reader.read() == state
    writer._words[1] |= 1
    assert reader.read() == state
    with pages.HeartbeatPage(path) as new, pytest.raises(InvalidInput, match="half written"):
        new.read()


def test_the_lease_word_has_its_golden_bytes(tmp_path: Path) -> None:
    """docs/protocol.md shows these; another language must write the same."""
    writer, _ = lease_word(tmp_path)
    writer.write(pages.LeaseWord(LEADER, 0x0102030405060708, 9, pages.Wanted.HAND_OVER, 0x1112131415161718))
    raw = writer.path.read_bytes()
    assert len(raw) == 256
    assert raw[:16] == b"HFTLEAS1" + (2).to_bytes(8, "little")
    assert raw[16:80] == b"omsd-alpha-1".ljust(64, b"\0")
    assert raw[80:96].hex() == BOOT.replace("-", "")
    assert raw[96:112] == (4711).to_bytes(8, "little") + (123456).to_bytes(8, "little")
    assert raw[112:144] == bytes.fromhex("0807060504030201") + (9).to_bytes(8, "little") + (2).to_bytes(
        8, "little"
    ) + bytes.fromhex("1817161514131211")


def test_a_heartbeat_moves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.alive"
    pages.create(path, pages.ALIVE_MAGIC)
    writer, reader = pages.HeartbeatPage(path, writable=True), pages.HeartbeatPage(path)
    state = pages.Alive(4711, 123456, 10, Phase.ACTIVE, 3, 77, 2)
    writer.write(state)
    sequence = reader.sequence
    writer.beat(20)
    assert reader.read() == pages.Alive(4711, 123456, 20, Phase.ACTIVE, 3, 77, 2)
    assert reader.sequence == sequence


def test_a_file_that_is_no_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 256)
    with pytest.raises(InvalidInput, match="HFTLEAS1"):
        pages.LeasePage(path)
    path.write_bytes(b"HFTLEAS1")
    with pytest.raises(InvalidInput, match="256 bytes"):
        pages.LeasePage(path)


def test_a_process_is_itself_and_no_other() -> None:
    me = identity.identify("me")
    assert me is not None and identity.runs(me)
    assert not identity.runs(Process("me", me.boot_id, me.pid, me.start_time + 1))
    assert not identity.runs(Process("me", BOOT, me.pid, me.start_time))
