"""Frames of Binance become exact messages; what is not one is a value that says why."""

from __future__ import annotations

import pytest

from hftd.venues import base, binance
from hftd.wire import market
from hftd.wire.market import Kind

pytestmark = pytest.mark.usefixtures("decoder")

SPOT_DIFF = (
    b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1723161255208,"s":"BTCUSDT","U":50093239189,"u":50093239202,'
    b'"b":[["61737.63000000","0.00000000"],["56854.58000000","0.00100000"]],"a":[["61837.64000000","1.54698000"]]}}'
)
FUTURES_DIFF = (
    b'{"stream":"btcusdt@depth@0ms","data":{"e":"depthUpdate","E":1723161256299,"T":1723161256298,"s":"BTCUSDT","U":5123107832006,'
    b'"u":5123107837557,"pu":5123107831937,"b":[["58710.20","0.014"]],"a":[]}}'
)
SPOT_TICKER = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000","B":"3.78826000",'
    b'"a":"61837.64000000","A":"1.54698000"}}'
)
COINM_TICKER = (
    b'{"stream":"btcusd_perp@bookTicker","data":{"u":1007198632021,"e":"bookTicker","s":"BTCUSD_PERP","ps":"BTCUSD","b":"61804.7","B":"35",'
    b'"a":"61804.8","A":"1645","T":1723161257465,"E":1723161257476}}'
)
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5266583935,"p":"61800.30","q":"0.006",'
    b'"X":"MARKET","m":true}}'
)
SNAPSHOT = (
    b'{"lastUpdateId":5123107852948,"E":1723161256501,"T":1723161256493,'
    b'"bids":[["61800.20","2.909"]],"asks":[["61800.30","1"],["61800.40","2"]]}'
)


def message(raw: bytes, market_name: str = "spot", symbol: str = "") -> market.Message:
    found = binance.Normaliser(market_name, 3, symbol)(raw, 1_000, 2_000)
    assert isinstance(found, market.Message), found
    return found


def reason(raw: bytes, symbol: str = "") -> str:
    found = binance.Normaliser("spot", 3, symbol)(raw, 1_000, 2_000)
    assert isinstance(found, base.Undecodable), found
    return found.reason


def test_a_spot_diff() -> None:
    bids, asks = [(6173763000000, 0), (5685458000000, 100000)], [(6183764000000, 154698000)]
    assert message(SPOT_DIFF) == market.Message(
        3, Kind.DIFF, 0, 1_000, 1723161255208_000_000, 2_000, 50093239189, 50093239202, 0, 0, bids, asks
    )


def test_a_futures_diff_names_its_predecessor() -> None:
    found = message(FUTURES_DIFF)
    assert (found.first, found.last, found.previous) == (5123107832006, 5123107837557, 5123107831937)
    assert found.bids == [(5871020000000, 1400000)] and found.asks == []


def test_a_spot_ticker_has_no_event_time() -> None:
    found = message(SPOT_TICKER)
    assert (found.kind, found.last, found.event_ns) == (Kind.TICKER, 50093239212, 0)
    assert (found.bids, found.asks) == ([(6183763000000, 378826000)], [(6183764000000, 154698000)])


def test_a_coin_m_ticker() -> None:
    found = message(COINM_TICKER, symbol="BTCUSD_PERP")
    assert (found.event_ns, found.bids) == (1723161257476_000_000, [(6180470000000, 3500000000)])


def test_a_trade_says_who_was_the_maker() -> None:
    found = message(TRADE)
    assert (found.kind, found.flags, found.trade_or_bar, found.bids) == (
        Kind.TRADE,
        market.BUYER_IS_MAKER,
        5266583935,
        [(6180030000000, 600000)],
    )
    assert message(TRADE.replace(b'"m":true', b'"m":false')).flags == 0


def test_a_snapshot() -> None:
    found = message(SNAPSHOT)
    assert (found.kind, found.last, found.event_ns) == (Kind.SNAPSHOT, 5123107852948, 1723161256501_000_000)
    assert (found.bids, found.asks) == (
        [(6180020000000, 290900000)],
        [(6180030000000, 100000000), (6180040000000, 200000000)],
    )


def test_keys_in_another_order_and_spaces_mean_the_same() -> None:
    assert (
        message(b'{ "data": {"u":5,"s":"X","b":"1","B":"2","a":"3","A":"4"}, "stream": "x@bookTicker" }').last
        == 5
    )
    assert message(b'{"bids":[],"asks":[],"lastUpdateId":9}').kind == Kind.SNAPSHOT


