"""The memory of one listener: requests, and heads of responses, that came before byte for byte and need no
second parse. framing.py fills and asks it.

What is kept is what h11 and the listener's terms said the first time, so there is still one parser and one
judge. A client that sends ever new heads pushes the oldest out, which costs the others one parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

import h11

HEADS_KEPT = 16
"""Of each kind: the few paths that two or three checks, a scraper and another agent ask for."""
HEAD_BYTES_MAX = 1 << 10
"""Of one head; ours are below 500 bytes. With HEADS_KEPT, some 100 KiB of a listener at most."""
LENGTH_DIGITS_MAX = 19
_LENGTH = b"content-length"

Headers = Sequence[tuple[bytes, bytes]]
Key = tuple[Any, ...]
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Head:
    """Of a request, as an application is told of it."""

    method: str
    http_version: str
    path: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, request: h11.Request) -> Head:
        raw_path, _, query = request.target.partition(b"?")
        return cls(
            request.method.decode("latin-1"),
            request.http_version.decode("latin-1"),
            unquote(raw_path.decode("latin-1")),
            raw_path,
            query,
            tuple(request.headers),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Of a response, as an application gives it."""

    http_status: int
    headers: Headers
    key: Key
    """All of it but the length."""
    length: bytes
    """Empty when there is none, or not one that h11 is sure to leave as it is."""

    @classmethod
    def of(cls, http_status: int, headers: Headers) -> Start:
        length = b""
        key: list[Any] = [http_status]
        for name, value in headers:
            if name == _LENGTH and not length and type(value) is bytes and value.isdigit():
                length = value
                key.append(None)
            else:
                key.append((name, value))
        return cls(http_status, headers, tuple(key), length if len(length) <= LENGTH_DIGITS_MAX else b"")


@dataclass(frozen=True, slots=True)
class Frame:
    """The head of a response as h11 wrote it, without its length and its date."""

    before_length: bytes
    before_date: bytes

    def filled(self, length: bytes, date: bytes, body: bytes) -> bytes:
        return b"".join((self.before_length, length, self.before_date, date, b"\r\n\r\n", body))

    @classmethod
    def of(cls, written: bytes, start: Start) -> Frame | None:
        """None unless h11 wrote just the headers that it was given, one of them the length, and the date."""
        name = b"\r\n%b: " % _LENGTH
        before, found, rest = written.partition(name + start.length + b"\r\n")
        between, date, end = rest.rpartition(b"Date: ")
        lines = len(start.headers) + 3  # with those of the status and the date, and the empty one
        if not found or not date or end.count(b"\r\n") != 2 or written.count(b"\r\n") != lines:
            return None
        return cls(before + name, b"\r\n" + between + date)


class Repeats:
    def __init__(self, heads_kept: int = HEADS_KEPT) -> None:
        """`heads_kept` 0: every request is parsed."""
        self._heads_kept = heads_kept
        self._requests: dict[bytes, Head] = {}
        self._frames: dict[Key, Frame] = {}

    def __repr__(self) -> str:
        return f"<Repeats: {len(self._requests)} requests, {len(self._frames)} responses>"

    def request(self, received: bytes) -> Head | None:
        return self._requests.get(received)

    def frame(self, key: Key) -> Frame | None:
        try:
            return self._frames.get(key)
        except TypeError:  # an application's header that cannot be hashed: h11 says what it is worth
            return None

    def keep_request(self, received: bytes, head: Head) -> None:
        if len(received) <= HEAD_BYTES_MAX:
            self._put(self._requests, received, head)

    def keep_frame(self, key: Key, frame: Frame) -> None:
        """`key` of a head that h11 took, so it can be hashed."""
        if len(frame.before_length) + len(frame.before_date) <= HEAD_BYTES_MAX:
            self._put(self._frames, key, frame)

    def _put(self, kept: dict[_K, _V], key: _K, value: _V) -> None:
        if key not in kept and self._heads_kept:
            if len(kept) >= self._heads_kept:
                del kept[next(iter(kept))]
            kept[key] = value
