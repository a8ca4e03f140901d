"""What the signatures beside an audit log prove, and to whom: read, checked with the keys that are trusted,
and held to the log (audit_verify.py). docs/security.md says what they do not prove.

Trusted are the keys that the operator gives, and those that a trusted key vouches for. With none given, it is
whatever key lies beside the log: that shows damage, but no forger who brought a key along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import InvalidInput
from hftd.engine import audit_statement
from hftd.engine.audit_chain import Head
from hftd.engine.audit_statement import KeyStart, SignedHead, Statement
from hftd.storage import audit_key, audit_signatures, audit_verify
from hftd.storage.audit_verify import FINDINGS_MAX, AuditFinding, Remembered

HEADS_MAX = 100_000
"""So many of the newest signed heads are checked, some eleven days of unbroken trading: each covers all that
older ones do. Older ones are counted."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A key, from where it signs."""

    start: KeyStart
    vouched: bool
    """By a key that is trusted."""


@dataclass(slots=True)
class Signatures:
    """What the file says, before it is held to the log."""

    given: bool
    """The trusted keys are the operator's."""
    trusted: dict[str, bytes]
    """Id of a key -> its public bytes."""
    heads: deque[tuple[int, SignedHead]] = field(default_factory=lambda: deque(maxlen=HEADS_MAX))
    """By trusted keys, with the number of their lines; the signatures are right."""
    older: int = 0
    """Heads that were not checked, since there are HEADS_MAX newer ones."""
    keys: list[Begun] = field(default_factory=list)
    strangers: int = 0
    """Statements by other keys."""
    stranger: tuple[int, Statement] | None = None
    """The one of them that goes furthest."""
    findings: list[AuditFinding] = field(default_factory=list)


@dataclass(slots=True)
class Assurance:
    """What was checked, of a log that may still be damaged: `findings` says so."""

    findings: list[AuditFinding]
    last: Head
    signatures: Signatures
    signed: SignedHead | None
    """The newest trusted head that the log holds."""

    @property
    def younger(self) -> int:
        """Records that no signature covers."""
        return self.last.seq - (self.signed.seq if self.signed is not None else 0)


def read(path: Path, given: Iterable[bytes], beside: Path) -> Signatures:
    """What is signed in the file at `path`, as far as the keys go.

    Args:
        given: public keys that the operator trusts.
        beside: audit.pub, for when none is given.

    Raises:
        InvalidInput: a file is there and cannot be read.
    """
    trusted = {audit_statement.key_id(public): public for public in given}
    found = Signatures(bool(trusted), trusted)
    if not found.given:
        found.trusted = {audit_statement.key_id(each): each for each in _beside(beside)}
    waiting: deque[tuple[int, SignedHead]] = deque()
    for line in audit_signatures.read(path):
        if line.statement is None:
            _finding(found, path, line.number, "the line is not a statement in its canonical bytes")
        elif isinstance(line.statement, KeyStart):
            _begin(found, path, line.number, line.statement)
        elif line.statement.key not in found.trusted:
            _stranger(found, line.number, line.statement)
        else:
            waiting.append((line.number, line.statement))
            if len(waiting) > HEADS_MAX:
                waiting.popleft()
                found.older += 1
    for number, head in waiting:
        if _right(found, head):
            found.heads.append((number, head))
        else:
            _finding(found, path, number, f"the signature of record {head.seq} is not by key {head.key}")
    _one_log(found, path)
    return found


def _beside(path: Path) -> list[bytes]:
    try:
        return audit_key.parse_public(path, audit_key.read_beside(path))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise InvalidInput(f"audit key {path}: cannot be read ({exc.strerror or exc})") from exc


def _right(found: Signatures, statement: Statement) -> bool:
    public = found.trusted[statement.key]
    return audit_key.verifies(public, audit_statement.message(statement), statement.sig)


def _begin(found: Signatures, path: Path, number: int, start: KeyStart) -> None:
    public = bytes.fromhex(start.public)
    if not audit_key.verifies(public, audit_statement.message(start), start.sig):
        _finding(found, path, number, f"the line of key {start.key} is not signed by it")
        return
    voucher = found.trusted.get(start.previous)
    vouched = voucher is not None and audit_key.verifies(
        voucher, audit_statement.vouch_message(start), start.vouched
    )
    found.keys.append(Begun(start, vouched))
    if vouched or not found.given:
        found.trusted.setdefault(start.key, public)
    if start.key not in found.trusted:
        _stranger(found, number, start)


def _stranger(found: Signatures, number: int, statement: Statement) -> None:
    found.strangers += 1
    if found.stranger is None or statement.seq >= found.stranger[1].seq:
        found.stranger = (number, statement)


def _one_log(found: Signatures, path: Path) -> None:
    for number, head in found.heads:
        first = found.heads[0][1]
        if (head.site, head.service) != (first.site, first.service):
            text = f"of site {head.site} service {head.service}; those above of {first.site} {first.service}"
            _finding(found, path, number, text)


def _finding(found: Signatures, path: Path, line: int, text: str, kind: str = "forged") -> None:
    if len(found.findings) < FINDINGS_MAX:
        found.findings.append(AuditFinding(kind, path.name, line, text))


def hold(folder: Path, heads: Iterable[Remembered], signatures: Signatures, path: Path) -> Assurance:
    """Hold the log to these heads and to all that are signed. `path` is that of the signatures, for findings.

    Raises:
        InvalidInput: the log cannot be read.
    """
    signed = [
        Remembered(head.head, f"the signature by key {head.key[:16]}...", "forged")
        for _, head in signatures.heads
    ]
    verdict = audit_verify.judge(folder, [*heads, *signed])
    newest = max(
        (head for _, head in signatures.heads if head.seq <= verdict.last.seq),
        key=lambda head: head.seq,
        default=None,
    )
    assurance = Assurance(
        [*verdict.findings, *signatures.findings][:FINDINGS_MAX], verdict.last, signatures, newest
    )
    _judge_cover(assurance, path)
    return assurance


def _judge_cover(assurance: Assurance, path: Path) -> None:
    signatures, signed = assurance.signatures, assurance.signed
    add = assurance.findings.append
    if signatures.given and signed is None:
        text = "no head of this log is signed by a key that was given"
        add(AuditFinding("unsigned", path.name, 1, text))
    elif signed is not None and assurance.younger > audit_statement.UNSIGNED_MAX:
        text = (
            f"{assurance.younger} records follow record {signed.seq}, the newest that is signed; auditd "
            f"signs at least every {audit_statement.UNSIGNED_MAX}"
        )
        add(AuditFinding("unsigned", path.name, signatures.heads[-1][0], text))
    if signatures.stranger is None:
        return
    number, statement = signatures.stranger
    if signed is None or statement.seq > signed.seq:
        text = (
            f"record {statement.seq} is signed by key {statement.key}, for which no trusted key vouches: "
            "find out why the key changed (event audit.key), and trust it only if it is auditd's"
        )
        add(AuditFinding("unknown_key", path.name, number, text))


def parse_at_least(text: str) -> Remembered:
    """SEQ:HASH, as `audit verify` prints it. Raises InvalidInput."""
    seq, _, digest = text.partition(":")
    if not (seq.isascii() and seq.isdigit() and 0 < len(seq) < 19 and int(seq) > 0):
        raise InvalidInput(f"--at-least {text!r}: SEQ:HASH is expected, SEQ the number of a record")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InvalidInput(f"--at-least {text!r}: SEQ:HASH is expected, HASH 64 hexadecimal digits")
    return Remembered(Head(int(seq), digest), "--at-least")
