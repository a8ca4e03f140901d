"""The port's operations in the words of Consul's key-value store, and its answers in the port's. Pure.

What is particular to Consul (tried on 1.19.2):
- A set of the same bytes leaves ModifyIndex where it was, so each write carries a fresh random number in
  Flags: every write is a new revision.
- A plain set of a locked key keeps the session, and the key would die with it. So a put is a delete and a
  set, a leased put a delete and a lock, in one transaction.
- `delete-cas` commits on an absent key; a delete that expects a revision is a check of the index and a
  delete.
- A transaction that only deletes returns no index.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from controlplane.errors import Denied, HftctlError, LeaseLost, Refused, TooLarge
from controlplane.store.base import Committed, Compare, Delete, Entry, Lost, Put

FLAGS_BITS = 63
"""Of a random number; Flags are 64 bits without a sign."""
OPERATIONS_MAX = 128
"""Of one transaction, since 1.14. The port's 64 are at most twice as many here."""


class Pair(msgspec.Struct, rename="pascal", gc=False):
    """One key as Consul shows it. It refers to nothing that could refer to it, and thousands of them must not
    set off the garbage collector at each list.
    """

    key: str
    modify_index: int
    value: bytes | None = None
    session: str = ""


class Listed(msgspec.Struct, rename="pascal", gc=False):
    """The same with its value as it came, for lists of thousands of which mostly one is new."""

    key: str
    modify_index: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    session: str = ""


class _Wrote(msgspec.Struct, rename={"kv": "KV"}):
    kv: Pair


class _Error(msgspec.Struct, rename="pascal"):
    op_index: int
    what: str


class Outcome(msgspec.Struct, rename="pascal"):
    """Of a transaction; one of the two is null."""

    results: list[_Wrote] | None = None
    errors: list[_Error] | None = None


pairs = msgspec.json.Decoder(list[Pair])
listed = msgspec.json.Decoder(list[Listed])
_value = msgspec.json.Decoder(bytes | None)
outcome = msgspec.json.Decoder(Outcome)
_encode = msgspec.json.Encoder().encode


def entries(found: Iterable[Pair]) -> dict[str, Entry]:
    return {
        pair.key: Entry(pair.key, pair.value or b"", pair.modify_index, bool(pair.session)) for pair in found
    }


def changed_since(found: Iterable[Listed], held: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same of a list that follows on another: what has the index that it has in `held` is taken from
    there, since every write moves the index of its key.
    """
    made = {}
    for pair in found:
        entry = held.get(pair.key)
        if entry is None or entry.revision != pair.modify_index:
            value = _value.decode(pair.value) or b""
            entry = Entry(pair.key, value, pair.modify_index, bool(pair.session))
        made[pair.key] = entry
    return made


def transaction(compares: Sequence[Compare], then: Sequence[Put | Delete]) -> bytes:
    """The body of PUT /v1/txn, all compares before the writes."""
    operations: list[dict[str, Any]] = [_check(compare) for compare in compares]
    for operation in then:
        operations.append({"Verb": "delete", "Key": operation.key})
        if isinstance(operation, Put):
            operations.append(_set(operation))
    return _encode([{"KV": operation} for operation in operations])


def _check(compare: Compare) -> dict[str, Any]:
    if not compare.revision:
        return {"Verb": "check-not-exists", "Key": compare.key}
    return {"Verb": "check-index", "Key": compare.key, "Index": compare.revision}


def _set(put: Put) -> dict[str, Any]:
    verb: dict[str, Any] = {"Verb": "set"} if put.lease is None else {"Verb": "lock", "Session": put.lease.id}
    return verb | {"Key": put.key, "Value": put.value, "Flags": secrets.randbits(FLAGS_BITS)}


def committed(done: Outcome) -> Committed:
    """Every key that it wrote has this index."""
    written = [result.kv.modify_index for result in done.results or ()]
    return Committed(max(written)) if written else Committed(None)


def lost(done: Outcome, compares: int) -> Lost | HftctlError:
    """What a refused transaction means: Lost only when every error in it is a check of ours that failed. A
    right that is missing comes in the same dress, and must not look like a lost compare.
    """
    refused = [
        error for error in done.errors or () if not (error.op_index < compares and _failed_check(error))
    ]
    if not refused and done.errors:
        return Lost()
    what = "; ".join(dict.fromkeys(error.what for error in refused)) or "no reason given"
    small = what.lower()
    if "permission denied" in small or "acl not found" in small:
        return Denied(f"store consul: transaction: {what}")
    if "session" in small:
        return LeaseLost(f"store consul: transaction: {what}")
    if "too large" in small or "exceeds" in small:
        return TooLarge(f"store consul: transaction: {what}")
    return Refused(f"store consul: transaction: {what}")


def _failed_check(error: _Error) -> bool:
    small = error.what.lower()
    return "index" in small or "exist" in small
