"""Who is at the other end of a unix socket: the kernel's word (SO_PEERCRED), as it was when they connected.

Handlers find it as `peer.of(request.scope)`; over TCP there is none.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

EXTENSION = "hftctl.peer"
"""Its place in the `extensions` of an ASGI scope."""
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    pid: int
    uid: int
    gid: int


class Socket(Protocol):
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def read(sock: Socket) -> Peer:
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def of(scope: Mapping[str, Any]) -> Peer | None:
    """The peer of an ASGI scope; None over TCP."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, Peer) else None


def name(scope: Mapping[str, Any]) -> str:
    """The user at the other end, for what is kept with a change; "uid N" where the machine has no name for
    it, "unknown" over TCP.
    """
    found = of(scope)
    if found is None:
        return "unknown"
    try:
        return pwd.getpwuid(found.uid).pw_name
    except KeyError:
        return f"uid {found.uid}"


def admitted(peer: Peer, owner_uid: int) -> bool:
    """The floor's own user and root; the socket's mode says the same, and this holds when somebody changes
    the mode.
    """
    return peer.uid in (owner_uid, 0)
