"""The agent's settings: what its command line gives, and the rhythms and bounds that are the same for every
agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controlplane.site import anti_entropy

STATUS_EVERY_S = 1.0
"""Host record, word look and audit head: once a second, and the host record at each change too."""

CHANGE_GATHER_S = 0.1
"""Changes within this are one write of the host record. All hosts read it: it waits until a failover, which
is such a change, is over."""

ACKNOWLEDGED_GATHER_S = 0.003
"""The same for what daemons say of changed settings, which an operator waits for; the last one of a host is
not waited for longer."""

CONFIG_KEEP_S = 0.1
"""So long after a change is the last good configuration written to the disk: its syncs are not in the way of
the store's on the same one, while daemons take the change."""

HOST_LEASE_S = 10.0
"""A host whose agent is gone this long vanishes from the site's hosts."""

STATUS_STALE_S = 3.0
"""Three missed statuses: then the daemon's loop is not turning, whatever it said last."""

START_PATIENCE_S = 10.0
"""A process that has not said hello by then is critical, not just starting."""

ASK_TIMEOUT_S = 3.0

CHECK_S = 10.0

EVENT_SETTLE_S = 0.2
"""Events of the whole site are served once they are this old, so that a slower host's do not come in behind a
reader's back."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    site: str
    host: str
    site_dir: Path
    run_dir: Path
    store: str
    """KIND://HOST:PORT[,HOST:PORT...], or memory://NAME in tests."""

    http_address: str = "127.0.0.1"
    """Where TCP listens and what other hosts are told; loopback by default, as the answers are not secret but
    not for the world either."""

    http_port: int = 0
    """0: any free one; the host record tells."""

    http_names: tuple[str, ...] = ()
    """What a Host header may be besides an address, the host and this machine's name. Other names are refused
    (421): a page in a browser could have its own name resolve to this address and read the answers."""

    check_s: float = CHECK_S
    """On Consul: between two of its probes of an instance; three must fail before it is critical."""

    keeper: bool = True
    """False only in tests of the agent alone: no instance would ever lead."""

    journal_dir: Path | None = None
    """HFT_JOURNAL_DIR."""

    compare_every_s: float = anti_entropy.EVERY_S
    """Between two comparisons of the view of the site with the store, give or take half."""
    check_dir: Path | None = None
    """HFT_CHECK_DIR: the programs that checks of kind script may name. None: SITE_DIR/checks, which other
    users cannot reach, so that a check with a `user` of its own needs another folder."""
