"""What a listener remembers, how much of it, and when h11 is asked after all. That no answer changes by it is
tests/integration/test_http_repeats.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest

from controlplane.http.framing import Framing
from controlplane.http.repeats import HEAD_BYTES_MAX, HEADS_KEPT, Head, Repeats

HEADERS = [(b"content-length", b"2"), (b"content-type", b"text/plain; charset=utf-8")]


def get(target: str = "/health", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What h11 is given."""
    given: list[bytes] = []
    receive = h11.Connection.receive_data

    def noted(self: h11.Connection, data: bytes) -> None:
        given.append(data)
        receive(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", noted)
    yield given


def ask(
    framing: Framing, *pieces: bytes, status: int = 200, body: bytes = b"OK"
) -> tuple[Head | None, bytes]:
    """The remembered request, if it is one, and the response."""
    known = framing.known(pieces[0])
    if known is None:
        for piece in pieces:
            framing.receive(piece)
            while framing.event() not in (h11.NEED_DATA, h11.PAUSED):
                if framing._h11.their_state is h11.DONE:
                    break
    headers = [(b"content-length", b"%d" % len(body)), *HEADERS[1:]]
    said = framing.start(status, headers) + framing.part(body, last=True)
    assert framing.end()
    return known, said


def framing(repeats: Repeats) -> Framing:
    return Framing(1 << 14, repeats)


def test_a_request_and_a_response_that_come_again_are_not_parsed(parsed: list[bytes]) -> None:
    repeats = Repeats()
    _, first = ask(framing(repeats), get())
    assert parsed == [get()]
    other = framing(repeats)
    for _ in range(3):
        known, again = ask(other, get())
        assert known == Head("GET", "1.1", "/health", b"/health", b"", ((b"host", b"localhost"),))
        assert again == first
    assert parsed == [get()]


def test_an_answer_of_another_length_is_not_parsed_either_and_has_its_own(parsed: list[bytes]) -> None:
    one = framing(Repeats())
    ask(one, get())
    assert b"content-length: 11\r\n" in ask(one, get(), body=b"eleven long")[1]
    assert parsed == [get()]


def test_h11_hears_of_a_remembered_request_when_its_answer_begins_as_none_before(parsed: list[bytes]) -> None:
    one = framing(Repeats())
    ask(one, get())
    assert ask(one, get(), status=503)[1].startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert parsed == [get(), get()]
    ask(one, get(), status=503)
    assert parsed == [get(), get()]


@pytest.mark.parametrize(
    "pieces",
    [
        (get()[:20], get()[20:]),
        (get(more="Content-Length: 2\r\n") + b"ab",),
        (get(more="Transfer-Encoding: chunked\r\n") + b"1\r\na\r\n0\r\n\r\n",),
        (get().replace(b"GET", b"POST"),),
        (get(more=f"X: {'y' * HEAD_BYTES_MAX}\r\n"),),
    ],
)
def test_what_is_not_a_whole_short_question_is_not_remembered(pieces: tuple[bytes, ...]) -> None:
    one = framing(Repeats())
    for _ in range(2):
        assert ask(one, *pieces)[0] is None
    for received in (b"".join(pieces), *pieces):
        assert one.known(received) is None


def test_requests_that_came_together_are_not_remembered() -> None:
    one = framing(Repeats())
    one.receive(get() + get("/live"))
    for _ in range(2):
        assert one.known(b"") is None
        assert isinstance(one.event(), h11.Request) and one.event().__class__ is h11.EndOfMessage
        one.start(200, HEADERS)
        one.part(b"OK", last=True)
        assert one.end()
    for received in (get() + get("/live"), get(), get("/live")):
        assert one.known(received) is None


def test_the_rest_of_a_request_that_began_with_the_one_before_is_not_remembered() -> None:
    one = framing(Repeats())
    half, rest = get("/live")[:20], get("/live")[20:]
    one.receive(get() + half)
    for received in (b"", rest):
        if received:
            one.receive(received)
        assert isinstance(one.event(), h11.Request) and one.event().__class__ is h11.EndOfMessage
        one.start(200, HEADERS)
        one.part(b"OK", last=True)
        assert one.end()
    assert one.known(rest) is None and one.known(get("/live")) is None


def test_a_client_that_sends_ever_new_requests_takes_no_more_than_a_few_heads() -> None:
    """The oldest go; what is asked again is remembered again."""
    repeats = Repeats()
    one = framing(repeats)
    for number in range(10 * HEADS_KEPT):
        ask(one, get(f"/{number}"), status=200 + number)
    assert repr(repeats) == f"<Repeats: {HEADS_KEPT} requests, {HEADS_KEPT} responses>"
    assert ask(one, get("/0"))[0] is None
    assert ask(one, get("/0"))[0] is not None
    assert repr(repeats) == f"<Repeats: {HEADS_KEPT} requests, {HEADS_KEPT} responses>"


def test_a_response_with_a_large_head_is_not_remembered() -> None:
    one = framing(repeats := Repeats())
    one.receive(get())
    while one.event().__class__ is not h11.EndOfMessage:
        pass
    one.start(200, [*HEADERS, (b"x", b"y" * HEAD_BYTES_MAX)])
    one.part(b"OK", last=True)
    assert one.end()
    assert repr(repeats) == "<Repeats: 1 requests, 0 responses>"


def test_listeners_share_nothing_and_none_is_kept_when_told() -> None:
    ask(framing(Repeats()), get())
    assert framing(Repeats()).known(get()) is None
    one = framing(Repeats(0))
    assert [ask(one, get())[0] for _ in range(2)] == [None, None]
