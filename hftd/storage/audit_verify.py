"""Is this audit log whole? Reads every line of the folder and names what was changed, removed, moved or cut,
with file and line.

The chain itself (engine/audit_chain.py) shows everything but a cut tail; for that a head is compared that was
kept elsewhere: in the store, or in `audit.head` beside the folder. Nothing is written here, and auditd may go
on writing meanwhile: read the head first, then the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.errors import InvalidInput
from hftd.engine import audit_chain
from hftd.engine.audit_chain import Head

FINDINGS_MAX = 100
"""After this many the log is not to be trusted anywhere; the rest would be noise."""

TAIL_LOST = "AUDIT_TAIL_LOST"
"""auditd's own record at a start that found fewer records than its head: the loss is never written over."""


@dataclass(frozen=True, slots=True)
class AuditFinding:
    kind: str
    """changed, deleted, reordered, cut_tail, torn or tail_lost."""
    file: str
    line: int
    """From 1; for what is missing, where it should have been."""
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.text}"


def files(folder: Path) -> list[Path]:
    """The log's files in the order of their numbers.

    Raises:
        InvalidInput: no such folder, or it cannot be read, or a .jsonl file in it has no number.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix == ".jsonl"]
    except OSError as exc:
        raise InvalidInput(
            f"audit log {folder}: cannot be read ({exc.strerror or exc}); it must be a folder with "
            "<n>.jsonl files"
        ) from exc
    for path in found:
        if not (path.stem.isascii() and path.stem.isdigit()):
            raise InvalidInput(f"audit log {folder}: {path.name} is not named <n>.jsonl")
    return sorted(found, key=lambda path: int(path.stem))


def read_head(path: Path) -> Head | None:
    """The head kept in a file, or None when there is none. Raises InvalidInput when it is there and is no
    head.
    """
    try:
        return parse_head(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, InvalidInput) as exc:
        raise InvalidInput(f"audit head {path}: {exc}") from exc


def parse_head(value: bytes) -> Head:
    """A head as auditd writes it ({"seq": ..., "hash": ...}), from a file or from the store. Raises
    InvalidInput.
    """
    try:
        found = json.loads(value)
        head = Head(found["seq"], found["hash"])
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f'{value[:80]!r} is not a head such as {{"seq": N, "hash": HEX}}') from exc
    if not (
        type(head.seq) is int
        and head.seq >= 0
        and isinstance(head.hash, str)
        and len(head.hash) == len(audit_chain.GENESIS)
    ):
        raise InvalidInput(f'{value[:80]!r} is not a head such as {{"seq": N, "hash": HEX}}')
    return head


def format_head(head: Head) -> bytes:
    return json.dumps({"seq": head.seq, "hash": head.hash}).encode() + b"\n"


def _lines(paths: list[Path]) -> Iterator[tuple[str, int, bytes]]:
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        yield path.name, number, line
                        continue
                    # auditd may be in the middle of this line: what it has written meanwhile is looked at
                    # once more.
                    yield path.name, number, line + file.readline()
        except OSError as exc:
            raise InvalidInput(f"audit log {path}: cannot be read ({exc.strerror or exc})") from exc


def verify(folder: Path, head: Head | None) -> list[AuditFinding]:
    """Everything that is wrong with the log; an empty list when it is whole.

    `head` None: the tail is not checked, and the caller says so.

    Raises:
        InvalidInput: the folder or a file in it cannot be read.
    """
    paths = files(folder)
    if not paths and head is None:
        raise InvalidInput(f"audit log {folder}: no <n>.jsonl file in it")
    findings: list[AuditFinding] = []
    for finding in _judge(paths, head):
        findings.append(finding)
        if len(findings) == FINDINGS_MAX:
            break
    return findings


def _judge(paths: list[Path], head: Head | None) -> Iterator[AuditFinding]:
    last = audit_chain.START  # what the next record must follow
    top = 0  # the highest seq met: a lower one later stands in the wrong place
    broken = False  # the line before is not to be trusted, so the next one's `prev` proves nothing more
    name, number = (paths[0].name if paths else "1.jsonl"), 0
    head_met = head is None or head == audit_chain.START
    for name, number, line in _lines(paths):
        if not line.endswith(b"\n"):
            yield AuditFinding("torn", name, number, f"the line after record {last.seq} has no end")
            break
        record = audit_chain.parse(line)
        if record is None or audit_chain.digest(record) != record.hash:
            why = "is not a record in its canonical bytes" if record is None else "does not match its hash"
            yield AuditFinding(
                "changed", name, number, f"the line in the place of record {last.seq + 1} {why}"
            )
            last, broken = Head(last.seq + 1, ""), True
            head_met = head_met or (head is not None and last.seq == head.seq)  # said once
            continue
        if record.seq <= top:
            # The next line still has to follow the highest one.
            yield AuditFinding("reordered", name, number, f"record {record.seq} comes after record {top}")
            continue
        if record.seq > last.seq + 1:
            missing = (
                str(last.seq + 1) if record.seq == last.seq + 2 else f"{last.seq + 1} to {record.seq - 1}"
            )
            yield AuditFinding(
                "deleted", name, number, f"record {missing} missing before record {record.seq}"
            )
        elif record.prev != last.hash and not broken:
            yield AuditFinding(
                "changed",
                name,
                number,
                f"record {record.seq} does not follow the record that stands before it",
            )
        if record.action == TAIL_LOST:
            yield AuditFinding(
                "tail_lost",
                name,
                number,
                f"auditd found records missing when it started: {dict(record.details)}",
            )
        last, top, broken = record.head, record.seq, False
        if head is not None and record.seq == head.seq:
            head_met = True
            if record.hash != head.hash:
                yield AuditFinding(
                    "changed",
                    name,
                    number,
                    f"record {record.seq} is not the one that the head remembers ({head.hash[:16]}...)",
                )
    if head is None:
        return
    if last.seq < head.seq:
        yield AuditFinding(
            "cut_tail",
            name,
            number + 1,
            f"the log ends at record {last.seq}, the head remembers record {head.seq}",
        )
    elif not head_met:
        yield AuditFinding(
            "deleted", name, number, f"record {head.seq} that the head remembers is not in the log"
        )
