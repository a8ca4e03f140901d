"""Settings of strategyd and riskd."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from hftd.engine.orders.awaited import RiskBreaker
from hftd.settings import checked


@dataclass(frozen=True, slots=True)
class StrategySettings:
    strategy: Literal["market_making"] = field(default="market_making", metadata={"restart": True})
    """Which of hftd/strategies decides. Not live: another one knows nothing of the orders that work."""

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

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})
    risk: str = field(default="riskd", metadata={"service": "riskd"})
    positions: str = field(default="positiond", metadata={"service": "positiond"})

    def __post_init__(self) -> None:
        checked.positive(
            "strategyd",
            order_notional=self.order_notional,
            quantity_step=self.quantity_step,
            max_position=self.max_position,
        )
        checked.within(
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
    "strategyd", StrategySettings, frozenset({Mode.SINGLETON}), "hftd.daemons.strategyd", live=True, hot=True
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

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})
    positions: str = field(default="positiond", metadata={"service": "positiond"})

    def __post_init__(self) -> None:
        checked.positive("riskd", max_position=self.max_position, max_order_size=self.max_order_size)
        checked.within(
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
    live=True,
    hot=True,
)
