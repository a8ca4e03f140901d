"""Making and closing sockets: the options that every one of them has."""

from __future__ import annotations

import zmq

from controlplane.errors import InUse

RECONNECT_MS = 5
"""A restarted peer is found again within this and RECONNECT_MAX_MS; ipc connects cost nothing."""
RECONNECT_MAX_MS = 50

MESSAGE_BYTES_MAX = 16 << 20
"""A larger message is not even received; its sender is disconnected. The largest that we send is a snapshot
of a book, under 1 MiB."""


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
