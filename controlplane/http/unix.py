"""One HTTP/1.1 request over unix sockets, by hand: `hftctl status` has 100 ms in all, and an HTTP library
costs a tenth of that to import.

Sends `Connection: close` and reads to the end; understands a body by length, by chunks or by the end of the
connection. No redirects, no TLS. `ask` asks several servers at once, so that one that hangs costs nothing
where another answers; one that is stopped (SIGSTOP) is not waited for at all.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import FloorUnreachable

ANSWER_BYTES_MAX = 64 << 20
"""A status is tens of kilobytes; orders of a long day may be megabytes."""
CONNECT_S = 0.2
"""A local server that takes no connection within this time takes none."""
LOOK_EVERY_S = 0.2
"""At whether a server that says nothing is stopped."""
TRY_AGAIN_S = 0.01
UCRED_BYTES = 12


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
    (told,) = ask([path], method, target, body, timeout_s=timeout_s)
    if isinstance(told, Answer):
        return told
    raise told or FloorUnreachable(f"{path}: not asked")


def ask(
    paths: Sequence[Path | str],
    method: str,
    target: str,
    body: bytes = b"",
    *,
    timeout_s: float = 5.0,
    enough: Callable[[Answer], bool] = lambda answer: False,
) -> list[Answer | FloorUnreachable | None]:
    """Ask all of them at once; what each one answered, in their order. All have `timeout_s` together.

    The first answer that is `enough` ends it: what has not come by then is None.
    """
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    asked = [_Exchange(path, f"{method} {target}", head.encode() + body) for path in paths]
    try:
        _wait(asked, timeout_s, enough)
        return [each.told for each in asked]
    finally:
        for each in asked:
            each.close()


def _wait(asked: Sequence[_Exchange], timeout_s: float, enough: Callable[[Answer], bool]) -> None:
    began_mono_s = now_mono_s = time.monotonic()
    deadline_mono_s, look_mono_s = began_mono_s + timeout_s, began_mono_s + LOOK_EVERY_S
    while waiting := [each for each in asked if each.told is None]:
        if now_mono_s >= deadline_mono_s:
            for each in waiting:
                each.fail(f"no answer to {each.what} within {timeout_s:g} s")
            return
        for each in waiting:
            each.connect(now_mono_s - began_mono_s)
            if now_mono_s >= look_mono_s:
                each.give_up_if_stopped()
        look_mono_s += LOOK_EVERY_S * (now_mono_s >= look_mono_s)
        waiting = [each for each in waiting if each.told is None]
        until_mono_s = min(deadline_mono_s, look_mono_s)
        if not all(each.connected for each in waiting):
            until_mono_s = min(until_mono_s, now_mono_s + TRY_AGAIN_S)
        poll, by_fd = select.poll(), {each.fd: each for each in waiting if each.connected}
        for fd, each in by_fd.items():
            poll.register(fd, select.POLLOUT if each.unsent else select.POLLIN)
        for fd, _ in poll.poll(max(0.0, until_mono_s - time.monotonic()) * 1000 if waiting else 0):
            by_fd[fd].turn()
            told = by_fd[fd].told
            if isinstance(told, Answer) and enough(told):
                return
        now_mono_s = time.monotonic()


class _Exchange:
    """With one server; `told` once it is over."""

    def __init__(self, path: Path | str, what: str, request: bytes) -> None:
        self.path, self.what, self.unsent = path, what, request
        self.told: Answer | FloorUnreachable | None = None
        self.connected = False
        self._received = bytearray()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def fail(self, why: str) -> None:
        self.told = FloorUnreachable(f"{self.path}: {why}")

    def connect(self, waited_s: float) -> None:
        """Once it is possible: a server whose queue is full may still take one."""
        if self.connected:
            return
        try:
            self._sock.connect(str(self.path))
            self.connected = True
        except BlockingIOError:
            if waited_s >= CONNECT_S:
                self.fail(f"takes no connection within {CONNECT_S:g} s")
        except OSError as exc:
            self.fail(exc.strerror or str(exc))

    def turn(self) -> None:
        """Send or receive what can be without waiting."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self._sock.send(self.unsent) :]
                return
            part = self._sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as exc:
            self.fail(exc.strerror or str(exc))
            return
        self._received += part
        if len(self._received) > ANSWER_BYTES_MAX:
            self.fail(f"answer to {self.what} over {ANSWER_BYTES_MAX} bytes")
        elif not part:
            try:
                self.told = parse(bytes(self._received), f"{self.path}: {self.what}")
            except FloorUnreachable as exc:
                self.told = exc

    def give_up_if_stopped(self) -> None:
        if not self.connected or self.told is not None:
            return
        server = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED_BYTES)
        pid = int.from_bytes(server[:4], sys.byteorder, signed=True)
        if stopped(pid):
            self.fail(f"its process is stopped (kill -CONT {pid} lets it go on)")


def stopped(pid: int) -> bool:
    """By SIGSTOP, or under a debugger. False too where /proc does not tell."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
    except OSError:
        return False
    finally:
        os.close(fd)


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
