"""Is this audit log whole? Reads every line of the folder and names what was changed, removed, moved or cut,
with file and line.

The chain itself (engine/audit_chain.py) shows everything but a cut tail and a log written anew; for that,
heads are compared that were kept elsewhere: in the store, in `audit.head` beside the folder, by whoever
checked before, or signed (audit_assurance.py). Nothing is written here, and auditd may go on writing
meanwhile: read the heads first, then the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import InvalidInput
from hftd.engine import audit_chain
from hftd.engine.audit_chain import Head

FINDINGS_MAX = 100
"""After this many the log is not to be trusted anywhere; the rest would be noise."""

TAIL_LOST = "AUDIT_TAIL_LOST"
"""auditd's own record at a start that found fewer records than its head: the loss is never written over."""
REWRITTEN = "AUDIT_REWRITTEN"
"""The same for another record in the place of its head, or of the head signed last."""


@dataclass(frozen=True, slots=True)
class AuditFinding:
    kind: str
    """changed, deleted, reordered, cut_tail, torn, tail_lost or rewritten; of signatures (audit_assurance.py)
    forged, unsigned or unknown_key."""
    file: str
    line: int
    """From 1; for what is missing, where it should have been."""
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A head that was kept elsewhere, for the log to be held to."""

    head: Head
    by: str
    """Who remembers it, as it is said to an operator."""
    kind: str = "changed"
    """Of the finding, if the log holds another record there."""


@dataclass(slots=True)
class Verdict:
    findings: list[AuditFinding] = field(default_factory=list)
    last: Head = audit_chain.START
    """The newest record that was read."""


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


def _lines(paths: list[tuple[Path, int]]) -> Iterator[tuple[str, int, bytes]]:
    """The lines of each file that begin before the size that is given with it: what auditd writes meanwhile
    would be judged by heads and signatures that are older than it.
    """
    for path, size in paths:
        try:
            with path.open("rb") as file:
                begin = 0
                for number, line in enumerate(file, start=1):
                    if begin >= size:
                        break
                    begin += len(line)
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
    return judge(folder, [] if head is None else [Remembered(head, "the head")]).findings


def judge(folder: Path, remembered: Sequence[Remembered]) -> Verdict:
    """Hold the log to its own chain and to each of these heads. Raises InvalidInput as `verify` does."""
    paths = files(folder)
    if not paths and not remembered:
        raise InvalidInput(f"audit log {folder}: no <n>.jsonl file in it")
    try:
        sized = [(path, path.stat().st_size) for path in paths]
    except OSError as exc:
        raise InvalidInput(f"audit log {folder}: cannot be read ({exc.strerror or exc})") from exc
    verdict = Verdict()
    for finding in _judge(sized, remembered, verdict):
        verdict.findings.append(finding)
        if len(verdict.findings) == FINDINGS_MAX:
            break
    return verdict


def _judge(
    paths: list[tuple[Path, int]], remembered: Sequence[Remembered], verdict: Verdict
) -> Iterator[AuditFinding]:
    wanted: dict[int, list[Remembered]] = {}
    for each in remembered:
        if each.head != audit_chain.START:
            wanted.setdefault(each.head.seq, []).append(each)
    last = audit_chain.START  # what the next record must follow
    top = 0  # the highest seq met: a lower one later stands in the wrong place
    broken = False  # the line before is not to be trusted, so the next one's `prev` proves nothing more
    name, number = (paths[0][0].name if paths else "1.jsonl"), 0
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
            wanted.pop(last.seq, None)  # said once
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
        if record.action == REWRITTEN:
            yield AuditFinding(
                "rewritten",
                name,
                number,
                f"auditd found another record in a head's place when it started: {dict(record.details)}",
            )
        verdict.last = last = record.head
        top, broken = record.seq, False
        for each in wanted.pop(record.seq, ()):
            if record.hash != each.head.hash:
                yield AuditFinding(
                    each.kind,
                    name,
                    number,
                    f"record {record.seq} is not the one that {each.by} remembers ({each.head.hash[:16]}...)",
                )
    missing_from = min(wanted, default=0)
    if missing_from and last.seq < (highest := max(wanted)):
        yield AuditFinding(
            "cut_tail",
            name,
            number + 1,
            f"the log ends at record {last.seq}, {wanted[highest][0].by} remembers record {highest}",
        )
    elif missing_from:
        yield AuditFinding(
            "deleted",
            name,
            number,
            f"record {missing_from} that {wanted[missing_from][0].by} remembers is not in the log",
        )
