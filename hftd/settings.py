"""Settings of the daemons: one frozen dataclass per daemon, every field with its unit and the reason for its
default, and the daemon's kind after it.

A field that names a service says which daemon that service must run: `field(default="bookd",
metadata={"service": "bookd"})`; with "fence": True too, the token of that service's group is written beside
the lease page. The kinds are found by the entry point group `hftctl.daemons`. What checks a services.yml
against them is controlplane/specs/read.py; what reads them in a daemon's own process is hftd/cli/main.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from controlplane.errors import InvalidInput, InvalidSettings
from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from hftd.engine import fixed
from hftd.engine.orders.awaited import BreakerSettings, RiskBreaker

# --- strategy, risk, positions, audit -----------------------------------------------------------------------


def _positive(daemon: str, **decimals: str) -> None:
    for name, value in decimals.items():
        try:
            units = fixed.parse(value)
        except InvalidInput as exc:
            raise InvalidSettings(f"{daemon}.{name}: {exc}") from exc
        if units <= 0:
            raise InvalidSettings(f"{daemon}.{name} {value}: must be above 0")


def _within(daemon: str, bounds: Mapping[str, tuple[float, float, float]]) -> None:
    for name, (found, least, most) in bounds.items():
        if not least <= found <= most:
            raise InvalidSettings(f"{daemon}.{name} {found}: must be {least} to {most}")


@dataclass(frozen=True, slots=True)
class StrategySettings:
    strategy: Literal["market_making"] = "market_making"
    """Which of hftd/strategies decides."""

    markets: tuple[str, ...] = ("spot", "usdm")
    """Markets to trade. Inverse contracts only feed books, whatever is set here."""

    order_notional: str = "100"
    """Value of one order in the quote currency, rounded down to `quantity_step`, at least one step: 0.001
    BTC, 0.04 ETH on the recorded day."""

    quantity_step: str = "0.001"
    """In the base currency. With prices in whole 0.01 every fill of a whole step is exact in 1e-8 of the
    quote currency."""

    max_position: str = "1000"
    """Per instrument, in its units: at this limit only the reducing side is quoted. `inventory_orders_max`
    binds first; riskd has its own limit."""

    inventory_orders_max: int = 20
    """The same limit as a multiple of one order's quantity."""

    skew_ppm: int = 100
    """fair price = mid + (bid volume - ask volume) x this / 1e6; a side is quoted only when its price is
    better than fair. 100 is 0.0001; 0: off."""

    requote_interval_s: float = 0.5
    """Least time between two orders on one side of one instrument: bounds the message rate (two orders and
    two cancels a second and side)."""

    acknowledge_timeout_s: float = 2.0
    """An order that nothing was heard of for this long is cancelled, forgotten and quoted anew; far longer
    than the slowest fail-over."""

    quote_age_max_s: float = 30.0
    """A quote that has stood this long without news is renewed, which makes up for a lost report."""

    rehearsal_interval_s: float = 0.0
    """Between two rehearsals of an order, which keep the path after us warm (ADR 0025); 0: none. At 0.002
    they use a fifth of a core and take a fifth off tick to order on shared cores; on cores that poll, or run
    nothing else, there is nothing to warm."""

    top_age_max_s: float = 10.0
    """Without a new best bid and offer for this long (end of tape, bookd away) the quotes are pulled."""

    breaker: RiskBreaker = field(default_factory=RiskBreaker)
    """Towards riskd."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})
    risk: str = field(default="riskd", metadata={"service": "riskd"})
    positions: str = field(default="positiond", metadata={"service": "positiond"})

    def __post_init__(self) -> None:
        _positive(
            "strategyd",
            order_notional=self.order_notional,
            quantity_step=self.quantity_step,
            max_position=self.max_position,
        )
        _within(
            "strategyd",
            {
                "inventory_orders_max": (self.inventory_orders_max, 1, 1_000_000),
                "skew_ppm": (self.skew_ppm, 0, 1_000_000),
                "requote_interval_s": (self.requote_interval_s, 0.001, 3600),
                "acknowledge_timeout_s": (self.acknowledge_timeout_s, 0.05, 60),
                "quote_age_max_s": (self.quote_age_max_s, 0.1, 86_400),
                "top_age_max_s": (self.top_age_max_s, 0.1, 3600),
                "rehearsal_interval_s": (self.rehearsal_interval_s, 0, 1),
            },
        )


STRATEGYD = DaemonKind(
    "strategyd", StrategySettings, frozenset({Mode.SINGLETON}), "hftd.daemons.strategyd", hot=True
)


@dataclass(frozen=True, slots=True)
class RiskSettings:
    max_position: str = "1000"
    """Per instrument, in its units: the position plus all working orders on one side."""

    max_order_size: str = "100"
    """Size of one order, in the instrument's units."""

    price_collar_ppm: int = 50_000
    """How far a limit price may be from the middle of the best bid and offer, in millionths of it; 50,000 is
    5 %."""

    price_age_max_s: float = 30.0
    """No order is judged by a best bid and offer older than this."""

    messages_per_s: int = 200
    """Orders and cancels of one strategy, as a token bucket. Cancels count, and always pass."""

    message_burst: int = 400
    """Size of that bucket."""

    open_orders_max: int = 10_000
    """Orders that have not ended, of all strategies; bounds memory and what a take-over has to cancel."""

    strategy_silent_s: float = 5.0
    """A strategy says hello each second. When it has been silent for this long, its working orders are
    cancelled."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})
    positions: str = field(default="positiond", metadata={"service": "positiond"})

    def __post_init__(self) -> None:
        _positive("riskd", max_position=self.max_position, max_order_size=self.max_order_size)
        _within(
            "riskd",
            {
                "price_collar_ppm": (self.price_collar_ppm, 1, 1_000_000),
                "price_age_max_s": (self.price_age_max_s, 0.1, 3600),
                "messages_per_s": (self.messages_per_s, 1, 1_000_000),
                "message_burst": (self.message_burst, 1, 10_000_000),
                "open_orders_max": (self.open_orders_max, 1, 1_000_000),
                "strategy_silent_s": (self.strategy_silent_s, 1.5, 3600),
            },
        )


RISKD = DaemonKind(
    "riskd",
    RiskSettings,
    frozenset({Mode.ACTIVE_STANDBY}),
    "hftd.daemons.riskd",
    hot=True,
)


@dataclass(frozen=True, slots=True)
class PositionSettings:
    sync: bool = False
    """True: an execution is acknowledged once it is on the disk. False: once it is written, which survives
    kill -9; it is on the disk within a second."""

    log_executions_max: int = 100_000
    """Executions in the log before it is folded into a new snapshot: bounds disk space and start-up time."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})

    def __post_init__(self) -> None:
        _within("positiond", {"log_executions_max": (self.log_executions_max, 1, 10_000_000)})


