"""DEALER and ROUTER: a two-way link between one client and one server. A ROUTER never blocks its loop: what
cannot be sent is refused and counted.

A DEALER's identity begins with a name for people (the instance id and its pid) and ends with a random part,
so that a restarted process is a new link, its predecessor's queue is not its own, and nobody else can connect
in its name. A ROUTER gives an identity to who connected with it last: a link that broke is whole again at
once, even while its server has not seen the end of the old connection or not read what came over it.
"""

from __future__ import annotations

import secrets

import zmq

from hftd.bus import publish
from hftd.bus import socket as sockets

HWM = 1_000
SECRET_BYTES = 16
"""Of an identity: enough that it is never guessed."""
_DONTWAIT, _MORE_DONTWAIT = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)


class Dealer:
    def __init__(self, name: str, endpoint: str | None = None, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.DEALER, send_hwm=hwm, receive_hwm=hwm)
        self.identity = f"{name}.{secrets.token_hex(SECRET_BYTES)}".encode()
        """What a ROUTER knows this link by."""
        self.socket.setsockopt(zmq.IDENTITY, self.identity)
        # Queue nothing for a peer that is not there: an order sent into a dead link must not arrive when the
        # peer is back.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.endpoint: str | None = None
        if endpoint:
            self.connect(endpoint)

    def connect(self, endpoint: str | None) -> None:
        self.endpoint = publish.move(self.socket, self.endpoint, endpoint)

    def send(self, frame: bytes) -> bool:
        """False when there is no peer or its queue is full; the message was not sent."""
        try:
            self.socket.send(frame, _DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        self.socket.close()


PING, PONG = b"PING", b"PONG"
"""A check asks with the frames (empty, PING), as a REQ would, and is answered in the same way."""


def answer_ping(router: zmq.Socket[bytes], identity: bytes) -> None:
    """Who does not wait for it any more, or reads nothing, is not answered."""
    try:
        router.send_multipart([identity, b"", PONG], zmq.DONTWAIT)
    except zmq.ZMQError as exc:
        if exc.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise


class Router:
    def __init__(self, endpoint: str, *, hwm: int = HWM) -> None:
        self.socket = sockets.make(zmq.ROUTER, send_hwm=hwm, receive_hwm=hwm)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sockets.bind(self.socket, endpoint)

    def send(self, identity: bytes, frame: bytes) -> bool:
        """False when that client is gone or its queue is full; the message was not sent."""
        try:
            self.socket.send(identity, _MORE_DONTWAIT)
            self.socket.send(frame, _DONTWAIT)
        except zmq.ZMQError as exc:
            if exc.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def close(self) -> None:
        self.socket.close()
