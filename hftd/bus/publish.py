"""PUB and SUB. A slow subscriber loses messages; sequence numbers in the frames make it see that, and a
snapshot heals it.
"""

from __future__ import annotations

import zmq

from hftd.bus import socket as sockets

HWM = 5_000
"""The `latency` preset of the requirements (1,000 to 5,000): older market data is worth less than memory."""


class Publisher:
    def __init__(self, endpoint: str, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.PUB, send_hwm=hwm, receive_hwm=hwm)
        sockets.bind(self.socket, endpoint)
        self.send = self.socket.send

    def close(self) -> None:
        self.socket.close()


class Subscriber:
    """All topics of one publisher; `connect` again moves to a new endpoint."""

    def __init__(self, endpoint: str | None = None, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.SUB, send_hwm=hwm, receive_hwm=hwm)
        self.socket.subscribe(b"")
        self.endpoint: str | None = None
        if endpoint:
            self.connect(endpoint)

    def connect(self, endpoint: str | None) -> None:
        self.endpoint = move(self.socket, self.endpoint, endpoint)

    def close(self) -> None:
        self.socket.close()


def move(socket: zmq.Socket[bytes], old: str | None, new: str | None) -> str | None:
    if old == new:
        return new
    if old:
        socket.disconnect(old)
    if new:
        socket.connect(new)
    return new