POSITIOND = DaemonKind(
    "positiond",
    PositionSettings,
    frozenset({Mode.SINGLETON}),
    "hftd.daemons.positiond",
)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    sync: bool = False
    """True: a record is acknowledged once it is on the disk. False: once it is written, which survives
    kill -9; it is on the disk with the next head."""

    head_every_s: float = 1.0
    """The log, then its head, are synced at least this often and on stop, which bounds what a power cut may
    take."""

    file_bytes_max: int = 16 << 20
    """Size at which the next file is begun."""

    sign_every_s: float = 10.0
    """A head that has moved is signed this often, when a file is begun, after 9,000 records, and on stop. It
    costs a wait for the disk, and 370 bytes of audit.signatures: 3 MB a day at the default."""

    def __post_init__(self) -> None:
        _within(
            "auditd",
            {
                "head_every_s": (self.head_every_s, 0.01, 1.0),
                "sign_every_s": (self.sign_every_s, 0.01, 3600.0),
                "file_bytes_max": (self.file_bytes_max, 4096, 1 << 30),
            },
        )


AUDITD = DaemonKind("auditd", AuditSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.auditd")


# --- instruments --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstrumentTerms:
    """Reference data of one instrument, until a daemon of its own has it."""

    market: Literal["spot", "usdm", "cm"]
    symbol: str
    """In upper case, as the venue has it."""

    contract: Literal["spot", "linear", "inverse"]

    tick: str
    """Prices are whole multiples of it."""

    lot: str
    """Quantities are whole multiples of it. Where tick x lot is not whole in 1e-8, the instrument only feeds
    books: a fill could not be booked exactly."""

    contract_size: str = "1"
    """What one contract stands for, in the base currency (linear) or in the quote currency (inverse)."""

    def __post_init__(self) -> None:
        name = f"instruments {self.market}:{self.symbol}"
        _positive(name, tick=self.tick, lot=self.lot, contract_size=self.contract_size)


def _check_tape(settings: SimSettings) -> None:
    """What a capture's place says of its market, before anything is started with it."""
    _check_files(settings.tape, settings.instruments, settings.exchange_info)


def _check_market_files(settings: MarketSettings) -> None:
    _check_files(settings.files, settings.instruments, settings.exchange_info)


def _check_files(
    files: tuple[str, ...], instruments: tuple[InstrumentTerms, ...], exchange_info: tuple[str, ...]
) -> None:
    paths = [Path(file).expanduser() for file in files]
    here = [path for path in paths if path.exists()]  # the others may be on the host that the service runs on
    if here:
        from hftd.venues import reference, replay  # only for whoever starts it

        known = all(Path(path).exists() for path in exchange_info)
        replay.Tape(here, reference.of(instruments, exchange_info) if known else None)


# --- the venue ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SimSettings:
    tape: tuple[str, ...] = ()
    """Captures (files or folders), merged by receive time (`hftctl up --tape`). Empty: a synthetic market
    that never ends."""

    speed: Literal["1", "10", "max"] = "1"
    """Times the tape's own speed; `max`: as fast as marketd and bookd take it."""

    seed: int = 1
    """Of the synthetic market: same seed, same bytes."""

    instruments: tuple[InstrumentTerms, ...] = ()
    """Reference data of the tape's instruments. Where it or `exchange_info` names any, an instrument of the
    tape that neither names is refused. Without both, spot and USD-M are single units and COIN-M only feeds
    books."""

    exchange_info: tuple[str, ...] = ()
    """Files with the venue's answers to exchangeInfo, as recorded: the same for all of a market's symbols."""

    def __post_init__(self) -> None:
        _within("simd", {"seed": (self.seed, 0, (1 << 63) - 1)})


SIMD = DaemonKind("simd", SimSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.simd", check=_check_tape)


# --- market data --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarketSettings:
    feed: str = field(default="simd", metadata={"service": "simd"})
    """The venue whose lines are read."""

    files: tuple[str, ...] = ()
    """Capture files or folders to read instead of the feed, as fast as the readers' credit allows: for
    measuring without a venue."""

    instruments: tuple[InstrumentTerms, ...] = ()
    """Reference data of the instruments in `files`, as simd's settings have it of its tape."""

    exchange_info: tuple[str, ...] = ()
    """Files with the venue's answers to exchangeInfo, as recorded."""

    clock_offset_max_ms: float = 100.0
    """How far receive time may be before the venue's event time (median of a market) until an alarm says that
    a clock is wrong."""

    reader_silence_s: float = 3.0
    """A reader that gives credit says so each quarter second. When it has been silent for this long, it no
    longer holds the others back."""

    def __post_init__(self) -> None:
        _within(
            "marketd",
            {
                "clock_offset_max_ms": (self.clock_offset_max_ms, 1, 86_400_000),
                "reader_silence_s": (self.reader_silence_s, 1, 3600),
            },
        )


MARKETD = DaemonKind(
    "marketd",
    MarketSettings,
    frozenset({Mode.SINGLETON}),
    "hftd.daemons.marketd",
    hot=True,
    check=_check_market_files,
)


@dataclass(frozen=True, slots=True)
class BookSettings:
    market: str = field(default="marketd", metadata={"service": "marketd"})
    """The service whose messages are read."""

    credit_window: int = 4096
    """Messages that may be on their way to us: far more than a burst, and far fewer than would reach the
    high-water mark (which counts frames)."""

    bar_s: float = 1.0
    """Length of a bar, in receive time."""

    snapshot_retry_s: float = 0.5
    """A snapshot that was asked for and has not come in this time is asked for again."""

    def __post_init__(self) -> None:
        _within(
            "bookd",
            {
                # The publisher's high-water mark counts frames, of one message at least: beyond it credit
                # could not prevent a loss.
                "credit_window": (self.credit_window, 128, 4096),
                "bar_s": (self.bar_s, 0.001, 86_400),
                "snapshot_retry_s": (self.snapshot_retry_s, 0.01, 60),
            },
        )


BOOKD = DaemonKind("bookd", BookSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.bookd", hot=True)


# --- order management and execution -------------------------------------------------------------------------


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

    risk: str = field(default="riskd", metadata={"service": "riskd", "fence": True})
    execution: str = field(default="execd", metadata={"service": "execd", "fence": True})
    positions: str = field(default="positiond", metadata={"service": "positiond"})
    audit: str = field(default="auditd", metadata={"service": "auditd"})

    def __post_init__(self) -> None:
        _within(
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


OMSD = DaemonKind("omsd", OrdersSettings, frozenset({Mode.ACTIVE_STANDBY}), "hftd.daemons.omsd", hot=True)


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

    orders: str = field(default="omsd", metadata={"service": "omsd", "fence": True})
    venue: str = field(default="simd", metadata={"service": "simd"})

    def __post_init__(self) -> None:
        _within(
            "execd",
            {
                "orphan_s": (self.orphan_s, 0.6, 3600),
                "fence_retry_s": (self.fence_retry_s, 0.005, 10),
                "venue_keep_alive_s": (self.venue_keep_alive_s, 0.01, 60),
                "reports_max": (self.reports_max, 1_000, 10_000_000),
            },
        )


EXECD = DaemonKind(
    "execd", ExecutionSettings, frozenset({Mode.ACTIVE_STANDBY}), "hftd.daemons.execd", hot=True
)
