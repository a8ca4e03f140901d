"""Settings of order management and execution: omsd and execd."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from hftd.engine.orders.awaited import BreakerSettings
from hftd.settings import checked


@dataclass(frozen=True, slots=True)
class OrdersSettings:
    fence_retry_s: float = 0.05
    """A FENCE without an acknowledgement is sent again after this; many times what a healthy one takes (a few
    ms, mostly two syncs)."""

    reconcile_timeout_s: float = 0.5
    """The venue has to answer cancel-all, open orders and executions within this, or all three are asked
    again."""

    keep_alive_s: float = 0.25
    """Between two keep-alives to execd and riskd, positiond and auditd; well below execd's `orphan_s`."""

    execution_silence_s: float = 2.0
    """execd answers each keep-alive. When it has been silent for this long, it is fenced and reconciled with
    anew, and nothing is sent until it has answered."""

    resend_s: float = 1.0
    """Executions and audit records that are not acknowledged after this are sent again."""

    open_orders_max: int = 10_000
    """Orders that have not ended; bounds memory and what a take-over has to cancel."""

    client_order_ids_max: int = 100_000
    """This many of the newest client order ids are refused when they come again: hours of a busy strategy,
    about 20 MB."""

    closed_orders_max: int = 10_000
    """Ended orders in memory, for late reports and for `hftctl orders`."""

    executions_max: int = 20_000
    """Executions in memory, for a positiond that missed some; the venue is asked for older ones."""

    unsynced_max: int = 10_000
    """Records that are journaled but not yet on the disk itself: what a power cut may take. At this many no
    new order is taken."""

    segment_bytes: int = 16 << 20
    """Size of one journal file."""

    segments_max: int = 16
    """Journal files kept; older ones go once auditd has their records. 16 are about a million records, read
    in seconds at start-up."""

    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    """Towards execd. What is not heard of an order counts only when nothing else is heard either."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    risk: str = field(default="riskd", metadata={"service": "riskd", "fence": True})
    execution: str = field(default="execd", metadata={"service": "execd", "fence": True})
    positions: str = field(default="positiond", metadata={"service": "positiond"})
    audit: str = field(default="auditd", metadata={"service": "auditd"})

    def __post_init__(self) -> None:
        checked.within(
            "omsd",
            {
                "fence_retry_s": (self.fence_retry_s, 0.005, 10),
                "reconcile_timeout_s": (self.reconcile_timeout_s, 0.05, 60),
                "keep_alive_s": (self.keep_alive_s, 0.01, 0.5),
                "execution_silence_s": (self.execution_silence_s, 0.6, 60),
                "resend_s": (self.resend_s, 0.05, 60),
                "open_orders_max": (self.open_orders_max, 1, 1_000_000),
                "client_order_ids_max": (self.client_order_ids_max, 1_000, 10_000_000),
                "closed_orders_max": (self.closed_orders_max, 200, 1_000_000),
                "executions_max": (self.executions_max, 1_000, 1_000_000),
                "unsynced_max": (self.unsynced_max, 1, 1_000_000),
                "segment_bytes": (self.segment_bytes, 4096, 1 << 30),
                "segments_max": (self.segments_max, 2, 10_000),
            },
        )


OMSD = DaemonKind(
    "omsd", OrdersSettings, frozenset({Mode.ACTIVE_STANDBY}), "hftd.daemons.omsd", live=True, hot=True
)


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    orphan_s: float = 3.0
    """When no valid order manager has been heard for this long, everything is cancelled at the venue, once.
    Longer than the slowest take-over (2.5 s in `default`)."""

    fence_retry_s: float = 0.05
    """A FENCE that the venue has not acknowledged is sent again after this."""

    venue_keep_alive_s: float = 0.5
    """Between two fences of our own token at the venue, from which a restarted venue learns who we are."""

    reports_max: int = 100_000
    """Reports kept until the order manager has acknowledged them. At a take-over the venue is asked for the
    executions among older ones."""

    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    """Towards the venue; there each order counts that nothing is said of."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    orders: str = field(default="omsd", metadata={"service": "omsd", "fence": True})
    venue: str = field(default="simd", metadata={"service": "simd"})

    def __post_init__(self) -> None:
        checked.within(
            "execd",
            {
                "orphan_s": (self.orphan_s, 0.6, 3600),
                "fence_retry_s": (self.fence_retry_s, 0.005, 10),
                "venue_keep_alive_s": (self.venue_keep_alive_s, 0.01, 60),
                "reports_max": (self.reports_max, 1_000, 10_000_000),
            },
        )


EXECD = DaemonKind(
    "execd", ExecutionSettings, frozenset({Mode.ACTIVE_STANDBY}), "hftd.daemons.execd", live=True, hot=True
)
