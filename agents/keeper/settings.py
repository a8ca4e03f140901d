"""What a keeper may be told; every default visible, with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.leadership import budget

CHECK_S = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    budget: budget.Budget = budget.DEFAULT
    """Lease, renewals, deadline; the agent's table names another profile."""

    heartbeat_stale_s: float = 0.25
    """A daemon beats each turn of its loop, at least each 50 ms: four missed, and a scheduling hiccup. Then
    it is not renewed any more."""

    poll_s: float = 0.025
    """Between two looks at the heartbeat pages: a tenth of what makes a heartbeat stale. A death is not
    looked for, its pidfd wakes the keeper."""

    transition_poll_s: float = 0.001
    """The same while a leader is on its way to active: its time to active is measured by this."""

    ping_every_s: float = 0.1
    ping_fresh_s: float = 0.2
    """R9: an older answer names no successor."""

    key_look_s: float = 2.0
    """Between two looks at the site's secret, whose key the pings carry: rarely changed, and the file is read
    in a thread."""

    registration_ttl_s: float = 10.0
    """A host that is gone leaves discovery after this; leadership does not wait for it."""

    registration_keep_s: float = 3.0
    """A third of the TTL: two keep-alives may fail in a row."""

    check_s: float = CHECK_S
    """On Consul: how often it probes each instance of this host."""

    beat_every_s: float = 0.1
    """What shows its agent that it is not stuck: in `fast` it is missed after 0.2 s, and ended after 0.4."""

    report_every_s: float = 1.0
    """What the agent is told of the groups led here."""

    stop_s: float = 2.0
    """On SIGTERM: so long for releasing what is led and taking the registrations back; then the leases run
    out by themselves."""

    address: str = "127.0.0.1"
    """Where peers' pings are answered (UDP); the port is the kernel's choice."""