DIFF_STREAMS = ("depth", "depth@0ms", "depth@100ms", "depth@250ms", "depth@500ms", "depth@1000ms")
PACES = ("", "@100ms", "@250ms", "@500ms", "@1000ms")
OTHER_STREAMS = (
    *(f"depth{levels}{pace}" for levels in (5, 10, 20) for pace in PACES),
    *(f"{kind}_1m" for kind in ("kline", "continuousKline", "markPriceKline", "indexPriceKline")),
    *("kline_1M", "kline_1h@+08:00", "markPrice", "markPrice@1s", "indexPrice", "indexPrice@1s"),
    *("aggTrade", "blockTrade", "forceOrder", "avgPrice", "referencePrice", "rpiDepth@500ms"),
    *("ticker", "miniTicker", "ticker_1h", "ticker_4h", "ticker_1d"),
    *("compositeIndex", "assetIndex", "contractInfo", "tradingSession"),
)
ALL_STREAMS = ("!miniTicker@arr", "!ticker@arr", "!markPrice@arr", "!markPrice@arr@1s", "!forceOrder@arr")


@pytest.mark.parametrize("stream", DIFF_STREAMS)
def test_a_diff_is_told_by_the_whole_name_of_its_stream(stream: str) -> None:
    assert message(FUTURES_DIFF.replace(b"depth@0ms", stream.encode())).kind == Kind.DIFF


@pytest.mark.parametrize("stream", OTHER_STREAMS)
def test_what_other_streams_send_is_skipped_and_counted_whatever_it_looks_like(stream: str) -> None:
    normalise = binance.Normaliser("usdm", 3, "BTCUSDT")
    for looks in (FUTURES_DIFF, SPOT_DIFF, TRADE, COINM_TICKER):
        name = looks.split(b'"')[3]
        assert normalise(looks.replace(name, b"btcusdt@" + stream.encode()), 1) is None
    assert normalise.skipped.total() == 4
    assert isinstance(
        normalise(b'{"stream":"btcusdt@%s","data":{"e":"x"' % stream.encode(), 1), base.Undecodable
    )


@pytest.mark.parametrize("stream", ALL_STREAMS)
def test_the_streams_of_all_symbols_are_skipped(stream: str) -> None:
    assert binance.Normaliser("usdm")(b'{"stream":"%s","data":[{"e":"x"}]}' % stream.encode(), 1) is None


def test_the_best_quotes_of_all_symbols_are_quotes() -> None:
    assert message(COINM_TICKER.replace(b"btcusd_perp@bookTicker", b"!bookTicker")).kind == Kind.TICKER


@pytest.mark.parametrize(
    "stream",
    ["depth@", "depth@100", "depth@100msx", "deal", "bookTickers", "trades", "depth5x", "", "tr", "@trade"],
)
def test_a_stream_that_nobody_knows_is_a_bad_line(stream: str) -> None:
    for looks in (FUTURES_DIFF, TRADE, SPOT_TICKER):
        name = looks.split(b'"')[3]
        assert reason(looks.replace(name, b"btcusdt@" + stream.encode()))


@pytest.mark.parametrize("stream", [b"btcusdt@trade", b"btcusdt@bookTicker", b"btcusdt@depth@100ms"])
def test_a_frame_that_says_of_itself_that_it_is_another_is_a_bad_line(stream: bytes) -> None:
    for looks in (TRADE, COINM_TICKER, FUTURES_DIFF):
        name = looks.split(b'"')[3]
        if name.split(b"@")[1] != stream.split(b"@")[1]:
            assert reason(looks.replace(name, stream))
    assert reason(TRADE.replace(b'"e":"trade"', b'"e":"aggTrade"'))
    assert reason(COINM_TICKER.replace(b'"e":"bookTicker"', b'"e":"24hrTicker"'))


@pytest.mark.parametrize("raw", [SPOT_DIFF, FUTURES_DIFF, SPOT_TICKER, COINM_TICKER, TRADE])
def test_a_frame_without_envelope_means_the_same(raw: bytes) -> None:
    assert message(raw[raw.index(b'"data":') + 7 : -1]) == message(raw)


