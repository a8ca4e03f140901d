"""One HTTP/1.1 request over a unix socket, by hand: `hftctl status` has 200 ms in all, and an HTTP library
costs a tenth of that to import.

Sends `Connection: close` and reads to the end; understands a body by length, by chunks or by the end of the
connection. No redirects, no TLS.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import FloorUnreachable

ANSWER_BYTES_MAX = 64 << 20
"""A status is tens of kilobytes; orders of a long day may be megabytes."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


def request(
    path: Path | str, method: str, target: str, body: bytes = b"", *, timeout_s: float = 5.0
) -> Answer:
    """Ask the server at this socket; the whole exchange has `timeout_s`.

    Raises:
        FloorUnreachable: nobody listens there, or no whole answer in time.
    """
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    deadline_mono_s = time.monotonic() + timeout_s
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(head.encode() + body)
            while part := sock.recv(1 << 16):
                received += part
                sock.settimeout(max(deadline_mono_s - time.monotonic(), 0.001))
                if len(received) > ANSWER_BYTES_MAX:
                    raise FloorUnreachable(f"{path}: answer to {target} over {ANSWER_BYTES_MAX} bytes")
    except TimeoutError as exc:
        raise FloorUnreachable(f"{path}: no answer to {method} {target} within {timeout_s:g} s") from exc
    except OSError as exc:
        raise FloorUnreachable(f"{path}: {exc.strerror or exc}") from exc
    return parse(bytes(received), f"{path}: {method} {target}")


def parse(received: bytes, subject: str) -> Answer:
    """Pure. Raises FloorUnreachable when the answer is cut or is not HTTP."""
    head, blank, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = lines[0].split(" ", 2)
    if not blank or len(status) < 2 or not status[0].startswith("HTTP/1.") or not status[1].isdigit():
        raise FloorUnreachable(f"{subject}: the connection closed without an answer")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    if headers.get("transfer-encoding", "").lower() == "chunked":
        rest = _unchunked(rest, subject)
    elif "content-length" in headers and len(rest) < int(headers["content-length"]):
        raise FloorUnreachable(f"{subject}: answer cut at {len(rest)} of {headers['content-length']} bytes")
    return Answer(int(status[1]), headers, rest)


def _unchunked(rest: bytes, subject: str) -> bytes:
    whole = bytearray()
    while True:
        size_line, newline, rest = rest.partition(b"\r\n")
        if not newline:
            raise FloorUnreachable(f"{subject}: answer cut between chunks")
        size = int(size_line.split(b";")[0], 16)
        if size == 0:
            return bytes(whole)
        if len(rest) < size + 2:
            raise FloorUnreachable(f"{subject}: answer cut in a chunk")
        whole += rest[:size]
        rest = rest[size + 2 :]
