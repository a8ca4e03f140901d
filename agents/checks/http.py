"""One GET or HEAD over a connection of its own, as far as a check needs it.

The answer is read to the end of its body, to BODY_BYTES_MAX or to the deadline, whichever comes first; header
fields that do not end are refused. Nothing is followed, no cookie is kept, no encoding is asked for.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import ssl
from urllib.parse import urlsplit

from agents.checks import tcp
from agents.checks.blocking import Calls
from agents.checks.target import OUTPUT_BYTES_MAX, Result, Target, cut
from controlplane.model.checks import HttpCheck, State

HEAD_BYTES_MAX = 16_384
BODY_BYTES_MAX = 65_536
INTERIM_MAX = 8
"""Answers 1xx before the real one."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\Z")


class NotHttp(Exception):
    """What came is not an answer, in words."""


async def probe(check: HttpCheck, target: Target, key: str, calls: Calls) -> Result:
    """Raises OSError (not connected, or TLS failed)."""
    url = urlsplit(target.filled(check.url))
    tls = _tls(check.ca_file) if url.scheme == "https" else None
    authority = url.netloc
    host_and_port = authority if url.port is not None else f"{authority}:{443 if tls else 80}"
    path = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
    fields = {"Host": authority, "User-Agent": "hft-agentd", "Accept": "*/*", "Connection": "close"}
    fields |= {name: target.filled(value) for name, value in check.headers.items()}
    lines = [f"{check.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8")
    transport, exchange = await tcp.connect(
        host_and_port, functools.partial(_Exchange, check.method == "HEAD"), key, calls, tls
    )
    try:
        transport.write(request)
        status, reason, body = await exchange.answer
    except NotHttp as exc:
        return Result("critical", str(exc))
    finally:
        transport.abort()
    return judge(check, status, reason, exchange.location, body)


def judge(check: HttpCheck, status: int, reason: str, location: str, body: bytes) -> Result:
    """What an answer means. Pure."""
    said = f"{status} {reason}".strip()
    state: State = "critical"
    if status in check.warning_statuses:
        state = "warning"
    elif 200 <= status < 300:
        state = "passing"
    elif 300 <= status < 400:
        said += f" to {location or 'nowhere'}: not followed"
    if state != "critical" and check.contains and check.contains.encode() not in body:
        return Result("critical", f'{said}, without "{check.contains}" in the body: {cut(body[:200])}')
    text = cut(body[: OUTPUT_BYTES_MAX - 512])
    return Result(state, f"{said}: {text}" if text else said)


def _tls(ca_file: str) -> ssl.SSLContext:
    return _context(ca_file, os.stat(ca_file).st_mtime_ns if ca_file else 0)  # noqa: PTH116


@functools.lru_cache(maxsize=64)
def _context(ca_file: str, written_ns: int) -> ssl.SSLContext:
    """Read once for each writing of the file: a renewed one needs no restart."""
    return ssl.create_default_context(cafile=ca_file or None)


class _Exchange(asyncio.Protocol):
    """Reads one answer; `answer` has status, reason and the beginning of the body."""

    def __init__(self, head_only: bool) -> None:
        self.answer: asyncio.Future[tuple[int, str, bytes]] = asyncio.get_running_loop().create_future()
        self.location = ""
        self._head_only = head_only
        self._received = bytearray()
        self._interim = 0
        self._status: tuple[int, str] | None = None
        self._length: int | None = None
        self._chunked = False

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._received += data
        try:
            while self._status is None:
                if not self._head():
                    return
            self._body(ended=False)
        except NotHttp as exc:
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer.done():
            return
        if self._status is not None and exc is None:
            self._body(ended=True)
        elif exc is not None:
            self.answer.set_exception(exc if isinstance(exc, OSError) else OSError(str(exc)))
        else:
            beginning = f" after {cut(bytes(self._received[:100]))!r}" if self._received else ""
            self.answer.set_exception(NotHttp(f"the connection was closed without an answer{beginning}"))

    def _head(self) -> bool:
        """Take the head off what was received; False: it is not complete yet."""
        end = self._received.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._received) >= 5 and not self._received.startswith(b"HTTP/"):
                raise NotHttp(f"the answer is not HTTP: {cut(bytes(self._received[:100]))!r}")
            if len(self._received) >= HEAD_BYTES_MAX:
                raise NotHttp(f"the head of the answer does not end within {HEAD_BYTES_MAX} bytes")
            return False
        first, *lines = bytes(self._received[:end]).split(b"\r\n")
        del self._received[: end + 4]
        found = _STATUS_LINE.match(first)
        if found is None:
            raise NotHttp(f"the answer is not HTTP/1.1: {cut(first[:100])!r}")
        status = int(found[1])
        if status < 200:
            self._interim += 1
            if self._interim > INTERIM_MAX:
                raise NotHttp(f"more than {INTERIM_MAX} answers {status} and no real one")
            return True
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
        }
        length = fields.get(b"content-length", b"")
        self._length = int(length) if length.isdigit() and len(length) < 19 else None
        self._chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        self.location = cut(fields.get(b"location", b"")[:200])
        self._status = status, cut((found[2] or b"")[:100])
        return True

    def _body(self, ended: bool) -> None:
        assert self._status is not None, "the head comes first"
        received = bytes(self._received[:BODY_BYTES_MAX])
        status, reason = self._status
        if self._chunked:
            body, ended = _unchunked(received, ended)
        else:
            body = received if self._length is None else received[: self._length]
            ended = ended or (self._length is not None and len(received) >= self._length)
        bare = self._head_only or status in (204, 304)
        if ended or bare or len(self._received) >= BODY_BYTES_MAX:
            self.answer.set_result((status, reason, b"" if bare else body))


def _unchunked(received: bytes, ended: bool) -> tuple[bytes, bool]:
    """The content of complete chunks, and whether the last one is there."""
    body, at = bytearray(), 0
    while True:
        end = received.find(b"\r\n", at, at + 128)
        if end < 0:
            return bytes(body), ended
        digits = received[at:end].partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", digits):
            raise NotHttp(f"a chunk of the body has no length: {cut(received[at : at + 40])!r}")
        size = int(digits, 16)
        if size == 0:
            return bytes(body), True
        body += received[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        if at > len(received):
            return bytes(body), ended
