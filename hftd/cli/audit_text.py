"""`audit verify` in plain words and as data: what was found, and what that is worth."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hftd.engine.audit_statement import SignedHead
from hftd.storage.audit_assurance import Assurance

BESIDE = "the key found beside the log, which whoever can write there could have replaced"


def time_of(signed: SignedHead) -> str:
    return datetime.fromtimestamp(signed.time / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def lines(found: Assurance, keys: list[Path]) -> list[str]:
    """The sentences under the first one."""
    said = [_signed(found, keys)]
    said += [_begun(each.start.key, each.start.previous, each.start.seq, each.start.why, each.vouched)
             for each in found.signatures.keys if each.start.why not in ("first", "again")]  # fmt: skip
    signed = found.signed
    if signed is not None and not found.findings:
        if not found.signatures.given:
            said.append("copy audit.pub off the host and give it by --key: then a forged log is refused")
        said.append(
            f"keep {signed.seq}:{signed.hash} elsewhere: --at-least shows later whether the log still has it"
        )
    return said


def _signed(found: Assurance, keys: list[Path]) -> str:
    signed = found.signed
    if signed is None:
        why = "no trusted signature" if found.signatures.given else "no signature beside it"
        return (
            f"not signed: {why}, so all {found.last.seq} records rest on the unkeyed chain: whoever can "
            "write log and head could have forged both"
        )
    against = ", ".join(map(str, keys)) if found.signatures.given else BESIDE
    return (
        f"signed by key {signed.key} (site {signed.site}, service {signed.service}) up to record "
        f"{signed.seq} at {time_of(signed)}; {found.younger} younger records rest on the unkeyed chain; "
        f"checked with {against}"
    )


def _begun(key: str, previous: str, seq: int, why: str, vouched: bool) -> str:
    before = f"key {previous} " if previous else "the key before "
    word = "vouches for it" if vouched else "does not vouch for it"
    return f"key {key} signs from record {seq} on ({why}); {before}{word}"


def plain(found: Assurance) -> dict[str, Any]:
    """`signatures` of `-o json`."""
    signed, file = found.signed, found.signatures
    return {
        "checked_with": "given" if file.given else "beside",
        "signed": None
        if signed is None
        else {
            "seq": signed.seq,
            "hash": signed.hash,
            "time": time_of(signed),
            "key": signed.key,
            "site": signed.site,
            "service": signed.service,
        },
        "younger": found.younger,
        "heads": len(file.heads),
        "heads_not_checked": file.older,
        "by_other_keys": file.strangers,
        "keys": [
            {
                "key": each.start.key,
                "from_seq": each.start.seq,
                "why": each.start.why,
                "previous": each.start.previous or None,
                "vouched": each.vouched,
            }
            for each in file.keys
        ],
    }
