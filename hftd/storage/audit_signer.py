"""auditd's signing of its log's head: the key, when it is due, and what is remembered of it.

    DATA/audit.key            the private key (audit_key.py)
    DATA/audit.key.retired    a key that the operator has put aside: it vouches for the next one, then goes
    DATA/audit.signed         the head signed last, as audit.head is written
    SITE/audit.signatures     what was signed (audit_signatures.py)
    SITE/audit.pub            the public key, for an operator to copy off the host

A new head is signed only after the log has been held to the one signed last (`audit_log.AuditLog`, by
`signed`): else whoever can write the log, but not the data folder, would have the key sign a forged log at
the next start. Nothing here raises for a key, a file or a disk: what is wrong stands in `problems`, by the id
of its alarm, and auditd goes on without signatures.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd.engine import audit_statement
from hftd.engine.audit_chain import Head
from hftd.engine.audit_statement import KeyStart, SignedHead
from hftd.storage import audit_key, audit_verify
from hftd.storage.audit_key import Key, Unusable
from hftd.storage.audit_signatures import SignatureFile

KEY, SIGNATURES, UNSIGNED = "audit.key", "audit.signatures", "audit.unsigned"
"""Ids of alarms: something was wrong with a key; somebody else changed the file; heads cannot be signed now.
The first two stand until auditd ends."""

S = TypeVar("S", SignedHead, KeyStart)


@dataclass(frozen=True, slots=True)
class KeyBegun:
    """For an event: a new key signs."""

    key: str
    previous: str
    why: str
    vouched: bool


class Signer:
    def __init__(self, data_dir: Path, site_dir: Path, *, site: str, service: str) -> None:
        """Read what is there; nothing is written before `sign`."""
        self._path, self._retired_path = data_dir / "audit.key", data_dir / "audit.key.retired"
        self._signed_path, self._public_path = data_dir / "audit.signed", site_dir / "audit.pub"
        self._file = SignatureFile(site_dir / "audit.signatures")
        self._site, self._service = site, service
        self.problems: dict[str, str] = {}
        """Id of an alarm -> its text."""
        self.begun: KeyBegun | None = None
        """The key that was begun since this was last set to None."""
        self.key: Key | None = None
        self._retired: Key | None = None
        self._why = "first"
        """One of audit_statement.WHYS, or `unreadable`: then nothing is signed before the next start."""
        self._previous = ""
        self._introduce = False
        """The key's own line is not among the newest in the file."""
        self._set_aside: list[tuple[Path, str]] = []
        self.signed: Head | None = None
        """The head signed last."""
        self._signed_ns = 0
        self._not_exported: OSError | None = None
        """Why audit.pub is not what it should be."""
        self._look()

    # --- what is there --------------------------------------------------------------------------------------

    def _look(self) -> None:
        statements = self._tail()
        self._load(known=bool(statements) or self._public_path.exists() or self._signed_path.exists())
        self._previous = statements[-1].key if statements else ""
        remembered = self._remembered()
        shown = self._newest_of_ours(statements)
        self._introduce = self.key is not None and not any(
            isinstance(each, KeyStart) and each.key == self.key.id for each in statements
        )
        if remembered is not None and self.key is not None and UNSIGNED not in self.problems:
            self._compare(remembered, shown)
        self.signed = max(
            (each for each in (remembered, shown) if each is not None),
            key=lambda head: head.seq,
            default=None,
        )

    def _tail(self) -> list[audit_statement.Statement]:
        try:
            return self._file.tail()
        except OSError as exc:
            self._cannot(exc)
            return []

    def _load(self, *, known: bool) -> None:
        """The key and the retired one; why the next key begins, if one has to."""
        self._retired = self._usable(self._retired_path)
        found = audit_key.load(self._path)
        if isinstance(found, Key):
            self._why = "again" if self._retired is None else "retired"
            # Retired by a copy of it: that is no new key yet.
            self.key = found if self._retired is None or self._retired.id != found.id else None
        elif isinstance(found, Unusable):
            self._why = found.why
            self._distrust(self._path, found, "no head is signed until auditd starts and can read it")
        elif self._retired is not None:
            self._why = "retired"
        else:
            self._why = "lost" if known else "first"

    def _usable(self, path: Path) -> Key | None:
        found = audit_key.load(path)
        if isinstance(found, Unusable):
            self._distrust(path, found, "it vouches for no other key")
            return None
        return found

    def _distrust(self, path: Path, found: Unusable, therefore: str) -> None:
        self.problems[KEY] = f"{found.text}; {therefore}"
        if found.why != "unreadable":
            self._set_aside.append((path, found.why))

    def _remembered(self) -> Head | None:
        try:
            if self._signed_path.exists() and not self._signed_path.stat().st_size:
                return None  # not synced: some file systems leave this after a power cut
            return audit_verify.read_head(self._signed_path)
        except (InvalidInput, OSError) as exc:
            self.problems[SIGNATURES] = f"which head was signed last is not known: {exc}"
            return None

    def _newest_of_ours(self, statements: list[audit_statement.Statement]) -> Head | None:
        for each in reversed(statements):
            if self.key is None or not isinstance(each, SignedHead) or each.key != self.key.id:
                continue
            if audit_key.verifies(self.key.public, audit_statement.message(each), each.sig):
                return each.head
        return None

    def _compare(self, signed: Head, shown: Head | None) -> None:
        if shown is None or shown.seq < signed.seq:
            newest = "none by this key" if shown is None else f"record {shown.seq}"
            self.problems[SIGNATURES] = (
                f"{self._file.path}: record {signed.seq} was signed, the newest there is {newest}: lines "
                "were removed; what is signed from now on covers the log again"
            )

    def _cannot(self, exc: OSError) -> None:
        self.problems[UNSIGNED] = (
            f"heads are not signed ({exc.filename or self._file.path}: {exc.strerror or exc}); the log goes "
            "on without, and this is tried again"
        )

    # --- signing --------------------------------------------------------------------------------------------

    def unsigned(self, head: Head) -> int:
        """How many records follow the head signed last; 1 too where a loss has put another in its place."""
        if self.signed is None or self.signed == head:
            return head.seq if self.signed is None else 0
        return max(1, head.seq - self.signed.seq)

    def due(self, head: Head, now_ns: int, every_ns: int) -> bool:
        """There is something to sign, and `every_ns` (monotonic) has passed since the last time."""
        if self._why == "unreadable" or (self._signed_ns and now_ns - self._signed_ns < every_ns):
            return False
        unsaid = self.key is None or self._introduce or self._not_exported is not None
        return unsaid or self.unsigned(head) > 0 or self._file_changed()

    def _file_changed(self) -> bool:
        try:
            return self._file.changed()
        except OSError:
            return True

    def sign(self, head: Head, now_ns: int, time_ns: int) -> None:
        """Sign `head`, which must be on the disk and compared with `signed` before (audit_log.py)."""
        if self._why == "unreadable":
            return
        self._signed_ns = now_ns
        try:
            self._put_aside(time_ns)
            if self._file_changed():
                self._introduce = True
                self.problems[SIGNATURES] = (
                    f"{self._file.path}: somebody else has written, cut or removed it; what is signed from "
                    "now on covers the log again"
                )
            if self.key is None:
                self._begin()
            self._not_exported = self._export()
            if self._introduce or self._retired is not None:
                self._say_key(head, time_ns)
            if head.seq > 0:
                self._say_head(head, time_ns)
        except OSError as exc:
            self._cannot(exc)
        else:
            self.problems.pop(UNSIGNED, None)
            if self._not_exported is not None:
                self.problems[UNSIGNED] = (
                    f"{self._public_path} is not written ({self._not_exported.strerror}); heads are signed "
                    "all the same, and this is tried again"
                )

    def _put_aside(self, time_ns: int) -> None:
        while self._set_aside:
            path, why = self._set_aside[-1]
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_name(f"{path.name}.{why}.{time_ns // 1_000_000_000}"))
            self._set_aside.pop()

    def _begin(self) -> None:
        key = Key.generate()
        key.write(self._path)
        self.key, self._introduce = key, True

    def _say_key(self, head: Head, time_ns: int) -> None:
        """Put the key's own line into the file; then the retired one may go."""
        assert self.key is not None
        previous = self._retired.id if self._retired is not None else self._previous
        if previous == self.key.id:
            previous = ""
        start = KeyStart(
            audit_statement.KEY_FORMAT,
            self._site,
            self._service,
            head.seq,
            head.hash,
            time_ns,
            self.key.id,
            self.key.public.hex(),
            previous,
            self._why,
            "",
        )
        if self._retired is not None and previous:
            vouched = self._retired.sign(audit_statement.vouch_message(start))
            start = dataclasses.replace(start, vouched=vouched)
        self._file.append(self._with_signature(start))
        self._retired_path.unlink(missing_ok=True)
        self._retired, self._introduce = None, False
        if self._why != "again":
            self.begun = KeyBegun(self.key.id, previous, self._why, bool(start.vouched))
        if self._why in ("lost", "damaged", "exposed"):
            self.problems[KEY] = (
                f"the signing key was {self._why}: {self.key.id} signs from record {head.seq} on, and no "
                "earlier key vouches for it; find out why, then copy audit.pub off the host again"
            )
        self._why = "again"

    def _export(self) -> OSError | None:
        """Write audit.pub where it does not say what it should; what went wrong with it."""
        assert self.key is not None
        pem, found = audit_key.public_pem(self.key.public), b""
        with contextlib.suppress(OSError):  # not there, or not a file: it is replaced
            found = audit_key.read_beside(self._public_path)
        if found == pem:
            return None
        if found and self._why == "again":
            self.problems[SIGNATURES] = (
                f"{self._public_path}: held another key than the one that signs ({self.key.id}), and was "
                "replaced; compare the copies that were made of it"
            )
        try:
            files.replace(self._public_path, pem, Durability.POWER)
        except OSError as exc:
            return exc
        return None

    def _say_head(self, head: Head, time_ns: int) -> None:
        assert self.key is not None
        unsigned = SignedHead(
            audit_statement.HEAD_FORMAT,
            self._site,
            self._service,
            head.seq,
            head.hash,
            time_ns,
            self.key.id,
        )
        self._file.append(self._with_signature(unsigned))
        # After its line is on the disk: a remembered head that the file lacks means that the file was cut.
        # After a power cut it may be an older one, and the file has the newer, signed: see `_look`.
        files.replace(self._signed_path, audit_verify.format_head(head), Durability.CRASH, mode=0o600)
        self.signed = head

    def _with_signature(self, statement: S) -> S:
        assert self.key is not None
        return dataclasses.replace(statement, sig=self.key.sign(audit_statement.message(statement)))

    def __repr__(self) -> str:
        seq = self.signed.seq if self.signed is not None else 0
        return f"Signer({self.key}, signed to record {seq})"
