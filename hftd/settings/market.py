"""Settings of the venue and of market data: simd, marketd and bookd."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from hftd.settings import checked


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
        checked.positive(name, tick=self.tick, lot=self.lot, contract_size=self.contract_size)


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


@dataclass(frozen=True, slots=True)
class SimSettings:
    tape: tuple[str, ...] = field(default=(), metadata={"restart": True})
    """Captures (files or folders), merged by receive time (`hftctl up --tape`). Empty: a synthetic market
    that never ends. Not live: another tape is another market, and books and orders are of the old one."""

    speed: Literal["1", "10", "max"] = "1"
    """Times the tape's own speed; `max`: as fast as marketd and bookd take it."""

    seed: int = field(default=1, metadata={"restart": True})
    """Of the synthetic market: same seed, same bytes. Not live: another seed is another market, and books and
    orders are of the old one."""

    instruments: tuple[InstrumentTerms, ...] = field(default=(), metadata={"restart": True})
    """Reference data of the tape's instruments. Where it or `exchange_info` names any, an instrument of the
    tape that neither names is refused. Without both, spot and USD-M are single units and COIN-M only feeds
    books. Not live: books and accounts are kept in these units."""

    exchange_info: tuple[str, ...] = field(default=(), metadata={"restart": True})
    """Files with the venue's answers to exchangeInfo, as recorded: the same for all of a market's symbols.
    Not live: books and accounts are kept in these units."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    def __post_init__(self) -> None:
        checked.within("simd", {"seed": (self.seed, 0, (1 << 63) - 1)})


SIMD = DaemonKind(
    "simd", SimSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.simd", live=True, check=_check_tape
)


@dataclass(frozen=True, slots=True)
class MarketSettings:
    feed: str = field(default="simd", metadata={"service": "simd"})
    """The venue whose lines are read."""

    files: tuple[str, ...] = field(default=(), metadata={"restart": True})
    """Capture files or folders to read instead of the feed, as fast as the readers' credit allows: for
    measuring without a venue. Not live: they are opened once, and read to their end."""

    instruments: tuple[InstrumentTerms, ...] = field(default=(), metadata={"restart": True})
    """Reference data of the instruments in `files`, as simd's settings have it of its tape. Not live: books
    are kept in these units."""

    exchange_info: tuple[str, ...] = field(default=(), metadata={"restart": True})
    """Files with the venue's answers to exchangeInfo, as recorded. Not live: books are in these units."""

    clock_offset_max_ms: float = 100.0
    """How far receive time may be before the venue's event time (median of a market) until an alarm says that
    a clock is wrong."""

    reader_silence_s: float = 3.0
    """A reader that gives credit says so each quarter second. When it has been silent for this long, it no
    longer holds the others back."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    def __post_init__(self) -> None:
        checked.within(
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
    live=True,
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

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    def __post_init__(self) -> None:
        checked.within(
            "bookd",
            {
                # The publisher's high-water mark counts frames, of one message at least: beyond it credit
                # could not prevent a loss.
                "credit_window": (self.credit_window, 128, 4096),
                "bar_s": (self.bar_s, 0.001, 86_400),
                "snapshot_retry_s": (self.snapshot_retry_s, 0.01, 60),
            },
        )


BOOKD = DaemonKind(
    "bookd", BookSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.bookd", live=True, hot=True
)
