"""One HTTP/1.1 request over unix sockets, by hand: `hftctl status` has 100 ms in all, and an HTTP library
costs a tenth of that to import.

Sends `Connection: close` and reads to the end; understands a body by length, by chunks or by the end of the
connection. No redirects, no TLS. `ask` asks several servers at once, so that one that hangs costs nothing
where another answers; one that is stopped (SIGSTOP) is not waited for at all, and one that takes requests and
answers none is given up after HUNG_S.
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
PROBE_AFTER_S = 0.5
"""Most answers come from memory, in milliseconds; after this it is asked whether the server turns at all."""
HUNG_S = 2.0
"""More than a loop stands still on a busy machine; an operator who asks in an emergency waits no longer."""
LOOK_EVERY_S = 0.2
"""At whether a server that says nothing is stopped."""
TRY_AGAIN_S = 0.01
UCRED_BYTES = 12
HANGS = "it hangs"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


def request(
    path: Path | str, method: str, target: str, body: bytes = b"", *, timeout_s: float = 5.0, live: str = ""
) -> Answer:
    """Ask the server at this socket; the whole exchange has `timeout_s`. `live`: as `ask` says.

    Raises:
        FloorUnreachable: nobody listens there, or no whole answer in time.
    """
    (told,) = ask([path], method, target, body, timeout_s=timeout_s, live=live)
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
    live: str = "",
) -> list[Answer | FloorUnreachable | None]:
    """Ask all of them at once; what each one answered, in their order. All have `timeout_s` together.

    The first answer that is `enough` ends it: what has not come by then is None. `live` is a target that a
    server answers at once whatever it is busy with: one that is silent there too, HUNG_S after it was asked
    first, hangs and is not waited for.
    """
    asked = [_Exchange(path, method, target, body) for path in paths]
    probes: list[_Exchange] = []
    began_mono_s = time.monotonic()
    deadline_mono_s = began_mono_s + timeout_s
    try:
        if live:
            _wait(asked, [], min(deadline_mono_s, began_mono_s + PROBE_AFTER_S), enough)
            if not _over(asked, enough) and timeout_s > HUNG_S:
                probes = [_Exchange(each.path, "GET", live) for each in asked if each.told is None]
                _wait(asked, probes, began_mono_s + HUNG_S, enough)
                if not _over(asked, enough):
                    _give_up_hanging(asked, probes)
        _wait(asked, [], deadline_mono_s, enough)
        if not _over(asked, enough):
            for each in asked:
                each.fail(f"no answer to {each.what} within {timeout_s:g} s")
        return [each.told for each in asked]
    finally:
        for each in (*asked, *probes):
            each.close()


def _over(asked: Sequence[_Exchange], enough: Callable[[Answer], bool]) -> bool:
    told = [each.told for each in asked]
    return None not in told or any(isinstance(each, Answer) and enough(each) for each in told)


def _give_up_hanging(asked: Sequence[_Exchange], probes: Sequence[_Exchange]) -> None:
    alive = {probe.path for probe in probes if isinstance(probe.told, Answer)}
    for each in asked:
        if each.path not in alive and not each.received:
            pid = each.server_pid()
            each.fail(f"{HANGS} (pid {pid} takes requests and has answered none for {HUNG_S:g} s)")


def _wait(
    asked: Sequence[_Exchange],
    probes: Sequence[_Exchange],
    deadline_mono_s: float,
    enough: Callable[[Answer], bool],
) -> None:
    """Until all that was asked is told, or enough is, or the deadline."""
    now_mono_s = time.monotonic()
    look_mono_s = now_mono_s + LOOK_EVERY_S
    while now_mono_s < deadline_mono_s and not _over(asked, enough):
        waiting = [each for each in (*asked, *probes) if each.told is None]
        for each in waiting:
            each.connect(now_mono_s)
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
        now_mono_s = time.monotonic()


class _Exchange:
    """With one server; `told` once it is over."""

    def __init__(self, path: Path | str, method: str, target: str, body: bytes = b"") -> None:
        self.path, self.what = path, f"{method} {target}"
        head = (
            f"{self.what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.unsent = head.encode() + body
        self.told: Answer | FloorUnreachable | None = None
        self.connected = False
        self.received = bytearray()
        self._connecting_until_mono_s = time.monotonic() + CONNECT_S
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def fail(self, why: str) -> None:
        """Unless it has told something."""
        self.told = self.told or FloorUnreachable(f"{self.path}: {why}")

    def connect(self, now_mono_s: float) -> None:
        """Once it is possible: a server whose queue is full may still take one."""
        if self.connected:
            return
        try:
            self._sock.connect(str(self.path))
            self.connected = True
        except BlockingIOError:
            if now_mono_s >= self._connecting_until_mono_s:
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
        self.received += part
        if len(self.received) > ANSWER_BYTES_MAX:
            self.fail(f"answer to {self.what} over {ANSWER_BYTES_MAX} bytes")
        elif not part:
            try:
                self.told = parse(bytes(self.received), f"{self.path}: {self.what}")
            except FloorUnreachable as exc:
                self.told = exc

    def give_up_if_stopped(self) -> None:
        if not self.connected or self.told is not None:
            return
        pid = self.server_pid()
        if stopped(pid):
            self.fail(f"its process is stopped (kill -CONT {pid} lets it go on)")

    def server_pid(self) -> int:
        server = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED_BYTES)
        return int.from_bytes(server[:4], sys.byteorder, signed=True)


def hangs(told: Answer | FloorUnreachable | None) -> bool:
    return isinstance(told, FloorUnreachable) and HANGS in str(told)


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
