"""Between bytes and the requests and responses of one connection: h11, which is spared what the listener has
seen before (repeats.py).

Checks, load balancers and scrapers send the same bytes every time. A request is remembered when it came
whole, alone and in one piece, is a question without a body, and h11 would have the connection used again
after it; the head of its response when the length was in it. When the same bytes come again, h11 sees
neither. If the response then begins as none before, or is not as long as it says, h11 is given the request
after all: whatever is not a plain repetition goes through it.
"""

from __future__ import annotations

import email.utils
import time
from http import HTTPStatus

import h11

from controlplane.http.repeats import Frame, Head, Headers, Repeats, Start

QUESTIONS = frozenset({"GET", "HEAD"})
_BODILESS = (204, 304)
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Framing:
    def __init__(self, header_bytes_max: int, remembered: Repeats) -> None:
        self._h11 = h11.Connection(h11.SERVER, header_bytes_max)
        self._repeats = remembered
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        self._request: h11.Request | None = None
        self._alone: bytes | None = b"" if self.pending else None
        """All that came of this request; None: nothing yet; empty: it is not one to remember."""
        self._spared = False
        """Whether h11 has yet to see `_alone`."""
        self._for_head = False
        """Whether the response has no body, as the request is a HEAD."""
        self._start: Start | None = None
        self._frame: Frame | None = None
        """Of a response that has begun like one before, and waits for its body."""
        self._written = b""
        """The head of the response, by h11."""

    # --- requests -------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether part of the next request came together with the last one."""
        return bool(self._h11.trailing_data[0])

    def known(self, received: bytes) -> Head | None:
        """The request that these bytes were before. Only for the first of a request, with none `pending`."""
        if (found := self._repeats.request(received)) is not None:
            self._alone, self._spared = received, True
            self._for_head = found.method == "HEAD"
        return found

    def receive(self, received: bytes) -> None:
        self._alone = received if self._alone is None else b""
        self._h11.receive_data(received)

    def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises h11.RemoteProtocolError."""
        event = self._h11.next_event()
        if isinstance(event, h11.Request):
            self._request = event
            self._for_head = event.method == b"HEAD"
        elif isinstance(event, h11.Data):
            self._alone = b""
        return event

    def go_on(self) -> bytes:
        """What a client is told that waits for it before it sends its body; empty when it does not wait."""
        if not self._h11.they_are_waiting_for_100_continue:
            return b""
        self._alone = b""
        return self._sent(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    # --- responses ------------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> bool:
        """Whether no response has begun, so that a refusal can still be one."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def start(self, http_status: int, headers: Headers) -> bytes:
        """The head; empty when it leaves with the first part of the body.

        Raises:
            h11.LocalProtocolError: it is not the head of a response.
        """
        self._start = start = Start.of(http_status, headers)
        if self._spared and start.length:
            self._frame = self._repeats.frame(start.key)
        return self._head(start) if self._frame is None else b""

    def _head(self, start: Start) -> bytes:
        if self._spared:
            self._spared = False
            self._h11.receive_data(self._alone or b"")
            for event in iter(self.event, h11.NEED_DATA):
                if type(event) is h11.EndOfMessage:
                    break
        self._written = self._sent(
            h11.Response(
                status_code=start.http_status,
                headers=[*start.headers, (b"Date", _date())],
                reason=_REASONS.get(start.http_status, b""),
            )
        )
        return self._written

    def part(self, body: bytes, last: bool) -> bytes:
        """After `start`. A response to HEAD, and others that have no body, are given theirs like the rest.

        Raises:
            h11.LocalProtocolError: the body is not as long as the head says.
        """
        frame, start = self._frame, self._start
        assert start is not None
        self._frame = None
        data = b"" if self._for_head or start.http_status in _BODILESS else body
        out = b""
        if frame is not None:
            if last and start.length == b"%d" % len(body):
                return frame.filled(start.length, _date(), data)
            out = self._head(start)
        if data:
            out += self._sent(h11.Data(data=data))
        if last:
            out += self._sent(h11.EndOfMessage())
        return out

    def end(self) -> bool:
        """After a whole response: whether the connection can be used for another request."""
        if not self._spared:
            if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                return False
            self._remember()
            self._h11.start_next_cycle()
        self._begin_cycle()
        return True

    def _remember(self) -> None:
        if not self._alone or self.pending or self._request is None:
            return
        request, start = Head.of(self._request), self._start
        if request.method not in QUESTIONS:
            return
        self._repeats.keep_request(self._alone, request)
        if start is not None and (frame := Frame.of(self._written, start)) is not None:
            self._repeats.keep_frame(start.key, frame)

    def _sent(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""


_date_of: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    global _date_of
    now_s = int(time.time())
    if now_s != _date_of[0]:
        _date_of = (now_s, email.utils.formatdate(now_s, usegmt=True).encode())
    return _date_of[1]
