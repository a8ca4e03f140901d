"""What an instrument is, as reference data says it: its contract, what one contract stands for, tick and lot.

Until there is a reference-data daemon it comes from settings (`instruments`) or from the venue's own answer
to exchangeInfo, recorded in a file. A tape that is given any has no instrument without it. What follows from
it for trading: wire/requests.py, `Instrument.untradable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from controlplane.errors import InvalidInput
from hftd.engine import fixed

INFO_BYTES_MAX = 64 << 20
"""An answer of a venue with thousands of symbols is below 20 MB."""


class Terms(NamedTuple):
    """Units of 1e-8."""

    contract: str
    """spot, linear or inverse."""
    contract_size: int
    tick: int
    lot: int

    @property
    def booked_as(self) -> str:
        """The contract as Instrument.contract says it: what can be traded, or why it cannot."""
        if self.contract == "inverse":
            return self.contract
        if self.contract_size != fixed.UNIT:
            return "sized"
        return "inexact" if self.tick * self.lot % fixed.UNIT else self.contract


Reference = Mapping[tuple[str, str], Terms]
"""(market, symbol) -> terms."""


class AsSet(Protocol):
    """An entry of the setting `instruments`: decimals as text."""

    @property
    def market(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def contract(self) -> str: ...
    @property
    def contract_size(self) -> str: ...
    @property
    def tick(self) -> str: ...
    @property
    def lot(self) -> str: ...


class _Filter(msgspec.Struct, gc=False):
    filterType: str
    tickSize: str = ""
    stepSize: str = ""


class _Symbol(msgspec.Struct, gc=False):
    symbol: str
    filters: list[_Filter]
    contractType: str | None = None
    contractSize: int | None = None


class _ExchangeInfo(msgspec.Struct, gc=False):
    symbols: list[_Symbol]


_decode_info = msgspec.json.Decoder(_ExchangeInfo).decode


def of(instruments: Sequence[AsSet], exchange_info: Sequence[str]) -> Reference:
    """All that the settings name; those of `instruments` go before what a file says.

    Raises:
        InvalidInput: a file cannot be read or is no exchangeInfo, or a number does not fit.
    """
    found: dict[tuple[str, str], Terms] = {}
    for path in exchange_info:
        found |= recorded(Path(path))
    for one in instruments:
        numbers = map(fixed.parse, (one.contract_size, one.tick, one.lot))
        found[one.market, one.symbol] = Terms(one.contract, *numbers)
    return found


def recorded(path: Path) -> Reference:
    """A recorded answer to exchangeInfo, of any of the three markets: which one, its symbols show. COIN-M's
    say what a contract stands for, USD-M's that they are contracts, spot's neither.
    """
    try:
        if path.stat().st_size > INFO_BYTES_MAX:
            raise InvalidInput(f"{path}: over {INFO_BYTES_MAX} bytes are no exchangeInfo")
        info = _decode_info(path.read_bytes())
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"{path}: not an exchangeInfo of Binance: {exc}") from exc
    found: dict[tuple[str, str], Terms] = {}
    for one in info.symbols:
        tick = next((each.tickSize for each in one.filters if each.filterType == "PRICE_FILTER"), "")
        lot = next((each.stepSize for each in one.filters if each.filterType == "LOT_SIZE"), "")
        try:
            units = fixed.parse(tick), fixed.parse(lot)
        except InvalidInput as exc:
            raise InvalidInput(f"{path}: {one.symbol[:40]!r}: tick or lot: {exc}") from exc
        if one.contractSize is not None:
            found["cm", one.symbol] = Terms("inverse", one.contractSize * fixed.UNIT, *units)
        elif one.contractType is not None:
            found["usdm", one.symbol] = Terms("linear", fixed.UNIT, *units)
        else:
            found["spot", one.symbol] = Terms("spot", fixed.UNIT, *units)
    return found
