"""A file that was just begun is on the disk only when its name is: what the audit log and the position log
call synced is there after a power cut, from the first record and the first of each new file on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.host import files
from hftd.engine.position import Execution
from hftd.storage.audit_log import AuditLog
from hftd.storage.position_log import PositionLog
from hftd.wire.orders import Side
from tests.support.disks import SyncedDisk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kept"
    made.mkdir()
    return made


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncedDisk]:
    watched = SyncedDisk(folder, monkeypatch)
    yield watched
    watched.close()


def least(_: int) -> int:
    return 0


def write(log: AuditLog, count: int) -> None:
    for n in range(count):
        log.append(timestamp=n, action="ORDER_PLACED", user="strategy-mm", details={})


def test_every_file_of_the_audit_log_is_there_after_a_power_cut(
    folder: Path, disk: SyncedDisk, tmp_path: Path
) -> None:
    log = AuditLog(folder, tmp_path / "audit.head", file_bytes_max=1_000)
    for count in range(1, 9):
        write(log, 1)
        log.sync()
        disk.power_cut(tmp_path / f"cut{count}", least)
        again = AuditLog(tmp_path / f"cut{count}", tmp_path / "none", file_bytes_max=1_000)
        assert again.head == log.head
        again.close()
    assert log.number > 1
    log.close()


def test_a_failed_sync_of_the_audit_logs_folder_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(folder, tmp_path / "audit.head", file_bytes_max=500)
    write(log, 1)
    log.sync()
    before = log.synced
    real, failures = files.sync_folder, [1]

    def failing(path: Path) -> None:
        if path == folder and failures and failures.pop():
            raise OSError(5, os.strerror(5))
        real(path)

    monkeypatch.setattr(files, "sync_folder", failing)
    while log.number == 1:
        write(log, 1)
    with pytest.raises(OSError):
        log.sync()
    assert log.synced != log.head
    write(log, 1)
    log.sync()
    assert not failures and log.synced == log.head != before
    log.close()


def test_the_position_log_is_there_after_a_power_cut(folder: Path, disk: SyncedDisk, tmp_path: Path) -> None:
    log = PositionLog(folder)
    for id in (1, 2):
        log.append(Execution(id, "spot", "BTCUSDT", Side.BUY, 100, 5))
        log.sync()
    disk.power_cut(tmp_path / "cut", least)
    again = PositionLog(tmp_path / "cut")
    assert again.records == 2 and again.positions.seen
    again.close()
    log.close()
