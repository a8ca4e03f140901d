"""PUSH and PULL: nothing is dropped; a full pipe makes the sender wait, and that is the back pressure of a
replay.
"""

from __future__ import annotations

import zmq

from hftd.bus import publish
from hftd.bus import socket as sockets

HWM = 1_000


class Push:
    """Binds. `send` returns False when the pipe is full (or none pulls): keep the message, try again."""

    def __init__(self, endpoint: str, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.PUSH, send_hwm=hwm, receive_hwm=hwm)
        sockets.bind(self.socket, endpoint)

    def send(self, frame: bytes) -> bool:
        try:
            self.socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        self.socket.close()


class Pull:
    def __init__(self, endpoint: str | None = None, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.PULL, send_hwm=hwm, receive_hwm=hwm)
        self.endpoint: str | None = None
        if endpoint:
            self.connect(endpoint)

    def connect(self, endpoint: str | None) -> None:
        self.endpoint = publish.move(self.socket, self.endpoint, endpoint)

    def close(self) -> None:
        self.socket.close()
