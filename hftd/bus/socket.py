"""Making and closing sockets: the options that every one of them has; and keeping those that are bound
findable.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path

import zmq

from controlplane.errors import InUse

RECONNECT_MS = 5
"""A restarted peer is found again within this and RECONNECT_MAX_MS; ipc connects cost nothing."""
RECONNECT_MAX_MS = 50

MESSAGE_BYTES_MAX = 16 << 20
"""A larger message is not even received; its sender is disconnected. The largest that we send is a snapshot
of a book, under 1 MiB."""

IPC = "ipc://"


def make(kind: int, *, send_hwm: int, receive_hwm: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.sndhwm = send_hwm
    socket.rcvhwm = receive_hwm
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    return socket


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Raises InUse naming the endpoint when another process has it."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as exc:
        raise InUse(f"endpoint {endpoint}: cannot bind ({exc})") from exc
    if endpoint.startswith(IPC):
        _bound[socket] = Bound(socket, Path(endpoint.removeprefix(IPC)))


class Bound:
    """An ipc socket and its path, which somebody may remove: peers keep their connections, and nobody new
    finds it.
    """

    def __init__(self, socket: zmq.Socket[bytes], path: Path) -> None:
        self._socket, self.path = weakref.ref(socket), path
        self._unbound = False

    def keep(self) -> bool:
        """Called about once a second; True when it has been bound again. Letting go comes a call before: the
        library removes the path when its own thread has closed the old listener, and would remove the new
        one's.
        """
        socket = self._socket()
        if socket is None or socket.closed:
            return False
        with contextlib.suppress(zmq.ZMQError, OSError):
            if self._unbound:
                socket.bind(f"{IPC}{self.path}")
                self._unbound = False
                return True
            if not self.path.exists():
                socket.unbind(f"{IPC}{self.path}")
                self._unbound = True
        return False


_bound: weakref.WeakKeyDictionary[zmq.Socket[bytes], Bound] = weakref.WeakKeyDictionary()
"""Of this process: each ipc socket that it has bound."""


def bind_lost() -> list[Path]:
    """Bind those again whose paths are gone, over two calls; returns what has been bound again. From the
    thread that owns them.
    """
    return [bound.path for bound in list(_bound.values()) if bound.keep()]
