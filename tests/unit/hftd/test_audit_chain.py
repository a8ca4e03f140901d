"""The audit log's promise: whatever one thing is done to it, it is found, with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.engine import audit_chain
from hftd.engine.audit_chain import Head
from hftd.storage import audit_log, audit_verify

FEW = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines(count: int) -> list[bytes]:
    head, made = audit_chain.START, []
    for n in range(1, count + 1):
        record = audit_chain.append(
            head, timestamp=1_700_000_000_000_000_000 + n, action="ORDER_PLACED", user="strategy-mm",
            sender=(7, "omsd", 3), audit_seq=n,
            details={"order_id": f"omsd-3-{n}", "price": "61800.3", "näme": n},
        )  # fmt: skip
        head = record.head
        made.append(audit_chain.line(record))
    return made


LINES = lines(12)
HEAD = Head(12, json.loads(LINES[-1])["hash"])


def written(folder: Path, *files: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number, content in enumerate(files, start=1):
        (folder / f"{number}.jsonl").write_bytes(b"".join(content))
    return folder


def kinds(folder: Path, head: Head | None = HEAD) -> list[tuple[str, str, int]]:
    return [(found.kind, found.file, found.line) for found in audit_verify.verify(folder, head)]


def test_a_whole_log_has_no_findings_over_several_files(tmp_path: Path) -> None:
    assert kinds(written(tmp_path / "a", LINES[:5], LINES[5:])) == []


@FEW
@given(at=st.integers(0, sum(map(len, LINES)) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_found(tmp_path: Path, at: int, byte: int) -> None:
    content = bytearray(b"".join(LINES))
    if content[at] == byte:
        byte = (byte + 1) % 256
    content[at] = byte
    assert kinds(written(tmp_path / "a", [bytes(content)]))


@FEW
@given(begin=st.integers(0, sum(map(len, LINES)) - 1), length=st.integers(1, 900))
def test_any_cut_is_found(tmp_path: Path, begin: int, length: int) -> None:
    content = b"".join(LINES)
    assert kinds(written(tmp_path / "a", [content[:begin] + content[begin + length :]]))


@FEW
@given(at=st.integers(0, sum(map(len, LINES))), inserted=st.binary(min_size=1, max_size=40))
def test_anything_inserted_is_found(tmp_path: Path, at: int, inserted: bytes) -> None:
    content = b"".join(LINES)
    assert kinds(written(tmp_path / "a", [content[:at] + inserted + content[at:]]))


@FEW
@given(order=st.permutations(range(len(LINES))))
def test_any_other_order_is_found(tmp_path: Path, order: list[int]) -> None:
    found = kinds(written(tmp_path / "a", [LINES[n] for n in order]))
    assert bool(found) == (order != sorted(order))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([LINES[:3], LINES[4:]], ("deleted", "2.jsonl", 1)),
        ([LINES[1:]], ("deleted", "1.jsonl", 1)),
        ([[*LINES[:3], LINES[4], LINES[3], *LINES[5:]]], ("reordered", "1.jsonl", 5)),
        ([[*LINES[:3], LINES[3].replace(b"61800.3", b"61800.4"), *LINES[4:]]], ("changed", "1.jsonl", 4)),
        ([[*LINES[:3], LINES[2], *LINES[3:]]], ("reordered", "1.jsonl", 4)),
        ([LINES[:5], LINES[5:-1]], ("cut_tail", "2.jsonl", 7)),
        ([[*LINES[:-1], LINES[-1][:-9]]], ("torn", "1.jsonl", 12)),
    ],
)
def test_each_mutation_has_its_name_and_place(
    tmp_path: Path, files: list[list[bytes]], found: tuple[str, str, int]
) -> None:
    assert found in kinds(written(tmp_path / "a", *files))


def test_one_changed_record_is_one_finding(tmp_path: Path) -> None:
    changed = [*LINES[:3], LINES[3].replace(b"61800.3", b"61800.4"), *LINES[4:]]
    assert kinds(written(tmp_path / "a", changed)) == [("changed", "1.jsonl", 4)]


def test_a_record_changed_with_its_hash_made_right_is_found_by_the_next(tmp_path: Path) -> None:
    record = audit_chain.parse(LINES[3])
    assert record is not None
    forged = audit_chain.append(
        Head(3, record.prev),
        timestamp=record.timestamp,
        action="ORDER_CANCELLED",
        user=record.user,
        sender=record.sender,
        audit_seq=4,
        details={},
    )
    assert kinds(written(tmp_path / "a", [*LINES[:3], audit_chain.line(forged), *LINES[4:]])) == [
        ("changed", "1.jsonl", 5)
    ]


def test_a_log_written_anew_from_the_beginning_is_found_by_the_head(tmp_path: Path) -> None:
    anew = [line.replace(b"61800.3", b"61800.4") for line in LINES]
    head, rebuilt = audit_chain.START, []
    for line in anew:
        fields = json.loads(line)
        record = audit_chain.append(
            head, timestamp=fields["timestamp"], action=fields["action"], user=fields["user"], sender=(7,
            "omsd", 3), audit_seq=fields["audit_seq"],
            details=fields["details"],
        )  # fmt: skip
        head = record.head
        rebuilt.append(audit_chain.line(record))
    assert kinds(written(tmp_path / "a", rebuilt), None) == []
    assert kinds(written(tmp_path / "a", rebuilt)) == [("changed", "1.jsonl", 12)]


def test_the_log_may_be_ahead_of_its_head(tmp_path: Path) -> None:
    assert kinds(written(tmp_path / "a", LINES), Head(7, json.loads(LINES[6])["hash"])) == []


def test_an_unreadable_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere"):
        audit_verify.verify(tmp_path / "nowhere", None)
    with pytest.raises(InvalidInput, match=r"no <n>\.jsonl"):
        audit_verify.verify(written(tmp_path / "a"), None)
    assert [found.kind for found in audit_verify.verify(tmp_path / "a", HEAD)] == ["cut_tail"]


# --- the files ----------------------------------------------------------------------------------------------


def opened(tmp_path: Path, file_bytes_max: int = 2000) -> audit_log.AuditLog:
    return audit_log.AuditLog(tmp_path / "audit", tmp_path / "audit.head", file_bytes_max=file_bytes_max)


def fill(log: audit_log.AuditLog, first: int, last: int, epoch: int = 1) -> None:
    for n in range(first, last + 1):
        log.append(
            timestamp=n,
            action="ORDER_PLACED",
            user="mm",
            sender=(7, "omsd", epoch),
            audit_seq=n,
            details={"n": n},
        )


def check(tmp_path: Path) -> list[str]:
    return [
        found.kind
        for found in audit_verify.verify(tmp_path / "audit", audit_verify.read_head(tmp_path / "audit.head"))
    ]


def test_the_chain_goes_on_over_files_and_restarts(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 1, 20)
    log.close()
    again = opened(tmp_path)
    assert (
        again.head == log.head
        and again.head.seq == 20
        and again.last_of((7, "omsd", 1)) == 20 == again.last_of_group("omsd")
    )
    fill(again, 21, 30)
    fill(again, 1_000_000, 1_000_001, epoch=2)
    again.close()
    assert (
        len(list((tmp_path / "audit").iterdir())) > 2
        and check(tmp_path) == []
        and again.last_of_group("omsd") == 1_000_001
    )
    assert audit_verify.read_head(tmp_path / "audit.head") == again.head


def test_a_torn_last_line_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = opened(tmp_path, 1 << 20)
    fill(log, 1, 3)
    log.close()
    with (tmp_path / "audit" / "1.jsonl").open("ab") as file:
        file.write(b'{"seq":4,"prev":"12')
    again = opened(tmp_path, 1 << 20)
    assert again.torn_bytes == 19 and again.head.seq == 3
    fill(again, 4, 5)
    again.close()
    assert check(tmp_path) == []


def test_a_tail_cut_while_auditd_was_down_stays_visible_for_ever(tmp_path: Path) -> None:
    log = opened(tmp_path, 1 << 20)
    fill(log, 1, 9)
    log.close()
    path = tmp_path / "audit" / "1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:6]))
    assert check(tmp_path) == ["cut_tail"]
    again = opened(tmp_path, 1 << 20)
    assert again.expected is not None and again.expected.seq == 9
    again.sync()
    assert check(tmp_path) == ["cut_tail"], "the head is not written over before the loss is in the chain"
    again.record_loss(10, "auditd-alpha-1")
    fill(again, 10, 30)
    again.close()
    assert check(tmp_path) == ["tail_lost"]


def test_a_log_whose_last_line_is_no_record_is_not_written_on(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "1.jsonl").write_bytes(b"garbage\n")
    with pytest.raises(InvalidInput, match=r"1\.jsonl:1"):
        opened(tmp_path)
