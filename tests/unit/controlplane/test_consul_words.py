"""The Consul back end's pure parts: transactions in its words, and what its answers mean."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import msgspec
import pytest

from controlplane.errors import Denied, HftctlError, InvalidInput, LeaseLost, Refused, TooLarge, Unavailable
from controlplane.store import Committed, Compare, Delete, Lost, Put
from controlplane.store.consul import calls, errors, http, kv, sessions, versions


@dataclass
class Session:
    """Of a lease, its id is all that a put needs."""

    id: str


def words(body: bytes) -> list[tuple[str, str]]:
    return [(each["KV"]["Verb"], each["KV"]["Key"]) for each in json.loads(body)]


def test_all_compares_come_before_the_writes_and_each_put_takes_the_key_from_its_old_session() -> None:
    leased = Put("c", b"3", Session("s1"))  # type: ignore[arg-type]
    body = kv.transaction([Compare("a", 0), Compare("b", 7)], [Put("a", b"\x00"), Delete("b"), leased])
    assert words(body) == [
        ("check-not-exists", "a"),
        ("check-index", "b"),
        ("delete", "a"),
        ("set", "a"),
        ("delete", "b"),
        ("delete", "c"),
        ("lock", "c"),
    ]
    said = [each["KV"] for each in json.loads(body)]
    assert said[1]["Index"] == 7 and said[6]["Session"] == "s1" and "Session" not in said[3]
    assert base64.b64decode(said[3]["Value"]) == b"\x00"


def test_two_puts_of_the_same_bytes_are_two_writes() -> None:
    flags = {json.loads(kv.transaction([], [Put("a", b"1")]))[1]["KV"]["Flags"] for _ in range(50)}
    assert len(flags) == 50 and all(0 <= each < 1 << 63 for each in flags)


def test_sixty_four_of_the_ports_operations_fit_into_one_transaction_of_consuls() -> None:
    body = kv.transaction([], [Put(f"{n}", b"x") for n in range(64)])
    assert len(words(body)) <= kv.OPERATIONS_MAX


def refused(*told: tuple[int, str]) -> kv.Outcome:
    said = {"Results": None, "Errors": [{"OpIndex": index, "What": what} for index, what in told]}
    return kv.outcome.decode(json.dumps(said).encode())


STALE = 'failed index check for key "a", current modify index 12 != 7'
GONE = 'failed to check index, key "a" doesn\'t exist'
THERE = 'key "a" exists'


@pytest.mark.parametrize("what", [STALE, GONE, THERE])
def test_a_check_of_ours_that_failed_is_lost(what: str) -> None:
    assert kv.lost(refused((0, what)), 1) == Lost()
    assert kv.lost(refused((0, what), (1, THERE)), 2) == Lost()


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ([(0, "Permission denied: token with AccessorID 'x' lacks permission 'key:write' on \"a\"")], Denied),
        ([(0, STALE), (1, "Permission denied")], Denied),
        ([(1, "ACL not found")], Denied),
        ([(1, 'invalid session "s1"')], LeaseLost),
        ([(1, 'failed to lock key "a", lock is already held')], Refused),
        ([(1, STALE)], Refused),
        ([], Refused),
    ],
)
def test_anything_else_is_what_it_says_and_never_a_lost_compare(
    told: list[tuple[int, str]], error: type[HftctlError]
) -> None:
    found = kv.lost(refused(*told), 1)
    assert type(found) is error


def test_what_was_put_has_the_index_that_consul_names_and_a_delete_alone_has_none() -> None:
    done = kv.outcome.decode(b'{"Results":[{"KV":{"Key":"a","ModifyIndex":42,"Value":null}}],"Errors":null}')
    assert kv.committed(done) == Committed(42)
    assert kv.committed(kv.outcome.decode(b'{"Results":[],"Errors":null}')) == Committed(None)


@pytest.mark.parametrize(
    ("status", "text", "error", "ambiguous"),
    [
        (500, "No cluster leader", Unavailable, False),
        (500, "rpc error making call: No cluster leader", Unavailable, False),
        (500, "No known Consul servers", Unavailable, False),
        (500, "leadership lost while committing log", Unavailable, True),
        (500, "rpc error making call: EOF", Unavailable, True),
        (500, "rpc error making call: Permission denied", Denied, False),
        (500, "Invalid Session TTL '200000000', must be between [10s=24h0m0s]", InvalidInput, False),
        (500, 'invalid session "x"', LeaseLost, False),
        (503, "", Unavailable, True),
        (418, "what?", Unavailable, True),
        (429, "Your IP is issuing too many concurrent connections", Unavailable, False),
        (403, "ACL not found", Denied, False),
        (413, "Request body too large", TooLarge, False),
        (400, "Bad request", InvalidInput, False),
    ],
)
def test_every_answer_means_something_for_the_caller(
    status: int, text: str, error: type[HftctlError], ambiguous: bool
) -> None:
    verdict = errors.classify(status, text)
    found = errors.translate(verdict, "store consul x: PUT txn", status, text, writes=True)
    assert type(found) is error and getattr(found, "ambiguous", False) is ambiguous
    assert "store consul x: PUT txn" in str(found) and f"HTTP {status}" in str(found)
    reading = errors.translate(verdict, "x", status, text * 1000, writes=False)
    assert not getattr(reading, "ambiguous", False) and len(str(reading)) < errors.TEXT_MAX + 100


def test_a_target_quotes_any_key_and_tells_flags_from_values() -> None:
    assert calls.target("kv/hft/a b/ü?&", {"recurse": "", "index": "7"}) == (
        "/v1/kv/hft/a%20b/%C3%BC%3F%26?recurse&index=7"
    )
    assert calls.target("status/leader") == "/v1/status/leader"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10.0), ("1m30s", 90.0), ("24h0m0s", 86400.0), ("1.5s", 1.5), ("200ms", 0.2)]
)
def test_a_duration_of_go_is_read(text: str, seconds: float) -> None:
    assert sessions.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "10", "10s!", "ten seconds", "-5s"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="wanted one like 10s"):
        sessions.seconds(text)


def test_of_a_list_that_follows_on_another_only_what_was_written_is_new() -> None:
    def listed(*pairs: tuple[str, int, str]) -> list[kv.Listed]:
        shown = [
            {"Key": key, "ModifyIndex": index, "Value": value, "Flags": 7} for key, index, value in pairs
        ]
        return kv.listed.decode(json.dumps(shown))

    before = kv.changed_since(listed(("a", 1, "eA=="), ("b", 2, "eQ=="), ("c", 3, "eg==")), {})
    assert {key: (entry.value, entry.revision) for key, entry in before.items()} == {
        "a": (b"x", 1),
        "b": (b"y", 2),
        "c": (b"z", 3),
    }
    after = kv.changed_since(listed(("a", 1, "eA=="), ("b", 4, "eQ=="), ("d", 5, "eg==")), before)
    assert after["a"] is before["a"] and set(after) == {"a", "b", "d"}
    assert (after["b"].value, after["b"].revision, after["d"].value) == (b"y", 4, b"z")
    null = kv.changed_since(kv.listed.decode(b'[{"Key": "e", "ModifyIndex": 1, "Value": null}]'), {})
    assert null["e"].value == b"", "Consul's way to say empty"


def test_a_value_that_is_no_base64_is_an_error_of_decoding_and_not_an_empty_value() -> None:
    with pytest.raises(msgspec.DecodeError):
        kv.changed_since(kv.listed.decode(b'[{"Key": "a", "ModifyIndex": 1, "Value": "?"}]'), {})


@pytest.mark.parametrize(
    ("version", "fit"),
    [("1.8.7", False), ("1.13.9", False), ("1.14.0", True), ("1.19.2", True), ("2.0.0", True), ("", True)],
)
def test_a_server_below_the_least_version_is_too_old_and_one_that_does_not_say_is_let_in(
    version: str, fit: bool
) -> None:
    assert (versions.fault(version) == "") == fit


def test_not_found_without_an_index_is_no_answer_of_consul() -> None:
    """Any web server says that; Consul says its index with it."""
    server = http.Server("127.0.0.1:8500", None)
    calls.require_consul(server, "GET", "kv/hft/a", http.Answer(404, {"x-consul-index": "7"}, b""))
    calls.require_consul(server, "PUT", "session/renew/x", http.Answer(404, {}, b""))
    with pytest.raises(Unavailable, match="is not Consul; look at the address"):
        calls.require_consul(server, "GET", "kv/hft/a", http.Answer(404, {}, b"404 page not found"))
