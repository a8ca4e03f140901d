"""What one client may take of a server: connections, bytes and time. Every number has its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from controlplane.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class Limits:
    connections_max: int = 64
    """Of one listener; the next gets 503 and is closed. Checks, Prometheus and other agents need one each;
    64 of two listeners stay far below the 1,024 file descriptors that a process may have. Counted apart, so
    that a flood on TCP does not keep the operator off the unix socket."""

    header_bytes_max: int = 16 << 10
    """Request line and headers together (431). Ours are below 500 bytes; browsers send at most 8 KiB."""

    body_bytes_max: int = 96 << 10
    """A body is read whole before the handler runs (413). The largest is a document of configuration, of at
    most 64 KiB, with its reason; all others are below 1 KiB."""

    head_s: float = 5.0
    """From the first byte of a request to the end of its headers (408), and from a new connection to its
    first byte. One packet on a healthy network; a client that drips bytes holds a connection no longer."""

    body_s: float = 10.0
    """From the end of the headers to the end of the body (408): 96 KiB at 10 KiB/s."""

    idle_s: float = 75.0
    """A connection kept alive between requests: longer than the usual 60 s of a scrape, so that a scraper
    keeps its connection."""

    handle_s: float = 330.0
    """From the whole request to the start of the response (503). A failover may wait 300 s; what takes
    longer is stuck. A response that has started, such as a stream of events, may go on."""

    write_s: float = 10.0
    """For 64 KiB of a response to leave; a client that does not read is cut off."""

    def __post_init__(self) -> None:
        for field in fields(self):
            found = getattr(self, field.name)
            if found <= 0:
                raise InvalidSettings(f"http.{field.name} {found}: must be more than 0")
