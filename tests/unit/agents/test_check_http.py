"""Answers to an HTTP check, whole, in pieces and as rubbish: read the same way however they come."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from agents.checks import http
from controlplane.model.checks import HttpCheck

CHECK = HttpCheck(name="web", url="http://x/")
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
Read = tuple[int, str, bytes] | str


def read(parts: list[bytes], closed: bool = True) -> Read | None:
    """The answer, why it is none, or None while more is waited for."""

    async def run() -> Read | None:
        exchange = http._Exchange(head_only=False)
        for part in parts:
            exchange.data_received(part)
        if closed:
            exchange.connection_lost(None)
        if not exchange.answer.done():
            return None
        try:
            return await exchange.answer
        except http.NotHttp as exc:
            return str(exc)

    return asyncio.run(run())


def split(whole: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(whole) + 1) for cut in cuts} | {0, len(whole)})
    return [whole[a:b] for a, b in pairwise(places)]


@given(
    st.sampled_from([GOOD, CHUNKED, GOOD.replace(b"Content-Length: 5\r\n", b"")]),
    st.lists(st.integers(0, 999)),
)
def test_an_answer_in_pieces_is_the_same_answer(whole: bytes, cuts: list[int]) -> None:
    assert read(split(whole, cuts)) == (200, "OK", b"hello")


@given(st.lists(st.integers(0, 999)), st.binary(max_size=200), st.integers(0, 60))
def test_an_answer_that_is_damaged_is_an_answer_or_refused_in_words(
    cuts: list[int], rubbish: bytes, at: int
) -> None:
    for whole in (GOOD, CHUNKED):
        damaged = whole[:at] + rubbish + whole[at:]
        found = read(split(damaged, cuts))
        assert found is not None and (isinstance(found, str) or 200 <= found[0] <= 599)


@given(st.binary(max_size=3000))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nx")
@example(b"HTTP/1.1 200\r\n\r\n")
def test_any_bytes_are_an_answer_or_refused_and_never_a_fault_of_ours(answer: bytes) -> None:
    found = read([answer])
    assert found is not None


def test_what_has_no_end_is_refused_or_cut_while_it_comes() -> None:
    endless = read([b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n" * 1000] * 3], closed=False)
    assert isinstance(endless, str) and "does not end" in endless
    body = read([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 30_000] * 3], closed=False)
    assert isinstance(body, tuple) and len(body[2]) == http.BODY_BYTES_MAX
    assert read([b"x" * 5], closed=False) == "the answer is not HTTP: 'xxxxx'"
    assert read([b"HTT"], closed=False) is None


def test_a_status_is_judged_by_the_terms_of_the_check() -> None:
    for status, state in (
        (200, "passing"),
        (299, "passing"),
        (301, "critical"),
        (404, "critical"),
        (429, "warning"),
    ):
        assert http.judge(CHECK, status, "", "", b"").state == state
    strict = HttpCheck(name="web", url="http://x/", contains="ok", warning_statuses=(500,))
    assert http.judge(strict, 500, "", "", b"not").state == "critical", "the body is wanted of a warning, too"
    assert http.judge(strict, 500, "", "", b"ok").state == "warning"
