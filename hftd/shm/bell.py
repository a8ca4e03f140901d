"""The bell beside the lease page: rung when the page has changed, so that its daemon looks now and not at its
next turn.

A hint and never a message: what holds is what the page says, and a daemon that hears no bell looks at the
page all the same, a little later. One Unix datagram socket, bound by the daemon at `<HFT_LEASE>.bell`; any
datagram rings. Who rings: agents/keeper/words.py. Who listens: runtime/loop.py.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from controlplane.errors import InvalidInput

PATH_BYTES_MAX = 107
"""Of a Unix socket."""


def path_of(lease: Path) -> Path:
    return lease.with_name(f"{lease.name}.bell")


class Bell:
    """The listening end."""

    def __init__(self, lease: Path) -> None:
        """Bind it; an earlier process's is replaced. Raises InvalidInput naming the path when that is not
        possible.
        """
        path = path_of(lease)
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o600)
        except OSError as exc:
            self._socket.close()
            raise InvalidInput(
                f"bell {path}: cannot be bound ({exc}); at most {PATH_BYTES_MAX} bytes fit"
            ) from exc

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Take what has rung: the page is looked at after this, so nothing is missed."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1):
                pass

    def close(self) -> None:
        self._socket.close()


def ring(lease: Path) -> None:
    """Never waits. With no listener, or a queue full of unheard rings, the daemon looks by itself."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as end,
    ):
        end.sendto(b"!", str(path_of(lease)))
