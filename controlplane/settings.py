"""Settings of the control plane: frozen, every default visible. Read once at the edge and passed down; nobody
looks them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controlplane.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How a client talks to the store."""

    try_s: float = 0.3
    """Deadline of one try at one endpoint; then the next endpoint. A healthy etcd answers in 1 ms, one
    without a leader hangs for 7 s."""

    probe_every_s: float = 0.5
    """A watch that has been silent this long asks the store for its progress."""

    quiet_probe_s: float = 3.0
    """A watch that has been silent this long asks even when another watch of the same client hears the store:
    its own connection may hang. Below the 5 s after which an agent calls its view old."""

    probe_answer_s: float = 1.0
    """Without that sign the stream is given up; with `probe_every_s` this stays below the 2 s in which a
    silent store must be found."""

    user: str = ""
    """Empty: no authentication."""

    password_file: Path | None = None
    """One line; read at each authentication, so that it can be rotated."""

    token_file: Path | None = None
    """Consul's ACL token, one line; read again when the store refuses the last one, so that it can be
    rotated."""

    ca_file: Path | None = None
    """PEM. Given: TLS. None: plain text, for loopback only."""

    cert_file: Path | None = None
    """The client's certificate, PEM; with `key_file` for mutual TLS."""

    key_file: Path | None = None

    agent: str = ""
    """Consul only: the host's own agent, HOST:PORT or unix:/ABSOLUTE/PATH, where services are registered;
    with http:// in front, plain text on loopback although the servers have TLS. Empty: the first endpoint of
    the store that is on this machine, else the first."""

    def __post_init__(self) -> None:
        for name in ("try_s", "probe_every_s", "quiet_probe_s", "probe_answer_s"):
            found = getattr(self, name)
            if not 0.01 <= found <= 60:
                raise InvalidSettings(f"store.{name} {found}: wanted 0.01 to 60 s")
        if bool(self.user) != (self.password_file is not None):
            raise InvalidSettings("store.user and store.password_file: wanted both or neither")
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidSettings("store.cert_file and store.key_file: wanted both or neither")
        if self.cert_file is not None and self.ca_file is None:
            raise InvalidSettings(
                "store.cert_file without store.ca_file: wanted the authority that the server's certificate "
                "is checked with"
            )


@dataclass(frozen=True, slots=True)
class LeadershipSettings:
    """How leadership is timed on this site."""

    profile: str = "default"
    """Name of the lease profile (controlplane/leadership/budget.py). The same on every host: an agent tells
    it to its keeper, and all that show how long a lease still lasts count with it."""
