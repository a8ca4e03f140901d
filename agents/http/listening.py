"""The agent's sockets: its unix socket in the run folder, and TCP, at the port of the agent before it where
that can be had.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from agents.agent import Agent
from controlplane.errors import InUse
from controlplane.http.server import Server

STOP_S = 1.0
"""For answers under way; `hftctl` and checks ask again."""


async def listen(server: Server, agent: Agent) -> None:
    """Serve, and tell the agent its URL. The socket of a dead agent is replaced (the lock says that it is
    dead).

    Raises:
        InUse: the port that was asked for cannot be had.
    """
    given = agent.given
    await server.listen_unix(agent.paths.http_socket)
    kept = agent.paths.host_dir / "agent.port"
    # The address too, where it is a name: Consul's checks ask by what is registered.
    names = (given.host, given.http_address, socket.gethostname(), *given.http_names)
    for port in _ports(given.http_port, kept):
        try:
            agent.port = await server.listen_tcp(given.http_address, port, names=names)
            break
        except InUse as exc:
            if port == given.http_port:
                raise InUse(f"agent of {given.host}: {exc}") from exc
    agent.url = f"http://{given.http_address}:{agent.port}"
    with contextlib.suppress(OSError):  # a full disk costs only the same port next time
        kept.write_text(f"{agent.port}\n")


def _ports(asked: int, kept: Path) -> list[int]:
    """Any free port means the one of the agent before, if it can be had: checks and registrations name it."""
    try:
        before = int(kept.read_bytes()) if asked == 0 else 0
    except (OSError, ValueError):
        before = 0
    return [before, 0] if 0 < before < 1 << 16 else [asked]
