"""The audit log's chain: each record holds the hash of the one before it, so that no record can be changed,
removed or moved unseen.

    hash = sha256(hash of the record before, as hex + the record's canonical bytes without `hash`)

A record is one line of JSON whose bytes are canonical: keys in the order of `FIELDS`, no spaces, ASCII, the
keys of `details` sorted. A line that says the same in other bytes is a changed line. The chain cannot see
that its tail was cut; the head, kept elsewhere, can (storage/audit_verify.py). Pure. Who writes the lines:
storage/audit_log.py; who sends them: daemons/omsd/receivers.py, over wire/orders.AuditRecord.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from hftd.engine import canonical_json

GENESIS = "0" * 64
"""The `prev` of the first record."""

LINE_BYTES_MAX = 1 << 20
"""As much as a message on the wire may hold; a longer line is not a record."""

FIELDS = (
    "seq",
    "prev",
    "hash",
    "timestamp",
    "action",
    "user",
    "incarnation",
    "group",
    "epoch",
    "audit_seq",
    "details",
)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record: what a copy outside the log must remember to see a cut tail."""

    seq: int
    hash: str


START = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class ChainRecord:
    seq: int
    """From 1, without a hole, over all files of the log."""
    prev: str
    hash: str
    timestamp: int
    """UNIX ns at which it happened, by the sender's clock."""
    action: str
    user: str
    incarnation: int
    group: str
    """With `incarnation` and `epoch` the sender's token; "" for auditd's own records."""
    epoch: int
    audit_seq: int
    """The sender's count within its epoch; (incarnation, group, epoch, audit_seq) is written once."""
    details: Mapping[str, str | int]

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)

    @property
    def sender(self) -> tuple[int, str, int]:
        return (self.incarnation, self.group, self.epoch)


def _content(record: ChainRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        name: getattr(record, name) for name in FIELDS if name not in ("hash", "details")
    }
    fields["details"] = dict(sorted(record.details.items()))
    return fields


def digest(record: ChainRecord) -> str:
    """What `record.hash` must be, from everything else that it holds."""
    return hashlib.sha256(record.prev.encode() + canonical_json.encode(_content(record))).hexdigest()


def line(record: ChainRecord) -> bytes:
    """The canonical line, newline included."""
    content = _content(record)
    ordered = {"seq": content.pop("seq"), "prev": content.pop("prev"), "hash": record.hash, **content}
    return canonical_json.line(ordered)


def append(
    head: Head,
    *,
    timestamp: int,
    action: str,
    user: str,
    sender: tuple[int, str, int] = (0, "", 0),
    audit_seq: int = 0,
    details: Mapping[str, str | int],
) -> ChainRecord:
    """The record that follows `head`."""
    incarnation, group, epoch = sender
    open_ended = ChainRecord(
        head.seq + 1, head.hash, "", timestamp, action, user, incarnation, group, epoch, audit_seq, details
    )
    return ChainRecord(
        head.seq + 1,
        head.hash,
        digest(open_ended),
        timestamp,
        action,
        user,
        incarnation,
        group,
        epoch,
        audit_seq,
        details,
    )


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def parse(text: bytes) -> ChainRecord | None:
    """The record of one line (with or without its newline), or None when it is not one, canonical to the
    byte. Its hash is not judged here.
    """
    found = canonical_json.decode(text, LINE_BYTES_MAX)
    if found is None or tuple(found) != FIELDS:
        return None
    details = found["details"]
    right = (
        all(_is(found[name], int) for name in ("seq", "timestamp", "incarnation", "epoch", "audit_seq"))
        and all(_is(found[name], str) for name in ("prev", "hash", "action", "user", "group"))
        and isinstance(details, dict)
        and all(_is(value, str) or _is(value, int) for value in details.values())
    )
    if not right:
        return None
    record = ChainRecord(**found)
    return record if line(record) == text.removesuffix(b"\n") + b"\n" else None
