"""What an error of etcd means for the caller. Total: every gRPC code has a row, and what nobody foresaw is an
ambiguous Unavailable.

By code first, then by text, because etcd gives one code to many things (the text is compared in small
letters). Pure and without grpc: tests/unit/controlplane/test_etcd_errors.py lists the codes and the texts of
etcd's own source.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.errors import (
    Compacted,
    Denied,
    HftctlError,
    InvalidInput,
    LeaseLost,
    Refused,
    TooLarge,
    Unavailable,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    error: type[HftctlError]
    applied: bool = False
    """Unavailable only: the request may have been applied, so a write must not be repeated blindly."""
    authenticate: bool = False
    """Worth one new authentication and one more try: nothing was applied."""
    retry_after_s: float | None = None


NOT_APPLIED = Verdict(Unavailable)
MAYBE_APPLIED = Verdict(Unavailable, applied=True)
STALE_TOKEN = Verdict(Denied, authenticate=True)

CODES: dict[str, Verdict] = {
    "CANCELLED": MAYBE_APPLIED,
    # "etcdserver: not a primary lessor" and "context deadline exceeded" come as UNKNOWN: the proposal may be
    # in the log.
    "UNKNOWN": MAYBE_APPLIED,
    "INVALID_ARGUMENT": Verdict(InvalidInput),
    "DEADLINE_EXCEEDED": MAYBE_APPLIED,
    "NOT_FOUND": Verdict(Refused),
    "ALREADY_EXISTS": Verdict(Refused),
    "PERMISSION_DENIED": Verdict(Denied),
    "RESOURCE_EXHAUSTED": MAYBE_APPLIED,
    "FAILED_PRECONDITION": Verdict(Refused),
    "ABORTED": MAYBE_APPLIED,
    "OUT_OF_RANGE": Verdict(Compacted),
    "UNIMPLEMENTED": Verdict(Refused),
    "INTERNAL": MAYBE_APPLIED,
    "UNAVAILABLE": MAYBE_APPLIED,
    "DATA_LOSS": MAYBE_APPLIED,
    "UNAUTHENTICATED": STALE_TOKEN,
}

TEXTS: tuple[tuple[str, str, Verdict], ...] = (
    # (code, part of the text in small letters, verdict); the first match holds
    ("UNAVAILABLE", "failed to connect", NOT_APPLIED),
    ("UNAVAILABLE", "connections to all backends failing", NOT_APPLIED),
    ("UNAVAILABLE", "name resolution", NOT_APPLIED),
    ("UNAVAILABLE", "dns resolution failed", NOT_APPLIED),
    # Refused by the interceptor that looks for a leader, before the request is handled.
    ("UNAVAILABLE", "etcdserver: no leader", NOT_APPLIED),
    ("UNAVAILABLE", "etcdserver: not capable", NOT_APPLIED),
    ("UNKNOWN", "etcdserver: no leader", NOT_APPLIED),
    ("NOT_FOUND", "requested lease not found", Verdict(LeaseLost)),
    ("INVALID_ARGUMENT", "request is too large", Verdict(TooLarge)),
    ("INVALID_ARGUMENT", "too many operations", Verdict(TooLarge)),
    ("INVALID_ARGUMENT", "authentication failed", Verdict(Denied)),
    ("INVALID_ARGUMENT", "user name is empty", STALE_TOKEN),
    ("INVALID_ARGUMENT", "revision of auth store is old", STALE_TOKEN),
    ("OUT_OF_RANGE", "too large lease ttl", Verdict(TooLarge)),
    # A member that applies an entry after the alarm answers so as well, and by then others have applied it.
    ("RESOURCE_EXHAUSTED", "database space exceeded", Verdict(Unavailable, applied=True, retry_after_s=5.0)),
    ("RESOURCE_EXHAUSTED", "too many requests", Verdict(Unavailable, retry_after_s=0.5)),
    ("RESOURCE_EXHAUSTED", "received message larger than max", Verdict(TooLarge)),
    ("RESOURCE_EXHAUSTED", "sent message larger than max", Verdict(TooLarge)),
    ("RESOURCE_EXHAUSTED", "trying to send message larger than max", Verdict(TooLarge)),
)


def classify(code: str, text: str) -> Verdict:
    """The verdict on a gRPC status. `code` is its name, such as "UNAVAILABLE"; an unknown one counts as maybe
    applied.
    """
    small = text.lower()
    for row_code, part, verdict in TEXTS:
        if row_code == code and part in small:
            return verdict
    return CODES.get(code, MAYBE_APPLIED)


def translate(verdict: Verdict, what: str, code: str, text: str, *, writes: bool) -> HftctlError:
    """The error to raise. `what` names subject and call; only a write can be ambiguous."""
    message = f"{what}: {text.strip() or 'no reason given'} ({code})"
    if verdict.error is Unavailable:
        return Unavailable(message, ambiguous=writes and verdict.applied, retry_after_s=verdict.retry_after_s)
    return verdict.error(message)
