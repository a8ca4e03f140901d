"""Binance frames (spot, USD-M, COIN-M) to market messages and, for the simulated venue, back.

Depth diffs, bookTicker, trades, and REST depth snapshots; with the envelope of a combined stream, whose name
says what a frame is, or without, by the frame's own fields. Everything else that the venue sends (STREAMS,
EVENTS), and what is no trade of the market (BOOKINGS), is skipped and counted. Decoded into typed structs,
numbers taken from their text; a value that does not fit 1e-8 exactly, a frame of another symbol or another
shape is Undecodable. What the update ids mean: engine/market/book.py. Where native/market.c was built, it
decodes the plain frames, to the same messages; what it declines is decided here.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import msgspec

from controlplane.errors import InvalidInput
from hftd.engine import fixed
from hftd.engine.market import trade_ids
from hftd.native import market as native
from hftd.venues import base
from hftd.wire import market

MS = 1_000_000
US = 1_000
MICROSECONDS_FROM = 10**14
"""The venue's times are milliseconds, or microseconds for whoever asks (timeUnit=MICROSECOND). As
milliseconds this is the year 5138, as microseconds 1973."""
BOOKINGS = ("INSURANCE_FUND", "ADL", "NA")
"""What futures book among their trades, often far from the market: X of an entry that is not MARKET."""
STREAM_BYTES_MAX = 128
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
    e: str = "bookTicker"


class _Trade(msgspec.Struct, gc=False):
    E: int
    s: str
    t: int
    p: str
    q: str
    m: bool
    e: str = "trade"
    X: str = "MARKET"


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
    e: str = ""
    last: int | None = None
    data: msgspec.Raw = msgspec.Raw()
    u: msgspec.Raw = msgspec.Raw()
    B: msgspec.Raw = msgspec.Raw()
    A: msgspec.Raw = msgspec.Raw()


_decode_diff_frame = msgspec.json.Decoder(_DiffFrame).decode
_decode_ticker_frame = msgspec.json.Decoder(_TickerFrame).decode
_decode_trade_frame = msgspec.json.Decoder(_TradeFrame).decode
_decode_diff = msgspec.json.Decoder(_Diff).decode
_decode_ticker = msgspec.json.Decoder(_Ticker).decode
_decode_trade = msgspec.json.Decoder(_Trade).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_probe = msgspec.json.Decoder(_Probe).decode

_ID_MAX = (1 << 63) - 1
_SPAN_MAX = 1 << 32
"""Update ids of one diff, also from its predecessor's: a real one covers thousands. One diff with an id from
nowhere would make every later diff of its book stale, without a gap that somebody could see."""


class Normaliser:
    """For one instrument; an empty `symbol` accepts any. What it says of a frame depends on that frame alone;
    it keeps a memo of numbers, and counts for whoever asks.
    """

    def __init__(self, market: str, instrument: int = 0, symbol: str = "") -> None:
        self.market, self.instrument, self.symbol = market, instrument, symbol
        self.skipped: Counter[str] = Counter()
        """What it is -> frames without market data of ours."""
        self.trades = trade_ids.TradeIds()
        """Has the bookings, which come to nobody else; the trades themselves are given to it by whoever goes
        by their ids."""
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
            kind, enveloped = _kind(raw)
            if kind in _DECODED:
                return self._decoded(kind, enveloped, raw, receive_ns, origin_ns)
            if not kind:
                return base.Undecodable("unknown shape: neither depth, bookTicker, trade nor snapshot")
            if enveloped and not _whole(raw):
                return base.Undecodable(f"unknown shape: not what the stream of {kind} sends")
            self.skipped[kind] += 1
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return base.Undecodable(f"unknown shape: {exc}"[:REASON_MAX])
        except InvalidInput as exc:
            return base.Undecodable(str(exc)[:REASON_MAX])

    def _decoded(
        self, kind: str, enveloped: bool, raw: bytes, receive_ns: int, origin_ns: int
    ) -> market.Message | base.Undecodable | None:
        if kind == TICKER:
            return self._ticker(
                _decode_ticker_frame(raw).data if enveloped else _decode_ticker(raw), receive_ns, origin_ns
            )
        if kind == TRADE:
            return self._trade(
                _decode_trade_frame(raw).data if enveloped else _decode_trade(raw), receive_ns, origin_ns
            )
        if kind == DIFF:
            return self._diff(
                _decode_diff_frame(raw).data if enveloped else _decode_diff(raw), receive_ns, origin_ns
            )
        snapshot = _decode_snapshot(raw)
        bids, asks = self._levels(snapshot.bids), self._levels(snapshot.asks)
        return self._message(
            _SNAPSHOT, 0, receive_ns, snapshot.E, origin_ns, 0, snapshot.last, 0, 0, bids, asks
        )

    def _ticker(
        self, ticker: _Ticker, receive_ns: int, origin_ns: int
    ) -> market.Message | base.Undecodable | None:
        if self.symbol and ticker.s != self.symbol:
            return self._foreign(ticker.s)
        if ticker.e != "bookTicker":
            return base.Undecodable(f"unknown shape: {ticker.e[:40]!r} where a bookTicker is wanted")
        exact = self._exact
        bids, asks = [(exact[ticker.b], exact[ticker.B])], [(exact[ticker.a], exact[ticker.A])]
        return self._message(_TICKER, 0, receive_ns, ticker.E, origin_ns, 0, ticker.u, 0, 0, bids, asks)

    def _trade(
        self, trade: _Trade, receive_ns: int, origin_ns: int
    ) -> market.Message | base.Undecodable | None:
        if self.symbol and trade.s != self.symbol:
            return self._foreign(trade.s)
        if trade.e != "trade":
            return base.Undecodable(f"unknown shape: {trade.e[:40]!r} where a trade is wanted")
        booking = trade.X in BOOKINGS
        if not booking and trade.X != "MARKET":
            return base.Undecodable(f"a trade of the unknown kind X {trade.X[:40]!r}")
        flags = market.BUYER_IS_MAKER if trade.m else 0
        bids = [(self._exact[trade.p], self._exact[trade.q])]
        found = self._message(_TRADE, flags, receive_ns, trade.E, origin_ns, 0, 0, 0, trade.t, bids, [])
        if isinstance(found, market.Message) and (booking or not bids[0][0]):
            self.skipped["booking"] += 1
            self.trades.take(found.trade_or_bar, found.event_ns, trade.X)
            return None
        return found

    def _diff(self, diff: _Diff, receive_ns: int, origin_ns: int) -> market.Message | base.Undecodable | None:
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

    def _message(
        self,
        kind: int,
        flags: int,
        receive_ns: int,
        event: int,
        origin_ns: int,
        first: int,
        last: int,
        previous: int,
        trade: int,
        bids: list[tuple[int, int]],
        asks: list[tuple[int, int]],
    ) -> market.Message | base.Undecodable:
        event_ns = event * (MS if event < MICROSECONDS_FROM else US)
        if not (0 <= receive_ns <= market.TIME_NS_MAX and 0 <= event_ns <= market.TIME_NS_MAX):
            return base.Undecodable(f"a receive or event time before 1970 or after {market.TIME_MAX_TEXT}")
        if min(first, last, previous, trade) < 0 or max(first, last, previous, trade) > _ID_MAX:
            return base.Undecodable("unknown shape: an id is negative or, with its sign, over 64 bits")
        if len(bids) + len(asks) > market.LEVELS_MAX:
            return base.Undecodable(
                f"{len(bids) + len(asks)} levels; at most {market.LEVELS_MAX} are allowed"
            )
        return market.Message(
            self.instrument,
            kind,
            flags,
            receive_ns,
            event_ns,
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
DIFF, TICKER, TRADE, SNAPSHOT = "diff", "bookTicker", "trade", "snapshot"
_DECODED = {DIFF, TICKER, TRADE, SNAPSHOT}

# What a stream's name, without its symbol, says of its frames. Order matters nowhere: each is matched whole.
STREAMS = (
    (DIFF, r"depth(?:@\d{1,5}ms)?"),
    (TICKER, r"bookTicker"),
    (TRADE, r"trade"),
    # The best levels whole: on futures such a frame says depthUpdate and has U, u and pu, as a diff does.
    ("partial depth", r"depth\d{1,5}(?:@\d{1,5}ms)?"),
    # Another book, with the retail orders that the order book itself does not show.
    ("rpiDepth", r"rpiDepth(?:@\d{1,5}ms)?"),
    ("aggTrade", r"aggTrade"),
    ("blockTrade", r"blockTrade"),
    ("kline", r"(?:kline|continuousKline|markPriceKline|indexPriceKline)_\w+(?:@[+-]\d\d:\d\d)?"),
    ("markPrice", r"markPrice(?:@\ds)?"),
    ("indexPrice", r"indexPrice(?:@\ds)?"),
    ("forceOrder", r"forceOrder"),
    ("ticker", r"(?:ticker|miniTicker)(?:_\w+)?"),
    ("avgPrice", r"avgPrice"),
    ("referencePrice", r"referencePrice"),
    ("compositeIndex", r"compositeIndex"),
    ("assetIndex", r"assetIndex"),
    ("contractInfo", r"contractInfo"),
    ("tradingSession", r"tradingSession"),
)
EVENTS = {
    "depthUpdate": DIFF,
    "bookTicker": TICKER,
    "trade": TRADE,
    "aggTrade": "aggTrade",
    "kline": "kline",
    "continuous_kline": "kline",
    "markPrice_kline": "kline",
    "indexPrice_kline": "kline",
    "markPriceUpdate": "markPrice",
    "indexPriceUpdate": "indexPrice",
    "forceOrder": "forceOrder",
    "24hrTicker": "ticker",
    "24hrMiniTicker": "ticker",
    "1hTicker": "ticker",
    "4hTicker": "ticker",
    "1dTicker": "ticker",
    "avgPrice": "avgPrice",
    "compositeIndex": "compositeIndex",
    "assetIndexUpdate": "assetIndex",
    "contractInfo": "contractInfo",
}
"""The field e of a frame without the envelope of a combined stream."""
_STREAM = re.compile("|".join(f"(?P<k{n}>{pattern})" for n, (_, pattern) in enumerate(STREAMS)), re.ASCII)


@functools.lru_cache(maxsize=1024)
def _of_stream(name: str) -> str:
    """What the frames of this stream are; empty when nobody knows."""
    symbol, _, rest = name.partition("@")
    if symbol.startswith("!"):  # of all symbols at once: `!bookTicker`, `!ticker@arr`
        symbol, rest = "", symbol[1:]
    found = _STREAM.fullmatch(rest)
    if found is None or not (symbol or name.startswith("!")):
        return ""
    return STREAMS[int(str(found.lastgroup)[1:])][0]


def _kind(raw: bytes) -> tuple[str, bool]:
    """What a frame is, empty when it is of no kind that is known, and whether it is in an envelope."""
    if raw.startswith(b'{"stream":"'):
        end = raw.find(b'"', 11, STREAM_BYTES_MAX)
        name = raw[11:end]
        if end > 0 and b"\\" not in name:
            return _of_stream(name.decode()), True
    elif raw.startswith(b'{"lastUpdateId":'):
        return SNAPSHOT, False
    probe = _decode_probe(raw)
    if probe.stream:
        return _of_stream(probe.stream), True
    if probe.e:
        return EVENTS.get(probe.e, ""), False
    if probe.last is not None:
        return SNAPSHOT, False
    if bytes(probe.u) and bytes(probe.B) and bytes(probe.A):
        return TICKER, False  # spot's says no more of itself
    return ("answer" if b'"result"' in raw else ""), False


def _whole(raw: bytes) -> bool:
    """Has the frame of a stream that is skipped what it must have? One that is cut, or empty, is a bad
    line."""
    data = _decode_probe(raw).data
    if bytes(data)[:1] == b"[":
        return True
    probe = _decode_probe(data)
    return bool(probe.e) or probe.last is not None


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