def test_other_kinds_without_envelope_are_skipped_and_counted() -> None:
    normalise = binance.Normaliser("usdm")
    for event in ("aggTrade", "kline", "markPriceUpdate", "forceOrder", "24hrTicker", "24hrMiniTicker"):
        assert normalise(b'{"e":"%s","E":1,"s":"X"}' % event.encode(), 1) is None
    assert normalise.skipped == {"aggTrade": 1, "kline": 1, "markPrice": 1, "forceOrder": 1, "ticker": 2}
    assert isinstance(normalise(b'{"e":"news","E":1}', 1), base.Undecodable)


def test_the_answer_to_a_subscription_is_nothing_for_us() -> None:
    assert binance.Normaliser("spot")(b'{"result":null,"id":1}', 0) is None


def test_a_booking_at_price_zero_is_no_trade() -> None:
    assert binance.Normaliser("usdm")(TRADE.replace(b"61800.30", b"0"), 0) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"0.000000001", "8 decimal places"),
        (b"99999999999999", "decimal"),
        (b"999999999999", "64 bits"),
        (b"1e5", "decimal"),
        (b"-1", "negative"),
        (b"+1", "decimal"),
        (b"1_0", "decimal"),
        (b" 1", "decimal"),
        (b"nan", "decimal"),
        (b"", "decimal"),
        ("٣".encode(), "decimal"),
    ],
)
def test_a_value_that_does_not_fit_exactly_is_refused(text: bytes, why: str) -> None:
    assert why in reason(TRADE.replace(b'"0.006"', b'"' + text + b'"'))


def test_trailing_zeros_beyond_eight_places_fit() -> None:
    assert message(TRADE.replace(b"0.006", b"0.0060000000000")).bids[0][1] == 600000


def test_numbers_that_are_json_numbers_are_refused_for_they_would_be_floats() -> None:
    assert "unknown shape" in reason(TRADE.replace(b'"61800.30"', b"61800.30"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"stream":"btcusdt@trade","data":{}}',
        b'{"stream":"btcusdt@kline_1m","data":{}}',
        b'{"stream":"btcusdt","data":{}}',
        b'{"a":1}',
        b'{"stream":"\xff@trade"}',
        SPOT_DIFF[:-30],
        SPOT_DIFF.replace(b'["61737.63000000","0.00000000"]', b'["61737.63000000"]'),
        SPOT_DIFF.replace(b'["61737.63000000","0.00000000"]', b'["1","2","3"]'),
        SPOT_DIFF.replace(b"61737.63000000", b"0.00"),
        SPOT_DIFF.replace(b'"u":50093239202', b'"u":1'),
        SPOT_DIFF.replace(b'"u":50093239202', b'"u":-1'),
        SPOT_DIFF.replace(b'"E":1723161255208', b'"E":99999999999999999'),
        b"[" * 100_000,
    ],
)
def test_another_shape_is_a_value_not_an_exception(raw: bytes) -> None:
    assert reason(raw)


def test_a_frame_of_another_symbol_is_refused() -> None:
    assert "ETHUSDT" in reason(TRADE, symbol="ETHUSDT")


def test_too_many_levels_are_refused() -> None:
    levels = ",".join(f'["{price}","1"]' for price in range(1, market.LEVELS_MAX + 2)).encode()
    assert "levels" in reason(b'{"lastUpdateId":1,"bids":[' + levels + b'],"asks":[]}')


def test_the_memo_of_numbers_is_bounded() -> None:
    numbers = base.Numbers()
    numbers.SIZE_MAX = 10
    assert [numbers[str(n)] for n in range(100)] == [n * 10**8 for n in range(100)] and len(numbers) <= 10


def test_what_the_simulated_venue_writes_reads_back() -> None:
    bids, asks = [(6180020000000, 290900000), (1, 1)], [(6180030000000, 0)]
    assert message(binance.snapshot(9, bids, asks))[-3:-1] == (bids, asks)
    found = message(binance.diff("BTCUSDT", 5, 7, 8, bids, asks), symbol="BTCUSDT")
    assert (found.first, found.last, found.bids, found.asks, found.event_ns) == (7, 8, bids, asks, 5_000_000)
    found = message(binance.ticker("BTCUSDT", 6, (10, 1, 11, 2)), symbol="BTCUSDT")
    assert (found.last, found.bids, found.asks) == (6, [(10, 1)], [(11, 2)])
    found = message(binance.trade("BTCUSDT", 5, 77, 10, 1, buyer_is_maker=True), symbol="BTCUSDT")
    assert (found.trade_or_bar, found.flags, found.bids) == (77, market.BUYER_IS_MAKER, [(10, 1)])
