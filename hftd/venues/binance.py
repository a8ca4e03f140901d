"""Binance frames (spot, USD-M, COIN-M; combined streams) to market messages and, for the simulated venue,
back.

Depth diffs, bookTicker, trades, and REST depth snapshots. Decoded into typed structs, numbers taken from
their text; a value that does not fit 1e-8 exactly, a frame of another symbol or another shape is Undecodable.
What the update ids mean: engine/market/book.py. Where native/market.c was built, it decodes the plain frames,
to the same messages; what it declines is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import msgspec

from controlplane.errors import InvalidInput
from hftd.engine import fixed
from hftd.native import market as native
from hftd.venues import base
from hftd.wire import market

MS = 1_000_000
REASON_MAX = 200
"""Characters: what is quoted in a reason comes from outside."""

Levels = list[tuple[str, str]]


class _Diff(msgspec.Struct, gc=False):
    E: int
    s: str
    U: int
    u: int
    b: Levels
    a: Levels
    e: str
    pu: int = 0


class _Ticker(msgspec.Struct, gc=False):
    u: int
    s: str
    b: str
    B: str
    a: str
    A: str
    E: int = 0


class _Trade(msgspec.Struct, gc=False):
    E: int
    s: str
    t: int
    p: str
    q: str
    m: bool


class _DiffFrame(msgspec.Struct, gc=False):
    data: _Diff


class _TickerFrame(msgspec.Struct, gc=False):
    data: _Ticker


class _TradeFrame(msgspec.Struct, gc=False):
    data: _Trade


class _Snapshot(msgspec.Struct, gc=False, rename={"last": "lastUpdateId"}):
    last: int
    bids: Levels
    asks: Levels
    E: int = 0


class _Probe(msgspec.Struct, gc=False, rename={"last": "lastUpdateId"}):
    """Just enough to tell what a frame is when its first bytes do not."""

    stream: str = ""
    last: int | None = None
    data: msgspec.Raw = msgspec.Raw()


_decode_diff = msgspec.json.Decoder(_DiffFrame).decode
_decode_ticker = msgspec.json.Decoder(_TickerFrame).decode
_decode_trade = msgspec.json.Decoder(_TradeFrame).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_probe = msgspec.json.Decoder(_Probe).decode

_ID_MAX = (1 << 63) - 1
_SPAN_MAX = 1 << 32
"""Update ids of one diff, also from its predecessor's: a real one covers thousands. One diff with an id from
nowhere would make every later diff of its book stale, without a gap that somebody could see."""
_EVENT_MS_MAX = market.TIME_NS_MAX // MS


class Normaliser:
    """For one instrument; an empty `symbol` accepts any. Keeps the memo of numbers and nothing else."""

    def __init__(self, market: str, instrument: int = 0, symbol: str = "") -> None:
        self.market, self.instrument, self.symbol = market, instrument, symbol
        self._exact = base.Numbers()

    def __repr__(self) -> str:
        return f"<binance.Normaliser {self.market}:{self.symbol or '*'}>"

    def __call__(
        self, raw: bytes, receive_ns: int, origin_ns: int = 0
    ) -> market.Message | base.Undecodable | None:
        if native.normalise is not None:
            found = native.normalise(raw, self.symbol, self.instrument, receive_ns, origin_ns, market.Message)
            if found is not None:
                return found
        return self._in_python(raw, receive_ns, origin_ns)

    def packed(
        self, raw: bytes, receive_ns: int, origin_ns: int
    ) -> tuple[int, int, bytes] | base.Undecodable | None:
        if native.pack_line is not None:
            found = native.pack_line(raw, self.symbol, self.instrument, receive_ns, origin_ns)
            if found is not None:
                return found
        message = self._in_python(raw, receive_ns, origin_ns)
        return (
            (message.kind, message.event_ns, market.pack(message))
            if isinstance(message, market.Message)
            else message
        )

    def _in_python(
        self, raw: bytes, receive_ns: int, origin_ns: int
    ) -> market.Message | base.Undecodable | None:
        """The twin of native/market.c, and the arbiter of whatever is not plain."""
        try:
            # {"stream":"btcusdt@trade", ...: two letters after the @ tell the kind without decoding twice.
            kind = (
                raw[raw.find(b"@", 11, 64) + 1 :][:2]
                if raw.startswith(b'{"stream":"')
                else b""
                if not raw.startswith(b'{"lastUpdateId":')
                else b"sn"
            )
            return self._decoded(kind or _probe(raw), raw, receive_ns, origin_ns)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return base.Undecodable(f"unknown shape: {exc}"[:REASON_MAX])
        except InvalidInput as exc:
            return base.Undecodable(str(exc)[:REASON_MAX])

    def _decoded(
        self, kind: bytes, raw: bytes, receive_ns: int, origin_ns: int
    ) -> market.Message | base.Undecodable | None:
        exact = self._exact
        if kind == b"bo":
            ticker = _decode_ticker(raw).data
            if self.symbol and ticker.s != self.symbol:
                return self._foreign(ticker.s)
            bids, asks = [(exact[ticker.b], exact[ticker.B])], [(exact[ticker.a], exact[ticker.A])]
            return self._message(_TICKER, 0, receive_ns, ticker.E, origin_ns, 0, ticker.u, 0, 0, bids, asks)
        if kind == b"tr":
            trade = _decode_trade(raw).data
            if self.symbol and trade.s != self.symbol:
                return self._foreign(trade.s)
            flags = market.BUYER_IS_MAKER if trade.m else 0
            bids = [(exact[trade.p], exact[trade.q])]
            if not bids[0][0]:
                return None  # futures report insurance fund and liquidation bookings as trades at price 0
            return self._message(_TRADE, flags, receive_ns, trade.E, origin_ns, 0, 0, 0, trade.t, bids, [])
        if kind == b"de":
            diff = _decode_diff(raw).data
            if self.symbol and diff.s != self.symbol:
                return self._foreign(diff.s)
            if diff.e != "depthUpdate" or diff.u < diff.U:
                reason = f"unknown shape: depth diff {diff.e[:40]!r} from {diff.U} to {diff.u}"
                return base.Undecodable(reason[:REASON_MAX])
            if diff.u - diff.U > _SPAN_MAX or (diff.pu and diff.u - diff.pu > _SPAN_MAX):
                return base.Undecodable(
                    f"update ids from {diff.pu or diff.U} to {diff.u}: too many for one diff"[:REASON_MAX]
                )
            return self._message(
                _DIFF,
                0,
                receive_ns,
                diff.E,
                origin_ns,
                diff.U,
                diff.u,
                diff.pu,
                0,
                self._levels(diff.b),
                self._levels(diff.a),
            )
        if kind == b"sn":
            snapshot = _decode_snapshot(raw)
            bids, asks = self._levels(snapshot.bids), self._levels(snapshot.asks)
            return self._message(
                _SNAPSHOT, 0, receive_ns, snapshot.E, origin_ns, 0, snapshot.last, 0, 0, bids, asks
            )
        if kind == b"no":
            return None
        return base.Undecodable("unknown shape: neither depth, bookTicker, trade nor snapshot")

    def _message(
        self,
        kind: int,
        flags: int,
        receive_ns: int,
        event_ms: int,
        origin_ns: int,
        first: int,
        last: int,
        previous: int,
        trade: int,
        bids: list[tuple[int, int]],
        asks: list[tuple[int, int]],
    ) -> market.Message | base.Undecodable:
        if not (0 <= receive_ns <= market.TIME_NS_MAX and 0 <= event_ms <= _EVENT_MS_MAX):
            return base.Undecodable(f"a receive or event time before 1970 or after {market.TIME_MAX_TEXT}")
        if min(first, last, previous, trade) < 0 or max(first, last, previous, trade) > _ID_MAX:
            return base.Undecodable("unknown shape: an id is negative or over 63 bits")
        if len(bids) + len(asks) > market.LEVELS_MAX:
            return base.Undecodable(
                f"{len(bids) + len(asks)} levels; at most {market.LEVELS_MAX} are allowed"
            )
        return market.Message(
            self.instrument,
            kind,
            flags,
            receive_ns,
            event_ms * MS,
            origin_ns,
            first,
            last,
            previous,
            trade,
            bids,
            asks,
        )

    def _levels(self, levels: Levels) -> list[tuple[int, int]]:
        flat = [*map(self._exact.__getitem__, chain.from_iterable(levels))]
        prices = flat[::2]
        if 0 in prices:
            raise InvalidInput("a level at price 0")
        return [*zip(prices, flat[1::2], strict=True)]

    def _foreign(self, symbol: str) -> base.Undecodable:
        return base.Undecodable(f"symbol {symbol[:40]!r} on the stream of {self.symbol!r}")


_DIFF, _SNAPSHOT, _TICKER, _TRADE = (
    int(market.Kind.DIFF),
    int(market.Kind.SNAPSHOT),
    int(market.Kind.TICKER),
    int(market.Kind.TRADE),
)
_KINDS = {"trade": b"tr", "bookTicker": b"bo", "depth": b"de"}


def _probe(raw: bytes) -> bytes:
    probe = _decode_probe(raw)
    if probe.last is not None:
        return b"sn"
    if not probe.stream:
        return b"no" if b'"result"' in raw else b""
    return _KINDS.get(probe.stream.partition("@")[2].partition("@")[0], b"")


# --- the other way: what a simulated venue sends ------------------------------------------------------------


def snapshot(last: int, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> bytes:
    """A REST depth snapshot of these (price, quantity) levels, given best first."""
    return b'{"lastUpdateId":%d,"bids":[%s],"asks":[%s]}' % (last, _levels_text(bids), _levels_text(asks))


def diff(
    symbol: str,
    event_ms: int,
    first: int,
    last: int,
    bids: Iterable[tuple[int, int]],
    asks: Iterable[tuple[int, int]],
) -> bytes:
    """A spot depth diff."""
    head = (
        f'{{"stream":"{symbol.lower()}@depth@100ms","data":{{"e":"depthUpdate","E":{event_ms},'
        f'"s":"{symbol}","U":{first},"u":{last},'
    )
    return head.encode() + b'"b":[%s],"a":[%s]}}' % (_levels_text(bids), _levels_text(asks))


def ticker(symbol: str, update: int, best: tuple[int, int, int, int]) -> bytes:
    """A spot bookTicker of (bid price, bid quantity, ask price, ask quantity); it carries no event time."""
    bid, bid_quantity, ask, ask_quantity = map(fixed.text, best)
    head = f'{{"stream":"{symbol.lower()}@bookTicker","data":{{"u":{update},"s":"{symbol}",'
    return f'{head}"b":"{bid}","B":"{bid_quantity}","a":"{ask}","A":"{ask_quantity}"}}}}'.encode()


def trade(
    symbol: str, event_ms: int, number: int, price: int, quantity: int, *, buyer_is_maker: bool
) -> bytes:
    """A spot trade."""
    head = (
        f'{{"stream":"{symbol.lower()}@trade","data":{{"e":"trade","E":{event_ms},'
        f'"s":"{symbol}","t":{number},'
    )
    amounts = f'"p":"{fixed.text(price)}","q":"{fixed.text(quantity)}"'
    return f'{head}{amounts},"T":{event_ms},"m":{"true" if buyer_is_maker else "false"},"M":true}}}}'.encode()


def _levels_text(levels: Iterable[tuple[int, int]]) -> bytes:
    text = fixed.text
    return ",".join([f'["{text(price)}","{text(quantity)}"]' for price, quantity in levels]).encode()
