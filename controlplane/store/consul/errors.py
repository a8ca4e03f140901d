"""What an answer of Consul that is no good one means for the caller. Total: every status has a row, and what
nobody foresaw is an ambiguous Unavailable. Pure; tests/unit/controlplane/test_consul_errors.py has the texts
of Consul's own source.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.errors import Denied, HftctlError, InvalidInput, LeaseLost, Refused, TooLarge, Unavailable

TEXT_MAX = 300
"""Characters of what the server said, in the message."""


@dataclass(frozen=True, slots=True)
class Verdict:
    error: type[HftctlError]
    applied: bool = False
    """Unavailable only: the request may have been applied, so a write must not be repeated blindly."""
    retry_after_s: float | None = None


NOT_APPLIED = Verdict(Unavailable)
MAYBE_APPLIED = Verdict(Unavailable, applied=True)

STATUSES: dict[int, Verdict] = {
    400: Verdict(InvalidInput),
    401: Verdict(Denied),
    403: Verdict(Denied),
    404: Verdict(Refused),
    405: Verdict(Refused),
    409: Verdict(Refused),
    413: Verdict(TooLarge),
    # Refused by a limit before it is handled (limits.http_max_conns_per_client, rate limiting).
    429: Verdict(Unavailable, retry_after_s=0.5),
}

TEXTS: tuple[tuple[str, Verdict], ...] = (
    # (part of the text in small letters, verdict), for a status of 500 and above; the first match holds
    ("acl not found", Verdict(Denied)),
    ("permission denied", Verdict(Denied)),
    ("invalid session ttl", Verdict(InvalidInput)),
    ("invalid session", Verdict(LeaseLost)),
    # Said by a server that has found no leader to send it to.
    ("no cluster leader", NOT_APPLIED),
    ("no known consul servers", NOT_APPLIED),
    ("rate limit exceeded", Verdict(Unavailable, retry_after_s=0.5)),
)


def classify(status: int, text: str) -> Verdict:
    if status in STATUSES:
        return STATUSES[status]
    small = text.lower()
    for part, verdict in TEXTS:
        if part in small:
            return verdict
    return MAYBE_APPLIED


def translate(verdict: Verdict, what: str, status: int, text: str, *, writes: bool) -> HftctlError:
    """The error to raise. `what` names subject and call; only a write can be ambiguous."""
    message = f"{what}: {text[:TEXT_MAX] or 'no reason given'} (HTTP {status})"
    if verdict.error is Unavailable:
        return Unavailable(message, ambiguous=writes and verdict.applied, retry_after_s=verdict.retry_after_s)
    return verdict.error(message)
