"""After a sync that failed the next one proves nothing: what is called synced was written again before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from controlplane.host import files
from hftd.engine import audit_statement, fixed
from hftd.engine.position import Execution
from hftd.storage import audit_signatures
from hftd.storage.audit_log import AuditLog
from hftd.storage.journal import Journal
from hftd.storage.position_log import PositionLog
from hftd.wire.orders import Side
from tests.support.disks import ForgettingDisk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kept"
    made.mkdir()
    return made


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ForgettingDisk:
    return ForgettingDisk(folder, monkeypatch)


def audit(folder: Path) -> AuditLog:
    return AuditLog(folder, folder.parent / "audit.head", file_bytes_max=1 << 20)


def record(log: AuditLog, count: int = 1) -> None:
    for n in range(count):
        log.append(timestamp=n, action="ORDER_PLACED", user="strategy-mm", details={})


def half_synced(folder: Path, disk: ForgettingDisk, failures: int) -> AuditLog:
    """Two records that are on the disk, and two that the next sync has lost, the first that fails."""
    log = audit(folder)
    record(log, 2)
    log.sync()
    record(log, 2)
    disk.failures = failures
    with pytest.raises(OSError, match="Input/output"):
        log.sync()
    return log


def book(log: PositionLog, *ids: int) -> None:
    for id in ids:
        assert log.append(Execution(id, "spot", "BTCUSDT", Side.BUY, fixed.UNIT, 5)) == ""


def test_the_audit_log_writes_again_what_a_failed_sync_took(
    folder: Path, disk: ForgettingDisk, tmp_path: Path
) -> None:
    log = half_synced(folder, disk, failures=2)
    before = log.head
    with pytest.raises(OSError, match="Input/output"):
        record(log)
    assert log.head == before and log.synced is not None and log.synced.seq == 2
    record(log)
    log.sync()
    assert log.synced == log.head and log.head.seq == 5
    assert AuditLog(disk.copy(tmp_path / "cut"), tmp_path / "none", file_bytes_max=1 << 20).head == log.head
    log.close()


def test_an_audit_log_that_a_dead_process_could_not_sync_is_written_again_at_the_next_start(
    folder: Path, disk: ForgettingDisk, tmp_path: Path
) -> None:
    half_synced(folder, disk, failures=1)
    again = audit(folder)
    assert again.head.seq == 4
    again.sync()
    assert again.synced == again.head
    found = AuditLog(disk.copy(tmp_path / "cut"), tmp_path / "none", file_bytes_max=1 << 20)
    assert found.head == again.head and found.torn_bytes == 0


@pytest.mark.parametrize("fold", [False, True])
def test_the_position_log_writes_again_what_a_failed_sync_took(
    folder: Path, disk: ForgettingDisk, tmp_path: Path, fold: bool
) -> None:
    log = PositionLog(folder)
    book(log, 1)
    log.sync()
    book(log, 2)
    disk.failures = 2
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    if fold:
        log.fold()
        assert PositionLog(disk.copy(tmp_path / "folded")).positions.seen.up_to == 2
    book(log, 3)
    log.sync()
    cut = PositionLog(disk.copy(tmp_path / "cut"))
    assert cut.positions.seen.up_to == 3 and cut.torn_bytes == 0


def test_positions_are_not_booked_while_the_disk_fails(folder: Path, disk: ForgettingDisk) -> None:
    log = PositionLog(folder)
    book(log, 1)
    disk.failures = 2
    with pytest.raises(OSError, match="Input/output"):
        log.sync()
    with pytest.raises(OSError, match="Input/output"):
        book(log, 2)
    assert 2 not in log.positions.seen
    book(log, 2)
    log.sync()


@pytest.mark.parametrize("failed", [False, True])
def test_a_position_log_of_a_dead_process_is_written_again_before_it_is_called_synced(
    folder: Path, disk: ForgettingDisk, tmp_path: Path, failed: bool
) -> None:
    log = PositionLog(folder)
    book(log, 1, 2)
    if failed:
        disk.failures = 1
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    again = PositionLog(folder)
    again.sync()
    assert PositionLog(disk.copy(tmp_path / "cut")).positions.seen.up_to == again.positions.seen.up_to == 2


def test_a_journal_that_a_dead_process_could_not_sync_is_written_again_at_the_next_start(
    folder: Path, disk: ForgettingDisk, tmp_path: Path
) -> None:
    journal = Journal(folder, segment_bytes=200)
    disk.failures = 1_000
    for n in range(12):  # several segments, before the thread has failed at the first
        journal.append(1, b"%02d" % n + bytes(20))
    journal.sync_soon()
    deadline_s = time.monotonic() + 20
    while not journal.sync_error:
        assert time.monotonic() < deadline_s
    journal.close()
    disk.failures = 0
    again = Journal(folder, segment_bytes=200)
    assert again.synced_seq == again.last_seq == 12
    cut = Journal(disk.copy(tmp_path / "cut"), segment_bytes=200)
    assert [found.sequence for found in cut.read()] == [*range(1, 13)]
    cut.close()
    again.close()


def test_a_statement_whose_folder_was_not_synced_is_written_again_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = audit_statement.SignedHead(
        audit_statement.HEAD_FORMAT, "lab", "auditd", 1, "0" * 64, 1, "1" * 64, "2" * 128
    )
    log = audit_signatures.SignatureFile(folder / "audit.signatures")
    real, synced = files.sync_folder, []

    def failing(path: Path) -> None:
        synced.append(path)
        if len(synced) == 1:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(files, "sync_folder", failing)
    with pytest.raises(OSError, match="Input/output"):
        log.append(statement)
    assert (folder / "audit.signatures").read_bytes() == b"", "nothing of it stays"
    log.append(statement)
    assert synced == [folder, folder] and log.tail() == [statement]
