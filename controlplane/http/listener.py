"""Sockets that a server listens on: TCP by address and port, unix by path."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from controlplane.errors import InUse

BACKLOG = 64
"""Connections that wait for the event loop to come round; beyond it the kernel makes clients wait."""


def tcp(address: str, port: int) -> socket.socket:
    """Listening; port 0 takes a free one.

    Raises:
        InUse: the address and port cannot be had, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise InUse(f"cannot listen on {address}:{port}: {exc.strerror or exc}") from exc
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise InUse(f"cannot listen on {address}:{port}: {os.strerror(exc.errno or 0)}") from exc
    sock.setblocking(False)
    return sock


def unix(path: Path) -> socket.socket:
    """Listening at `path`, which has mode 0600 from the moment it exists and replaces the socket of a dead
    process there at once.

    Raises:
        InUse: the path cannot be bound.
    """
    # Renamed into place only when it listens: who sees the path can connect. No longer than the path itself,
    # as a socket's path ends at 107 bytes; the same for every process, so nothing piles up after crashes.
    fresh = path.with_name(f".{path.name[:-1]}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # Linux gives the file the mode of the socket that is bound to it
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        sock.listen(BACKLOG)
        fresh.rename(path)
    except OSError as exc:
        sock.close()
        raise InUse(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    sock.setblocking(False)
    return sock
