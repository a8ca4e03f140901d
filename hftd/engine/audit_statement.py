"""What auditd signs: the head of its log, now and then, and the beginning of each key it signs with. One line
of JSON each, in audit.signatures (storage/audit_signatures.py); docs/protocol.md has the format.

A line is canonical, as a record of the log is (audit_chain.py): fields in the order of the dataclass, no
spaces, ASCII. What is signed is the line's format, a newline, and the line's JSON without `sig`. The format
keeps a signature from being taken for one of something else; site and service, for one of another log.
A head's hash commits to every record before it, so a signature covers them all. Pure: no key is used here
(storage/audit_key.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from hftd.engine import canonical_json
from hftd.engine.audit_chain import Head

UNSIGNED_MAX = 10_000
"""More records than this after the newest signed head, and the log is reported as unsigned."""
SIGN_AFTER = UNSIGNED_MAX - 1_000
"""auditd signs at the latest after so many: below UNSIGNED_MAX by more than one turn of its loop can take."""

LINE_BYTES_MAX = 2_048
"""The longest is a key's line: 600 bytes, and the site's and the service's names."""

WHYS = ("first", "retired", "lost", "damaged", "exposed", "again")
"""Why a key begins: there was none; its forerunner was retired in order; its forerunner's file was gone, did
not decode, or could be read by others; or it is an old key whose line had gone from the file."""

_INT_MAX = (1 << 63) - 1
_HEX_DIGITS = {"hash": 64, "key": 64, "public": 64, "previous": 64, "vouched": 128, "sig": 128}
_MAY_BE_EMPTY = ("previous", "vouched")


@dataclass(frozen=True, slots=True)
class SignedHead:
    format: str
    site: str
    service: str
    """With `site` the log that is meant."""
    seq: int
    hash: str
    """Of record `seq`: engine/audit_chain.Head."""
    time: int
    """UNIX ns at which it was signed, by auditd's clock."""
    key: str
    """Id of the signing key (`key_id`)."""
    sig: str = ""
    """Ed25519, 64 bytes as hex."""

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)


@dataclass(frozen=True, slots=True)
class KeyStart:
    """From here on `key` signs. It signs this line itself, to show that it is held."""

    format: str
    site: str
    service: str
    seq: int
    hash: str
    """With `seq` the log's head at that time."""
    time: int
    key: str
    public: str
    """The key's 32 public bytes as hex."""
    previous: str
    """Id of the key before; "" for none, or when it is not known."""
    why: str
    """One of WHYS."""
    vouched: str
    """By `previous`, over the fields before this one; "" when that key was not there to sign."""
    sig: str = ""


Statement = SignedHead | KeyStart

HEAD_FORMAT = "hftctl-audit-head/1"
KEY_FORMAT = "hftctl-audit-key/1"
_VOUCH_FORMAT = "hftctl-audit-vouch/1"
_KINDS: dict[object, type[SignedHead] | type[KeyStart]] = {HEAD_FORMAT: SignedHead, KEY_FORMAT: KeyStart}


def key_id(public: bytes) -> str:
    """A key's name and fingerprint: SHA-256 of its 32 public bytes."""
    return hashlib.sha256(public).hexdigest()


def message(statement: Statement) -> bytes:
    """What `sig` signs."""
    return _message(statement.format, statement, ("sig",))


def vouch_message(start: KeyStart) -> bytes:
    """What `vouched` signs."""
    return _message(_VOUCH_FORMAT, start, ("vouched", "sig"))


def _message(context: str, statement: Statement, without: tuple[str, ...]) -> bytes:
    fields = {name: value for name, value in dataclasses.asdict(statement).items() if name not in without}
    return context.encode() + b"\n" + canonical_json.encode(fields)


def line(statement: Statement) -> bytes:
    """The canonical line, newline included."""
    return canonical_json.line(dataclasses.asdict(statement))


def parse(text: bytes) -> Statement | None:
    """The statement of one line (with or without its newline), or None when it is not one, canonical to the
    byte. Its signatures are not judged here.
    """
    found = canonical_json.decode(text, LINE_BYTES_MAX)
    if found is None:
        return None
    format = found.get("format")
    kind = _KINDS.get(format) if isinstance(format, str) else None
    if kind is None or tuple(found) != tuple(each.name for each in dataclasses.fields(kind)):
        return None
    if not all(_right(name, value) for name, value in found.items()):
        return None
    statement = kind(**found)
    if isinstance(statement, KeyStart) and key_id(bytes.fromhex(statement.public)) != statement.key:
        return None
    return statement if line(statement) == text.removesuffix(b"\n") + b"\n" else None


def _right(name: str, value: object) -> bool:
    if name in ("seq", "time"):
        return type(value) is int and 0 <= value <= _INT_MAX
    if not isinstance(value, str):
        return False
    if name in _HEX_DIGITS:
        empty = not value and name in _MAY_BE_EMPTY
        return empty or (len(value) == _HEX_DIGITS[name] and not set(value) - set("0123456789abcdef"))
    return name != "why" or value in WHYS
