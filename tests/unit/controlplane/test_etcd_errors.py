"""The mapping of etcd's errors is total, and it never calls a write unapplied that may have been applied."""

from __future__ import annotations

import grpc
import pytest

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
from controlplane.store.etcd import errors

# From etcd's api/v3rpc/rpctypes/error.go and from servers that were asked: (code, text, error, ambiguous for
# a write).
KNOWN: list[tuple[str, str, type[HftctlError], bool]] = [
    ("INVALID_ARGUMENT", "etcdserver: key is not provided", InvalidInput, False),
    ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request", InvalidInput, False),
    ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", TooLarge, False),
    ("INVALID_ARGUMENT", "etcdserver: request is too large", TooLarge, False),
    ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", Denied, False),
    ("INVALID_ARGUMENT", "etcdserver: user name is empty", Denied, False),
    ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Denied, False),
    ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Compacted, False),
    ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision", Compacted, False),
    ("OUT_OF_RANGE", "etcdserver: too large lease TTL", TooLarge, False),
    ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Unavailable, True),
    ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Unavailable, False),
    ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5000000 vs. 4194304)", TooLarge, False),
    ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (70000000 vs. 67108864)", TooLarge, False),
    ("NOT_FOUND", "etcdserver: requested lease not found", LeaseLost, False),
    ("NOT_FOUND", "etcdserver: member not found", Refused, False),
    ("FAILED_PRECONDITION", "etcdserver: lease already exists", Refused, False),
    ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled", Refused, False),
    ("PERMISSION_DENIED", "etcdserver: permission denied", Denied, False),
    ("UNAUTHENTICATED", "etcdserver: invalid auth token", Denied, False),
    ("UNAVAILABLE", "etcdserver: no leader", Unavailable, False),
    (
        "UNAVAILABLE",
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
        Unavailable,
        False,
    ),
    ("UNAVAILABLE", "etcdserver: leader changed", Unavailable, True),
    ("UNAVAILABLE", "etcdserver: request timed out", Unavailable, True),
    (
        "UNAVAILABLE",
        "etcdserver: request timed out, possibly due to previous leader failure",
        Unavailable,
        True,
    ),
    ("UNAVAILABLE", "etcdserver: request timed out, possibly due to connection lost", Unavailable, True),
    ("UNAVAILABLE", "etcdserver: server stopped", Unavailable, True),
    ("UNAVAILABLE", "Socket closed", Unavailable, True),
    ("UNAVAILABLE", "recvmsg:Connection reset by peer", Unavailable, True),
    ("UNKNOWN", "etcdserver: not a primary lessor", Unavailable, True),
    ("UNKNOWN", "context deadline exceeded", Unavailable, True),
    ("UNKNOWN", "Stream removed", Unavailable, True),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", Unavailable, True),
    ("INTERNAL", "Received RST_STREAM with error code 2", Unavailable, True),
    ("DATA_LOSS", "etcdserver: corrupt cluster", Unavailable, True),
    ("CANCELLED", "Locally cancelled by application!", Unavailable, True),
    ("ABORTED", "", Unavailable, True),
    ("ALREADY_EXISTS", "", Refused, False),
    ("UNIMPLEMENTED", "unknown service", Refused, False),
]


@pytest.mark.parametrize(("code", "text", "error", "ambiguous"), KNOWN)
def test_each_known_error_says_what_the_caller_can_do(
    code: str, text: str, error: type[HftctlError], ambiguous: bool
) -> None:
    verdict = errors.classify(code, text)
    translated = errors.translate(verdict, "store etcd 127.0.0.1:1: Put", code, text, writes=True)
    assert type(translated) is error
    assert getattr(translated, "ambiguous", False) is ambiguous
    assert code in str(translated) and "127.0.0.1:1: Put" in str(translated)


def test_every_code_of_grpc_has_a_verdict() -> None:
    assert {code.name for code in grpc.StatusCode} - {"OK"} == set(errors.CODES)


@pytest.mark.parametrize("code", [*errors.CODES, "A_CODE_OF_NEXT_YEAR"])
def test_a_text_that_nobody_foresaw_is_still_one_of_our_errors(code: str) -> None:
    error = errors.translate(errors.classify(code, "surprise"), "Put", code, "surprise", writes=True)
    assert isinstance(error, HftctlError)


def test_an_unknown_code_counts_as_maybe_applied() -> None:
    assert errors.classify("A_CODE_OF_NEXT_YEAR", "").applied


def test_a_read_is_never_ambiguous() -> None:
    for code in errors.CODES:
        error = errors.translate(errors.classify(code, ""), "Range", code, "", writes=False)
        assert not getattr(error, "ambiguous", False)


def test_only_errors_of_a_stale_token_are_worth_a_new_authentication() -> None:
    worth = {text for code, text, _, _ in KNOWN if errors.classify(code, text).authenticate}
    assert worth == {
        "etcdserver: invalid auth token",
        "etcdserver: user name is empty",
        "etcdserver: revision of auth store is old",
    }
